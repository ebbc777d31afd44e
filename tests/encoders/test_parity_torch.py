"""Checkpoints written by transformers and by open_clip give, through our loaders, their writers' vectors."""

import shutil

import numpy as np
import pytest
import torch
from clips import (
    B32,
    PICTURES,
    RN50,
    SMALL,
    SMALL_RESNET,
    TEXTS,
    cosines,
    export_apart,
    load_exact,
    open_clip,
    openclip_clip,
    spread,
    transformers_clip,
)

from t2i_pipelines.encoders import unload
from t2i_pipelines.encoders.onnx import OnnxEncoder

LEAST = 0.99999
SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "pool_type": "avg"},
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2,
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}  # fmt: skip
SQUASH = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def reference(model, ids, preprocess):
    """The vectors of the library that wrote the model, on its own pixels and tokens."""
    from PIL import Image

    pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in PICTURES])
    with torch.no_grad():
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=ids)
            return [getattr(one, "pooler_output", one) for one in found]
        return model.encode_image(pixels), model.encode_text(ids)


def transform(size, **kwargs):
    return open_clip.image_transform(size, is_train=False, **kwargs)


def check(encoder, model, size=32, ids=None, **kwargs):
    ids = open_clip.tokenize(TEXTS) if ids is None else ids
    check_vectors(encoder, reference(model, ids, transform(size, **kwargs)))


def check_vectors(encoder, expected):
    images, texts = expected
    ours = encoder.encode_images(PICTURES), encoder.encode_texts(TEXTS)
    assert cosines(ours[0], images).min() >= LEAST
    assert cosines(ours[1], texts).min() >= LEAST
    assert spread(ours[0]) < 1 - 1e-5  # two images are told apart by more than the tolerance
    assert spread(ours[1]) < 1 - 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_transformers_folder_gives_transformers_vectors(tmp_path, activation):
    model = transformers_clip(tmp_path, activation)
    check(load_exact(tmp_path), model)


@pytest.mark.slow
@pytest.mark.parametrize("quick_gelu", [True, False], ids=["quick_gelu", "gelu"])
@pytest.mark.parametrize(("cfg", "size"), [(SMALL, 32), (SMALL_RESNET, 64)], ids=["vit", "resnet"])
def test_an_open_clip_folder_gives_open_clips_vectors(tmp_path, quick_gelu, cfg, size):
    model = openclip_clip(tmp_path / "m", quick_gelu, cfg)
    encoder = load_exact(tmp_path / "m")
    check(encoder, model, size)
    assert type(encoder.model.module).__module__ == "towhee.models.clip.clip"


@pytest.mark.slow
def test_the_two_activations_are_not_the_same_model(tmp_path):
    transformers_clip(tmp_path / "quick", "quick_gelu")
    transformers_clip(tmp_path / "exact", "gelu")
    quick, exact = (load_exact(tmp_path / name).encode_images(PICTURES) for name in ("quick", "exact"))
    assert cosines(quick, exact).max() < LEAST


def test_heads_are_read_where_they_are_not_a_64th_of_the_width(tmp_path):
    model = openclip_clip(
        tmp_path / "m",
        False,
        {
            **SMALL,
            "vision_cfg": {**SMALL["vision_cfg"], "head_width": 16},
            "text_cfg": {**SMALL["text_cfg"], "heads": 2},
        },
    )
    check(load_exact(tmp_path / "m"), model)


@pytest.mark.slow
def test_a_siglip_like_model_goes_through_open_clip_squashed_and_canonicalised(tmp_path):
    model = openclip_clip(tmp_path / "m", False, SIGLIP, SQUASH)
    tokenizer = open_clip.SimpleTokenizer(context_length=77, clean="canonicalize")
    encoder = load_exact(tmp_path / "m")
    assert type(encoder.model.module).__module__ == "open_clip.model"
    assert encoder.space.preprocessing.startswith("squash 32 bicubic mean 0.5")
    check(encoder, model, 32, tokenizer(TEXTS), mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")


@pytest.mark.slow
def test_a_lone_file_is_read_with_the_config_beside_it(tmp_path):
    model = openclip_clip(tmp_path / "m", True)
    check(load_exact(tmp_path / "m" / "open_clip_model.safetensors"), model)


@pytest.mark.slow
def test_a_name_and_a_file_together_tell_the_activation(tmp_path, monkeypatch):
    from t2i_pipelines.encoders import models
    from t2i_pipelines.encoders.torch_encoder import TorchEncoder

    model = openclip_clip(tmp_path / "m", True)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    info = next(one for one in models() if one.name == "clip_vit_base_patch32")
    small = type(info)(
        **{**{f: getattr(info, f) for f in info.__dataclass_fields__}, "dim": 24, "resolution": 32}
    )
    check(TorchEncoder(str(tmp_path / "plain.pt"), "ViT-B/32", small), model)


@pytest.mark.slow
def test_true_b32_written_by_transformers(tmp_path):
    model = transformers_clip(tmp_path, "gelu", B32, heads=(12, 8))
    encoder = load_exact(tmp_path)
    check(encoder, model, 224)
    assert encoder.space.dim == 512


@pytest.mark.slow
@pytest.mark.parametrize(("cfg", "quick_gelu"), [(B32, True), (RN50, False)], ids=["b32", "rn50"])
def test_true_b32_and_rn50_written_by_open_clip_and_exported(tmp_path, quick_gelu, cfg):
    model = openclip_clip(tmp_path / "m", quick_gelu, cfg)
    expected = reference(model, open_clip.tokenize(TEXTS), transform(224))
    del model  # 0.6 GB
    check_vectors(load_exact(tmp_path / "m"), expected)
    unload()
    export_apart(tmp_path / "m", tmp_path / "out")
    shutil.rmtree(tmp_path / "m")
    check_vectors(OnnxEncoder(str(tmp_path / "out"), "m"), expected)


def test_embedding_nothing_gives_no_vectors(tmp_path):
    openclip_clip(tmp_path / "m", True)
    encoder = load_exact(tmp_path / "m")
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 24)
    assert encoder.encode_images(PICTURES[:1]).dtype == np.float32
