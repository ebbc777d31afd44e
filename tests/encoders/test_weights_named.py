"""Weights alone are built as open_clip builds the model that the caller names."""

import json

import clips
import numpy as np
import pytest
import torch
from clips import PICTURES, TEXTS, cosines, open_clip

from t2i_pipelines.encoders.formats import read_checkpoint
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.encoders.weights import open_path
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import EXACT

LEAST = 0.99999
TIMM = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    "custom_text": True,
}


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Two small models among those that open_clip knows, one of OpenAI's architecture."""
    for name, config in (("t-timm", TIMM), ("t-clip", clips.SMALL)):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    own = {"mean": (0.1,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    quick = {**own, "quick_gelu": True}
    pretrained = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(pretrained, "t-timm", {"one": own})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "t-timm-quick", TIMM)
    monkeypatch.setitem(pretrained, "t-timm-quick", {"one": quick})
    monkeypatch.setitem(pretrained, "t-clip", {"plain_1": own, "quick": quick})
    return tmp_path


@pytest.mark.parametrize(
    ("pair", "quick", "module"),
    [
        ("t-timm", False, "open_clip.model"),
        ("t-timm/one", False, "open_clip.model"),
        ("t-clip/plain-1", False, "towhee.models.clip.clip"),
        ("t-clip/quick", True, "towhee.models.clip.clip"),
    ],
)
def test_a_name_and_weights_are_a_model(named, pair, quick, module):
    model = open_clip.create_model(pair.partition("/")[0], force_quick_gelu=quick)
    clips.wake(model)
    torch.save(model.state_dict(), named / "any.pt")
    encoder = TorchEncoder(str(named), "m", None, pair=pair)
    assert type(encoder.model.module).__module__ == module
    side = model.visual.image_size
    side = side[0] if isinstance(side, tuple) else side
    assert encoder.space.preprocessing.startswith(f"squash {side} bilinear mean 0.1 0.1 0.1")
    pixels = torch.from_numpy(encoder.model.checkpoint.preprocess.tensor(PICTURES))
    with torch.inference_mode():
        images, texts = model.encode_image(pixels), model.encode_text(open_clip.tokenize(TEXTS))
    found = open_path(named / "any.pt", "m", None, EXACT, pair=pair)
    assert cosines(found.encode_images(PICTURES), images).min() >= LEAST
    assert cosines(found.encode_texts(TEXTS), texts).min() >= LEAST


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("t-clap", r"open_clip knows no model 't-clap'; the nearest are t-clip"),
        ("t-clip/none", "open_clip knows no weights 'none' of t-clip; known are plain_1, quick"),
        (
            "t-clip",
            "t-clip differ in preprocessing or activation: say which, as in t-clip/plain_1;",
        ),
        ("ViT-B-32/x", r"known are openai, laion400m_e31, .* and \d+ more"),
    ],
)
def test_a_name_that_says_too_little_is_refused(named, pair, message):
    (named / "any.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(named, None, pair)


def test_what_open_clip_builds_has_the_activation_of_its_weights(named):
    (named / "any.pt").write_bytes(b"")
    assert read_checkpoint(named, None, "t-timm-quick").config["quick_gelu"] is True
    assert "quick_gelu" not in read_checkpoint(named, None, "t-timm").config


def test_a_folder_must_have_one_file_of_weights(named):
    with pytest.raises(CheckpointError, match=r"has no \.pt, \.pth, .*: give the file of the weights itself"):
        read_checkpoint(named, None, "t-timm")
    for name in ("a.pt", "b.bin"):
        (named / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"has a\.pt, b\.bin: give the file"):
        read_checkpoint(named, None, "t-timm")
    assert read_checkpoint(named / "b.bin", None, "t-timm").weights == named / "b.bin"


def test_a_config_in_the_folder_comes_before_the_name(named):
    clips.openclip_clip(named, False)
    config = json.loads((named / "open_clip_config.json").read_text())
    assert read_checkpoint(named, None, "t-timm").config == config["model_cfg"]
    assert np.isfinite(TorchEncoder(str(named), "m", pair="t-timm").encode_texts(["a"])).all()
