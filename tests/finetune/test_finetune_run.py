"""Fine-tuning from end to end on a CLIP of one layer: what learns, what stays, what comes out."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import PICTURES, load_exact, open_clip, transformers_clip
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tuning import QUICK, coloured, small_clip, weights_of

from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.finetune import Progress, finetune
from t2i_pipelines.finetune.clip import HEADS
from t2i_pipelines.finetune.material import Mark


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return small_clip(tmp_path_factory.mktemp("start") / "clip")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> list[tuple[str, str]]:
    return coloured(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def tune(start, pairs, tmp_path):
    """Fine-tune that model on those pairs, into a folder of its own each time."""

    def tuned(name="tuned", **options):
        given = {"pairs": pairs, "model_name": str(start), "output_dir": tmp_path / name, **QUICK, **options}
        return finetune(**given)

    return tuned


def changed(result, start) -> set[str]:
    before = load_exact(str(start)).model.module.state_dict()
    return {name for name, value in weights_of(result).items() if not torch.equal(value, before[name])}


def test_it_learns_and_the_result_is_a_model_of_its_own(start, pairs, tune):
    told = []
    result = tune(epochs=6, patience=None, progress=told.append, export=True)
    assert all(isinstance(one, Progress) for one in told)
    assert [one.step for one in told] == list(range(1, result.steps + 1))
    assert told[-1].loss < told[0].loss
    assert [one.step for one in told if one.recall is not None] == [one.step for one in result.history]
    before, after = load_exact(str(start)), load_exact(str(result.path))
    assert after.space.weights != before.space.weights
    # as open_clip itself reads the folder
    config = json.loads((result.path / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["hf_model_pretrained"] = False
    theirs = open_clip.CLIP(**config).eval()
    theirs.load_state_dict(weights_of(result), strict=False)
    ids = torch.from_numpy(after.tokenizer(["a red image", "a blue one"]))
    wanted = theirs.encode_text(ids).detach().numpy()
    np.testing.assert_allclose(after.encode_texts(["a red image", "a blue one"]), wanted, atol=1e-4)
    exported = OnnxEncoder(str(result.onnx), "tuned").encode_texts(["a red image"])
    np.testing.assert_allclose(exported, wanted[:1], atol=1e-3)


@pytest.mark.parametrize(
    ("train", "learns", "stays"),
    [
        ("all", {"visual.conv1.weight", "visual.proj", "token_embedding.weight"}, set()),
        ("image", {"visual.conv1.weight", "visual.proj"}, {"token_embedding.weight", "text_projection"}),
        ("text", {"token_embedding.weight", "text_projection"}, {"visual.conv1.weight", "visual.proj"}),
        ("heads", {"visual.proj", "text_projection"}, {"visual.conv1.weight", "token_embedding.weight"}),
    ],
)
def test_only_what_is_to_learn_changes(train, learns, stays, start, tune):
    found = changed(tune(train=train), start)
    assert learns <= found
    assert not stays & found
    if train == "heads":
        assert found <= {*HEADS, "logit_scale"}


@pytest.mark.parametrize("resnet", [False, True])
def test_heads_learn_from_vectors_that_are_computed_once(resnet, pairs, tmp_path, monkeypatch):
    model = small_clip(tmp_path / "clip", resnet=resnet)
    from t2i_pipelines.finetune.clip import Clip

    seen = []
    see = Clip.see
    monkeypatch.setattr(Clip, "see", lambda self, pixels: seen.append(len(pixels)) or see(self, pixels))
    options = {**QUICK, "model_name": str(model), "train": "heads", "epochs": 5, "patience": None}
    told = []
    finetune(pairs, output_dir=tmp_path / "tuned", progress=told.append, **options)
    assert sum(seen) == len(pairs)
    assert told[-1].loss < told[0].loss


@pytest.mark.parametrize("resnet", [False, True])
def test_a_head_after_its_tower_is_the_whole(resnet, tmp_path):
    from t2i_pipelines.finetune.clip import Clip
    from t2i_pipelines.finetune.start import open_start
    from t2i_pipelines.types import EXACT

    clip = Clip(open_start(str(small_clip(tmp_path / "clip", resnet=resnet)), None), "heads", EXACT)
    size = clip.start.preprocess.size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    ids = torch.from_numpy(clip.start.tokenizer(["a red image", "x"]))
    with torch.no_grad():
        whole = clip.see(pixels), clip.read(ids)
        with clip.headless():
            parts = clip.see(pixels), clip.read(ids)
        torch.testing.assert_close(clip.image_head(parts[0]), whole[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(clip.text_head(parts[1]), whole[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close((clip.see(pixels), clip.read(ids)), whole)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tune):
    one, same, other = (tune(name, seed=seed) for name, seed in (("one", 4), ("same", 4), ("other", 5)))
    files = [(result.path / "open_clip_model.safetensors").read_bytes() for result in (one, same, other)]
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.fixture
def steps():
    """(norm of the gradient, learning rates) of each step, as the optimiser takes it."""
    taken = []

    def take(optimiser, args, kwargs):
        found = [one.grad.norm() for group in optimiser.param_groups for one in group["params"]]
        taken.append((torch.stack(found).norm().item(), {group["lr"] for group in optimiser.param_groups}))

    handle = register_optimizer_step_pre_hook(take)
    yield taken
    handle.remove()


@pytest.mark.slow
def test_gradients_are_clipped(tune, steps):
    told = []
    tune(max_grad_norm=0.01, progress=told.append)
    norms = [norm for norm, _ in steps]
    assert min(one.norm for one in told) > 0.1
    assert norms == pytest.approx([0.01] * len(told), rel=1e-3)


@pytest.mark.slow
def test_the_pace_rises_and_falls(tune, steps):
    told = []
    tune(epochs=5, patience=None, warmup_ratio=0.2, learning_rate=0.002, progress=told.append)
    rates = [one.rate for one in told]
    assert [{rate} for rate in rates] == [taken for _, taken in steps]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(0.002)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] < 0.002 > 10 * rates[-1] > 0


@pytest.mark.slow
def test_the_weights_are_between_those_of_the_start_and_the_tuned(start, tune):
    start_weights = load_exact(str(start)).model.module.state_dict()
    whole, half, none = (weights_of(tune(f"alpha{alpha}", alpha=alpha)) for alpha in (1.0, 0.5, 0.0))
    for name, value in none.items():
        torch.testing.assert_close(value, start_weights[name], rtol=0, atol=0)
        torch.testing.assert_close(half[name], (start_weights[name] + whole[name]) / 2)


def test_it_stops_where_nothing_gets_better_and_says_so(start, tune):
    result = tune(epochs=50, patience=2, learning_rate=1e-12, weight_decay=0.0)
    assert (result.stopped_early, len(result.history), result.best_step) == (True, 2, 0)
    assert result.after == result.before
    assert changed(result, start) == set()
    assert "no evaluation was better than the starting model" in str(result)


@pytest.mark.slow
def test_the_best_weights_are_taken_not_the_last(tune, monkeypatch):
    from t2i_pipelines.finetune.material import Scoring

    marks = iter([0.1, 0.5, 0.9, 0.3, 0.2])
    monkeypatch.setattr(Scoring, "mark", lambda self, at: Mark(next(marks), 0.0))
    long = tune("long", epochs=4, patience=None)
    assert long.best_step == long.steps // 2
    marks = iter([0.1, 0.5, 0.9])
    short = tune("short", epochs=4, patience=None, max_steps=long.best_step)
    # the pace of the shorter run is another; that of the longer is what counts
    assert [one.recall for one in long.history] == [0.5, 0.9, 0.3, 0.2]
    assert short.best_step == short.steps


class Stopped(Exception):
    pass


def stop_at(step):
    def stop(told):
        if told.step == step:
            raise Stopped

    return stop


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"train": "heads"}, {"augment": "crop+flip"}])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(options, tune, tmp_path):
    options = {"epochs": 3, "patience": None, "save_steps": 2, **options}
    whole = tune("whole", **options)
    with pytest.raises(Stopped):
        tune("parts", progress=stop_at(5), **options)
    assert (tmp_path / "parts/training.pt").exists()
    told = []
    parts = tune("parts", progress=told.append, **options)
    assert told[0].step == 5  # the last checkpoint was written after step 4
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(parts)[name]), name
    assert [one[:7] for one in parts.history] == [one[:7] for one in whole.history]
    assert not (tmp_path / "parts/training.pt").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(start, pairs, tmp_path):
    options = {**QUICK, "epochs": 3, "patience": None, "save_steps": 2, "model_name": str(start)}
    code = f"""
        import os, signal, sys
        from t2i_pipelines.finetune import finetune
        def kill(told):
            if told.step == 5 and sys.argv[2:]:
                os.kill(os.getpid(), signal.SIGKILL)
        finetune({pairs!r}, output_dir=sys.argv[1], progress=kill, **{options!r})
    """

    def run(name, *kill):
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(tmp_path / name), *kill]
        return subprocess.run(command, check=False, capture_output=True)

    killed = run("killed", "kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "killed/open_clip_model.safetensors").exists()
    for name in ("killed", "whole"):
        done = run(name)
        assert done.returncode == 0, done.stderr.decode()
    files = [(tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]


def test_what_was_lost_outside_is_told_and_alpha_keeps_it(tune, tmp_path):
    outside = [(path, f"not {caption}") for path, caption in coloured(tmp_path / "outside", each=2)]
    result = tune(outside=outside)
    assert result.outside_before.keys() == result.outside_after.keys() >= {"R@1", "R@5", "R@10"}
    assert 0.1 <= result.alpha <= 1
    assert "outside" in str(result)
    report = json.loads((result.path / "finetune.json").read_text())
    assert report["outside_after"] == dict(result.outside_after)
    assert report["options"]["batch_size"] == 8


def test_replayed_pairs_are_learned_too(tune, tmp_path, pairs):
    replay = [(path, caption.replace("picture", "drawing")) for path, caption in coloured(tmp_path / "other")]
    told = []
    result = tune(replay=replay, replay_share=0.5, progress=told.append)
    assert result.steps == 2 * -(-(len(pairs) - round(0.1 * len(pairs))) // 4)


def test_equal_pictures_are_one_picture_with_both_captions(start, pairs, tmp_path):
    from t2i_pipelines.evaluate import Pairs
    from t2i_pipelines.finetune.material import Material, Texts, Truth
    from t2i_pipelines.finetune.start import open_start
    from t2i_pipelines.finetune.store import Store

    opened = open_start(str(start), None)
    store, texts = Store(opened.preprocess), Texts(opened.tokenizer)
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(pairs[0][0]).read_bytes())
    given = Pairs.of([(pairs[0][0], "a dog"), (str(copy), "ein Hund"), (pairs[1][0], "a DOG"), pairs[2]])
    material = Material.of(given, store, texts)
    assert material.rows.tolist() == [[0, 0], [0, 1], [1, 0], [2, 2]]
    truth = Truth(material.rows)(material.captions, material.images)
    assert truth.tolist() == [[True, True, False], [True, False, False], [False, False, True]]
    assert material.right() == [[0, 1], [0], [2]]


def test_the_temperature_stays_where_clip_keeps_it(start, tune, tmp_path):
    hot = Path(shutil.copytree(start, tmp_path / "hot"))
    weights = load_file(hot / "open_clip_model.safetensors")
    weights["logit_scale"] = torch.tensor(5.0)
    save_file(weights, hot / "open_clip_model.safetensors")
    scale = weights_of(tune(model_name=str(hot), max_steps=1, warmup_ratio=1.0))["logit_scale"].item()
    assert scale == pytest.approx(np.log(100))


def transformers_start(folder):
    """A CLIPModel whose heads are not width / 64."""
    transformers_clip(folder, "gelu")


@pytest.mark.slow
@pytest.mark.parametrize("make", [transformers_start, lambda folder: small_clip(folder, resnet=True)])
def test_what_is_not_changed_comes_out_as_it_went_in(make, tune, tmp_path):
    make(tmp_path / "start")
    result = tune(model_name=str(tmp_path / "start"), alpha=0.0, max_steps=1)
    before, after = load_exact(str(tmp_path / "start")), load_exact(str(result.path))
    texts = ["a red image", "Café"]
    np.testing.assert_allclose(after.encode_texts(texts), before.encode_texts(texts), rtol=1e-4, atol=1e-4)
    seen = [one.encode_images(PICTURES) for one in (after, before)]
    np.testing.assert_allclose(*seen, rtol=1e-3, atol=1e-3 * np.abs(seen[0]).max())
    assert after.space.preprocessing == before.space.preprocessing
