"""Families of open_clip: a folder as it writes one, and weights alone whose model is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.parity.of_texts import on_white
from benchmarks.parity.samples import Library, Size, write_json
from benchmarks.peers.checkpoint import spread_out
from t2i_pipelines.encoders.weights import open_path
from t2i_pipelines.types import EXACT

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
PREPROCESSING = {"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "interpolation": "bilinear"}


def folder_of(config: dict[str, Any] | str, resize_mode: str, folder: Path, size: Size) -> Library:
    """Write a folder with ``open_clip_config.json``.

    :param config: what small is; or open_clip's name of it. True is ViT-B/32 with GELU.
    """
    import open_clip
    from safetensors.torch import save_file

    cfg = copy.deepcopy(config) if size == "small" else open_clip.get_model_config("ViT-B-32")
    model = open_clip.CLIP(**copy.deepcopy(cfg))
    spread_out(model)
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    preprocessing = {**PREPROCESSING, "resize_mode": resize_mode, "fill_color": 90}
    write_json(folder / "open_clip_config.json", {"model_cfg": cfg, "preprocess_cfg": preprocessing})
    return _library(model, open_clip.tokenize, {"size": cfg["vision_cfg"]["image_size"], **preprocessing})


def pair(name: str, folder: Path, size: Size, *, rename: Callable[[Any], Any] = dict) -> Library:
    """Write the weights alone, of a model that open_clip knows.

    :param name: with the tag of the weights.
    :param rename: to the names that its publisher gives the weights.
    """
    import open_clip

    model_name, _, tag = name.partition("/")
    given = open_clip.get_pretrained_cfg(model_name, tag)
    preprocessing = {key: given[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    model = open_clip.create_model(model_name, force_quick_gelu=given.get("quick_gelu", False))
    spread_out(model)
    _scale_layers(model)
    torch.save(rename(model.state_dict()), folder / "weights.pt")
    tokenizer = open_clip.get_tokenizer(model_name)
    preprocessing["size"] = model.visual.image_size
    library = _library(model, tokenizer, preprocessing)
    return library._replace(open=lambda: open_path(folder / "weights.pt", name, None, EXACT, pair=name))


def _scale_layers(model: nn.Module) -> None:
    """Let the blocks of timm's models have a say, whose scale begins near zero."""
    for name, weight in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(weight, 0.3)


def _library(model: Any, tokenizer: Callable[[Any], Any], preprocessing: dict[str, Any]) -> Library:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    model.eval()
    transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)

    def images(opened: list[Any]) -> Any:
        return torch.cat([model.encode_image(transform(on_white(one))[None]) for one in opened])

    return Library("open_clip", images, lambda texts: model.encode_text(tokenizer(texts)))


def as_apple(weights: Any) -> dict[str, Any]:
    """Return the weights of open_clip's MobileCLIP S1 or S2 under the names that Apple's own files have."""
    renamed = {}
    encoded = {name.split(".")[3] for name in weights if ".pos_emb." in name}
    for name, value in weights.items():
        if name == "visual.trunk.head.fc.bias":  # theirs has none
            value.zero_()
        elif name.startswith("visual.trunk."):
            theirs = _image_name(name.removeprefix("visual.trunk."), encoded)
            renamed[f"image_encoder.model.{theirs}"] = value.T if theirs == "head.proj" else value
        elif name.startswith("text."):
            renamed[f"text_encoder.{_text_name(name.removeprefix('text.'))}"] = value
        else:
            renamed[name] = value
    return renamed


def _image_name(name: str, encoded: set[str]) -> str:
    """Return Apple's name of a weight of timm's FastViT.

    :param encoded: the stages that begin with a positional encoding.
    """
    parts = name.split(".")
    if parts[0] == "stages":
        stage, kind = int(parts[1]), parts[2]
        if kind == "downsample":
            parts = ["network", str(2 * stage - 1), *parts[3:]]
        elif kind == "pos_emb":
            parts = ["network", str(2 * stage), "pe", *parts[4:]]
        else:
            parts = ["network", str(2 * stage + (parts[1] in encoded)), *parts[3:]]
        name = ".".join(parts)
    for ours, theirs in (
        ("stem", "patch_embed"),
        ("conv_kxk", "rbr_conv"),
        ("conv_scale", "rbr_scale"),
        ("identity", "rbr_skip"),
        ("final_conv", "conv_exp"),
        ("large_conv", "lkb_origin"),
        ("mlp", "convffn"),
        ("se.fc1", "se.reduce"),
        ("se.fc2", "se.expand"),
        (".gamma", ""),
        ("head.fc.weight", "head.proj"),
    ):
        name = name.replace(ours, theirs)
    return name


def _text_name(name: str) -> str:
    for ours, theirs in (
        ("transformer.resblocks.", "transformer."),
        ("token_embedding", "embedding_layer"),
        ("text_projection", "projection_layer"),
        ("positional_embedding", "positional_embedding.pos_embed.pos_embed"),
        ("ln_final", "final_layer_norm"),
        ("ln_1", "pre_norm_mha.0"),
        ("attn", "pre_norm_mha.1"),
        ("ln_2", "pre_norm_ffn.0"),
        ("mlp.c_fc", "pre_norm_ffn.1"),
        ("mlp.c_proj", "pre_norm_ffn.4"),
        ("in_proj_weight", "qkv_proj.weight"),
        ("in_proj_bias", "qkv_proj.bias"),
    ):
        name = name.replace(ours, theirs)
    return name


MOBILE_S1 = partial(pair, "MobileCLIP-S1/datacompdr", rename=as_apple)
EVA = partial(pair, "EVA02-B-16/merged2b_s8b_b131k")
METACLIP = partial(pair, "ViT-B-32-quickgelu/metaclip_400m")
DFN = partial(pair, "ViT-B-16/dfn2b")
SHORTEST = partial(folder_of, SMALL, "shortest")
LONGEST = partial(folder_of, SMALL, "longest")
SQUASH = partial(folder_of, SMALL, "squash")
