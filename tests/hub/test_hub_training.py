"""``.train()`` of the hub's CLIP, told in Hugging Face's names as the deep-dive tutorial tells it."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import COLOURS, paint
from towhee import ops
from tuning import QUICK, coloured, small_clip

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.finetune import output

pytest_plugins = ["old_notebooks"]

DATA = {
    "dataset_name": None,
    "dataset_config_name": None,
    "train_file": "/tmp/train.json",
    "validation_file": "/tmp/eval.json",
    "max_seq_length": 77,
    "data_dir": None,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
TRAINING = {
    "num_train_epochs": 32,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
    "do_train": True,
    "do_eval": True,
    "eval_steps": 1,
    "remove_unused_columns": False,
    "dataloader_drop_last": True,
    "output_dir": "./output/train_clip_exp",
    "overwrite_output_dir": True,
}
MODEL = {"freeze_vision_model": False, "freeze_text_model": False, "cache_dir": "./cache"}


RESULT = SimpleNamespace(path="folder", steps=5000)


@pytest.fixture
def finetuned(hub, monkeypatch):
    """What ``finetune`` is called with."""
    calls = []

    def finetune(pairs, **arguments):
        calls.append((pairs, arguments))
        return RESULT

    monkeypatch.setattr(hub.operators, "finetune", finetune)
    monkeypatch.setattr(output, "write_step", lambda folder, steps: None)
    return calls


def clip_op(**more):
    return ops.image_text_embedding.clip(model_name="t2i_mini", modality="image", **more).get_op()


def test_the_tutorials_arguments_are_those_of_finetune(finetuned):
    result = clip_op().train(data_args=DATA, training_args=TRAINING, model_args=MODEL)
    assert result is RESULT
    assert finetuned == [
        (
            "/tmp/train.json",
            {
                "model_name": "t2i_mini",
                "checkpoint_path": None,
                "device": "cpu",
                "validation": "/tmp/eval.json",
                "epochs": 32,
                "batch_size": 64,
                "output_dir": "./output/train_clip_exp",
                "overwrite": True,
                "train": "all",
            },
        )
    ]


def test_it_starts_from_the_operators_own_weights(finetuned):
    clip_op(device=0, checkpoint_path="weights").train({"train_file": "a.json"})
    (_, arguments) = finetuned[0]
    assert arguments == {
        "model_name": "t2i_mini",
        "checkpoint_path": "weights",
        "device": "auto",
        "train": "all",
    }


@pytest.mark.parametrize(
    ("frozen", "train"),
    [
        ({"freeze_vision_model": True}, "text"),
        ({"freeze_text_model": True}, "image"),
        ({"freeze_vision_model": True, "freeze_text_model": True}, "heads"),
    ],
)
def test_frozen_towers_do_not_learn(finetuned, frozen, train):
    clip_op().train(data_args=DATA, model_args=frozen)
    assert finetuned[0][1]["train"] == train


@pytest.mark.parametrize("name", ["eval_strategy", "evaluation_strategy"])
def test_steps_between_evaluations_count_where_hugging_face_counts_them(finetuned, name):
    for strategy in ("no", "steps"):
        clip_op().train(data_args=DATA, training_args={"eval_steps": 7, name: strategy})
    assert [arguments.get("eval_steps") for _, arguments in finetuned] == [None, 7]


def test_further_arguments_are_passed_on(finetuned):
    further = {"learning_rate": 1e-5, "warmup_ratio": 0.2, "seed": 3, "max_steps": 5, "patience": 2}
    clip_op().train(data_args=DATA, training_args=further)
    assert further.items() <= finetuned[0][1].items()
    clip_op().train(data_args=DATA, training_args={"max_steps": -1})
    assert "max_steps" not in finetuned[1][1], "-1 sets no end"


@pytest.mark.parametrize(
    ("data", "training", "model", "words"),
    [
        ({}, {}, {}, "data_args has no train_file"),
        (
            {"train_file": "a", "tain_file": "b"},
            {},
            {},
            "data_args has 'tain_file', which is unknown; known are ",
        ),
        ({"train_file": "a"}, {"epoch": 3}, {}, "training_args has 'epoch', which is unknown"),
        ({"train_file": "a"}, {}, {"freeze_vision": 1}, "model_args has 'freeze_vision', which is unknown"),
        ({"train_file": "a"}, {"device": "cpu"}, {}, "training_args has 'device', which is unknown"),
        ({"train_file": "a"}, {"learning_rate": -1}, {}, "learning_rate must be more than 0, got -1"),
        ({"train_file": "a"}, {"do_train": False}, {}, "do_train=False, and only True is possible here"),
        (
            {"train_file": "a", "dataset_name": "coco"},
            {},
            {},
            "dataset_name='coco', and only None is possible",
        ),
        (
            {"train_file": "a", "image_column": "x"},
            {},
            {},
            "image_column='x', and only 'image_path' is possible",
        ),
        ("a", {}, {}, "data_args must be a dict, got 'a'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(finetuned, data, training, model, words):
    with pytest.raises(ConfigError, match=words):
        clip_op().train(data_args=data, training_args=training, model_args=model)
    assert finetuned == []


def test_what_changes_nothing_is_logged(finetuned, caplog):
    with caplog.at_level(logging.INFO, "t2i_pipelines.hub"):
        clip_op().train(data_args=DATA, training_args=TRAINING, model_args=MODEL)
    data, _, model = [record.message for record in caplog.records]
    assert data.startswith(
        "data_args: data_dir, dataset_config_name, image_mean, image_std, max_seq_length ch"
    )
    assert model == "model_args: cache_dir changes nothing here"


@pytest.mark.slow
def test_the_checkpoint_that_notebooks_load_has_the_weights_of_the_result(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [{"image_path": path, "caption": words} for path, words in coloured(tmp_path / "images")]
    Path("train.json").write_text(json.dumps(pairs))
    start, clip = str(small_clip(tmp_path / "start")), ops.image_text_embedding.clip
    options = {"export": False, "learning_rate": QUICK["learning_rate"], "overwrite_output_dir": True}

    def train(steps):
        arguments = {**options, "per_device_train_batch_size": 8, "max_steps": steps, "output_dir": "./out"}
        return clip(model_name=start, modality="text").get_op().train({"train_file": "train.json"}, arguments)

    for steps in (2, 3):
        result = train(steps)
        (folder,) = Path("out").glob("checkpoint-*")
        assert folder.name == f"checkpoint-{steps}", "that of the run before is gone"
    red = np.full((32, 32, 3), COLOURS["red"], np.uint8)
    for modality, item in (("text", "a red image"), ("image", red)):
        loaded = clip(start, modality, checkpoint_path="./out/checkpoint-3/pytorch_model.bin")(item)
        assert np.array_equal(loaded, clip(str(result.path), modality)(item))
        assert not np.array_equal(loaded, clip(start, modality)(item))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="holds 'checkpoint-3', which is not of fine-tuning"):
        train(3)


@pytest.mark.slow
def test_a_model_is_trained_and_loaded_as_in_the_tutorial(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    rows = [
        {
            "caption_id": number,
            "image_id": number,
            "caption": f"this is an image of {name}.",
            "image_path": str(paint(tmp_path / f"{number}.png", colours[name], size=(32, 32 + number))),
        }
        for number, name in enumerate([*colours] * 5)
    ]
    for name, some in (("train", rows[:16]), ("eval", rows[16:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(some, indent=4))
    data = {
        **DATA,
        "train_file": str(tmp_path / "train.json"),
        "validation_file": str(tmp_path / "eval.json"),
    }
    training = {**TRAINING, "num_train_epochs": 1, "per_device_train_batch_size": 8}
    frozen = {"freeze_vision_model": True, "freeze_text_model": True}
    result = clip_op().train(data_args=data, training_args=training, model_args=frozen)
    assert result.images == 16
    tuned = clip_op(checkpoint_path="./output/train_clip_exp")
    picture = ops.image_decode.cv2("rgb")(rows[0]["image_path"])
    assert tuned(picture).shape == (768,)
    assert (tuned(picture) != clip_op()(picture)).any()
