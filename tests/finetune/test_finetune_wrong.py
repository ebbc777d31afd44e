"""What fine-tuning refuses, in words that say what to change, and what it only counts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clips import SMALL, openclip_clip
from safetensors.torch import load_file, save_file
from tuning import QUICK, coloured, small_clip

from t2i_pipelines.errors import CheckpointError, ConfigError, FinetuneError, SourceError, UnknownModelError
from t2i_pipelines.finetune import FinetuneOptions, finetune
from t2i_pipelines.testing import COLOURS


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return small_clip(tmp_path_factory.mktemp("start") / "clip")


@pytest.fixture
def pairs(tmp_path) -> list[tuple[str, str]]:
    return coloured(tmp_path / "pictures")


@pytest.fixture
def tune(start, pairs, tmp_path):
    def tuned(given=None, **options):
        settings = {**QUICK, "model_name": str(start), "output_dir": tmp_path / "tuned", **options}
        return finetune(pairs if given is None else given, **settings)

    return tuned


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": "head"}, r"train must be one of 'all', 'image', 'text', 'heads', got 'head'"),
        ({"augment": "flip"}, r"augment must be one of 'none', 'crop', 'crop\+flip', got 'flip'"),
        ({"epochs": 0}, r"epochs must be between 1 and"),
        ({"batch_size": 1}, r"batch_size must be between 2 and 65536, got 1"),
        ({"learning_rate": 0}, r"learning_rate must be more than 0, got 0"),
        ({"learning_rate": float("nan")}, r"learning_rate must be more than 0, got nan"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm must be more than 0, got -1\.0"),
        ({"weight_decay": "no"}, r"weight_decay must be at least 0, got 'no'"),
        ({"alpha": 1.5}, r"alpha must be a number from 0 to 1, got 1\.5"),
        ({"warmup_ratio": -0.1}, r"warmup_ratio must be a number from 0 to 1, got -0\.1"),
        ({"patience": 0}, r"patience must be between 1 and"),
        ({"seed": -1}, r"seed must be between 0 and"),
        ({"resume": "yes"}, r"resume must be True or False, got 'yes'"),
        ({"precision": "int8"}, r"precision must be one of 'auto', 'fp32', 'bf16', got 'int8'"),
        ({"lr": 1.0}, r"unknown setting lr; known settings are train, epochs,"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_read(options, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        finetune("nowhere", output_dir=tmp_path / "tuned", **options)
    assert not (tmp_path / "tuned").exists()


def test_the_defaults_are_options():
    assert FinetuneOptions.of() == FinetuneOptions()


def test_no_pairs_and_no_pictures_are_told(tune, pairs):
    with pytest.raises(SourceError, match=r"pairs holds no pair of an image and a text"):
        tune([])
    with pytest.raises(SourceError, match=r"12 images can be read.*the first: cannot read image .*gone-0"):
        tune([(f"/gone-{number}.png", f"a {number}") for number in range(12)])


def test_too_few_pictures_to_hold_some_out_are_counted(tune, pairs):
    with pytest.raises(SourceError, match=r"9 different images are too few to hold 10% out.*by valid"):
        tune(pairs[:9])
    assert tune(pairs[:9], validation=pairs[20:]).images == 9


def test_one_caption_for_all_is_refused(tune, pairs):
    with pytest.raises(SourceError, match=r"only one caption to learn from, and nothing to tell it from"):
        tune([(path, "an image") for path, _ in pairs])


def test_broken_pictures_are_failures_and_the_rest_is_learned_from(tune, pairs, tmp_path):
    broken = Path(pairs[3][0])
    broken.write_bytes(b"no picture")
    result = tune([*pairs, ("", "nothing"), (str(tmp_path / "gone.png"), "gone")], validation=pairs[:3])
    assert sorted(Path(one.path).name for one in result.failed) == sorted(["", broken.name, "gone.png"])
    assert all(one.status == "failed" and one.reason for one in result.failed)
    assert result.images == len(COLOURS) * 4 - 1
    assert f"{result.images} images, 3 failed" in str(result)
    assert len(json.loads((result.path / "finetune.json").read_text())["failed"]) == 3


def test_a_loss_that_is_no_number_says_at_which_step_and_what_to_change(tune):
    told = []
    with pytest.raises(FinetuneError, match=r"the .*loss is (nan|inf) at step \d+.*lower learning_rate"):
        tune(learning_rate=1e18, eval_steps=1000, progress=told.append)
    assert all(torch.isfinite(torch.tensor(one.loss)) for one in told)


def test_weights_that_are_no_numbers_are_found_before_the_first_step(start, tune, tmp_path):
    model = Path(shutil.copytree(start, tmp_path / "broken"))
    weights = load_file(start / "open_clip_model.safetensors")
    weights["ln_final.weight"][0] = float("nan")
    save_file(weights, model / "open_clip_model.safetensors")
    with pytest.raises(FinetuneError, match=r"vectors of captions of pairs are not numbers.*the checkpoint"):
        tune(model_name=str(model))


def test_a_picture_that_changes_while_the_run_lasts_is_named(tune, pairs, monkeypatch):
    from t2i_pipelines.finetune import store

    monkeypatch.setattr(store, "ROOM", 0)
    before = Path(pairs[0][0])

    def change(told):
        before.write_bytes(Path(pairs[-1][0]).read_bytes())

    with pytest.raises(FinetuneError, match=rf"{before.name} changed while the run lasted: its content is"):
        tune(progress=change, epochs=9, patience=None)


def test_pictures_that_do_not_fit_into_memory_are_read_again(tune, monkeypatch):
    from t2i_pipelines.finetune import store

    kept = tune()
    monkeypatch.setattr(store, "ROOM", 5 * 32 * 32 * 3)
    read = tune(overwrite=True)
    assert [one.loss for one in read.history] == [one.loss for one in kept.history]


def test_a_finished_model_is_not_written_over_unless_that_is_meant(tune, tmp_path):
    first = (tune().path / "open_clip_model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a finished model; name another, or say overwrite=True"):
        tune(seed=1)
    assert (tmp_path / "tuned/open_clip_model.safetensors").read_bytes() == first
    assert (tune(seed=1, overwrite=True).path / "open_clip_model.safetensors").read_bytes() != first


def test_a_folder_with_other_things_is_left_alone(start, tune, tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/thesis.tex").write_text("years of work")
    with pytest.raises(
        ConfigError, match=r"holds 'thesis\.tex', which is not of fine-tuning; name a new folder"
    ):
        tune(overwrite=True)
    with pytest.raises(ConfigError, match=r"holds 'open_clip_config\.json', which is not of fine-tuning"):
        tune(output_dir=shutil.copytree(start, tmp_path / "model"), overwrite=True)
    assert (tmp_path / "model/open_clip_model.safetensors").exists()
    with pytest.raises(ConfigError, match=r"clip' is the model to start from; name a new folder"):
        tune(output_dir=start, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"is a file; name a folder"):
        tune(output_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"learning_rate": 0.5}, r"a run with learning_rate=0\.001, this one has 0\.5"),
        ({"given": 8}, "with pairs="),
    ],
)
def test_the_checkpoint_of_another_run_is_not_taken_up(other, words, tune, pairs, tmp_path):
    def stop(told):
        if told.recall is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(validation=pairs[:5], progress=stop)
    if "given" in other:
        other = {"given": pairs[: -other["given"]]}
    with pytest.raises(ConfigError, match=rf"{words}.*resume=False to start over"):
        tune(validation=pairs[:5], **other)
    assert tune(validation=pairs[:5], resume=False, **other).steps


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("t2i_mimi", UnknownModelError, "unknown model 't2i_mimi'; the nearest are t2i_mini"),
        ("colour", CheckpointError, r"colour was registered as an encoder, which can be run, not trained"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(name, error, words, tune):
    with pytest.raises(error, match=words):
        tune(model_name=name)


def test_what_is_not_of_openais_architecture_is_refused(tune, tmp_path):
    openclip_clip(tmp_path / "custom", quick_gelu=False, cfg={**SMALL, "custom_text": True})
    with pytest.raises(CheckpointError, match=r"is not of OpenAI's architecture, which alone can be"):
        tune(model_name=str(tmp_path / "custom"))


def test_an_onnx_folder_without_the_names_of_its_weights_is_refused(tune, tmp_path):
    exported = tune(export=True).onnx
    with pytest.raises(
        CheckpointError, match=r"is an ONNX folder, which does not tell how to train the model"
    ):
        tune(model_name=str(exported), output_dir=tmp_path / "again")


def test_importing_it_imports_no_torch_and_without_torch_one_sentence_says_how_to_get_it():
    code = """
import sys
from t2i_pipelines.finetune import finetune
from t2i_pipelines.errors import MissingExtraError
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    finetune([("a.png", "a")])
except MissingExtraError as err:
    print(err)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "torch is not installed; run: pip install 't2i-pipelines[torch]'"
