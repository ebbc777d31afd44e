"""Build OpenAI's CLIP architecture as a ``towhee.models.clip.CLIP`` from its weights alone.

Sizes are inferred from the shapes: ``towhee.models.clip.get_configs`` has wrong ones for L/14 and three
ResNets. What shapes do not tell (activation, heads, epsilon) is in :class:`Details`. Other architectures
(SigLIP, multilingual text towers, timm towers) are built by ``open_clip``.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from t2i_pipelines._towhee.door import clip_models
from t2i_pipelines.encoders.checkpoints import Weights, first_mismatch
from t2i_pipelines.encoders.twofold import MARK, sizes_of_twofold, twofold_like
from t2i_pipelines.errors import CheckpointError, MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Details:
    """What a CLIP's weights do not tell.

    :ivar quick_gelu: activation of the image and the text tower: ``x * sigmoid(1.702 x)`` or GELU.
    :ivar heads: attention heads of the image and the text tower; None is width / 64.
    :ivar epsilon: of the layer norms.
    """

    quick_gelu: tuple[bool, bool]
    heads: tuple[int | None, int | None] = (None, None)
    epsilon: float = 1e-5


_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OUTER = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}


def from_transformers(weights: Weights) -> Weights:
    """Return a ``transformers.CLIPModel``'s weights under OpenAI's names; others come back as they are."""
    if "text_model.embeddings.token_embedding.weight" not in weights:
        return weights
    renamed: Weights = {}
    for name, value in weights.items():
        if name.endswith("position_ids"):
            continue
        if name in ("visual_projection.weight", "text_projection.weight"):
            renamed["visual.proj" if name[0] == "v" else "text_projection"] = value.T.contiguous()
        elif found := re.fullmatch(r"(\w+_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            tower, number, part, kind = found.groups()
            block = f"{_TOWERS[tower]}.resblocks.{number}"
            if part == "self_attn.q_proj":
                parts = [name.replace("q_proj", f"{one}_proj") for one in "qkv"]
                if all(one in weights for one in parts):
                    renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat([weights[one] for one in parts])
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                renamed[f"{block}.{_LAYER.get(part, part)}.{kind}"] = value
        else:
            renamed[_OUTER.get(name, name)] = value
    return renamed


def sizes_of(weights: Mapping[str, torch.Tensor], where: str) -> dict[str, Any]:
    """Return the arguments of ``CLIP`` that these weights, under OpenAI's names, were made with.

    :param where: the file, for the message.
    :raises CheckpointError: If a weight that tells a size is missing.
    """
    try:
        width = weights["ln_final.weight"].shape[0]
        return {
            "embed_dim": weights["text_projection"].shape[1],
            **_of_tower(weights),
            "context_length": weights["positional_embedding"].shape[0],
            "vocab_size": weights["token_embedding.weight"].shape[0],
            "transformer_width": width,
            "transformer_heads": max(width // 64, 1),
            "transformer_layers": _count(weights, r"transformer\.resblocks\.(\d+)\."),
        }
    except KeyError as err:
        first = next(iter(weights))
        raise CheckpointError(
            f"{where} is not a CLIP of OpenAI's architecture, or is cut off: it has no {err.args[0]} "
            f"(it holds {len(weights)} weights, the first is {first})"
        ) from err


def _of_tower(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    if MARK in weights:
        return sizes_of_twofold(weights)
    return _of_vit(weights) if "visual.proj" in weights else _of_resnet(weights)


def _of_vit(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    width, _, patch, _ = weights["visual.conv1.weight"].shape
    side = round((weights["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "image_resolution": patch * side,
        "vision_layers": _count(weights, r"visual\.transformer\.resblocks\.(\d+)\."),
        "vision_width": width,
        "vision_patch_size": patch,
    }


def _of_resnet(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    side = round((weights["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "image_resolution": 32 * side,
        "vision_layers": tuple(_count(weights, rf"visual\.layer{n}\.(\d+)\.") for n in (1, 2, 3, 4)),
        "vision_width": weights["visual.layer1.0.conv1.weight"].shape[0],
        "vision_patch_size": None,
    }


def _count(weights: Mapping[str, torch.Tensor], pattern: str) -> int:
    return len({found[1] for name in weights if (found := re.match(pattern, name))})


def clip_like(weights: Mapping[str, torch.Tensor], sizes: Mapping[str, Any]) -> Any:
    """Make a ``CLIP`` of these sizes, with the image tower that weights of these names are of.

    :return: fresh weights, which the caller replaces.
    """
    towhee = clip_models()
    model: Any = towhee.CLIP(**sizes)
    if MARK in weights:
        model.visual = twofold_like(weights, towhee.ModifiedResNet)
    return model


def build_clip(weights: Weights, details: Details, where: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the module with these weights, in evaluation mode, and the sizes that it was made with.

    :param weights: under OpenAI's or transformers' names.
    :raises CheckpointError: With the first weight that is missing, superfluous or of another shape.
    """
    weights = from_transformers(weights)
    sizes = sizes_of(weights, where)
    model = clip_like(weights, _buildable(sizes))
    resnet = getattr(model.visual, "drawn", model.visual)
    if mismatch := first_mismatch(model.state_dict(), weights):
        raise CheckpointError(f"{where} does not fit the model that its own sizes call for: {mismatch}")
    model.load_state_dict(weights, strict=False)
    for tower, transformer in enumerate((getattr(model.visual, "transformer", None), model.transformer)):
        for block in getattr(transformer, "resblocks", ()):
            if not details.quick_gelu[tower]:
                block.mlp.gelu = nn.GELU()
            _set_heads(block.attn, details.heads[tower])
    if details.heads[0] and not hasattr(resnet, "transformer"):
        resnet.attnpool.num_heads = details.heads[0]
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = details.epsilon
    return model.eval().requires_grad_(False), sizes


def encode_text(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(N, L) integers, L at most the context length -> (N, D), not normalised.

    Each text's vector is that of its highest id, which ends it. Attention is causal: what stands behind that
    changes nothing, so texts may be as short as :func:`~t2i_pipelines.encoders.tokenizer.by_length` makes
    them. Towhee's own method takes texts of the full length only.
    """
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
    for block in model.transformer.resblocks:
        x = x + _attend(block.attn, block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
    ends = x[torch.arange(ids.shape[0]), ids.argmax(1)]
    out: torch.Tensor = model.ln_final(ends) @ model.text_projection
    return out


def _attend(attention: Any, x: torch.Tensor) -> torch.Tensor:
    many, length, width = x.shape
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.view(many, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(many, length, width))
    return out


def _buildable(sizes: dict[str, Any]) -> dict[str, Any]:
    """``CLIP`` divides widths by 64 to count heads, which must not give 0; the true heads are set later."""
    if isinstance(sizes["vision_layers"], int) and sizes["vision_width"] < 64:
        raise CheckpointError(f"image towers narrower than 64 are not supported: {sizes['vision_width']}")
    return sizes


def _set_heads(attention: nn.MultiheadAttention, heads: int | None) -> None:
    if heads is not None:
        attention.num_heads, attention.head_dim = heads, attention.embed_dim // heads


_VISION = {"image_size", "layers", "width", "patch_size", "head_width"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name", "tokenizer_kwargs"}


def is_openai_clip(model_cfg: Mapping[str, Any]) -> bool:
    """Return whether open_clip's ``model_cfg`` describes OpenAI's architecture and nothing beyond it."""
    known = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    return (
        model_cfg.keys() <= known
        and model_cfg["vision_cfg"].keys() <= _VISION
        and model_cfg["text_cfg"].keys() <= _TEXT
    )


def build_openclip(model_cfg: Mapping[str, Any], weights: Weights, where: str) -> nn.Module:
    """Return the ``open_clip`` model with these weights, in evaluation mode.

    A text tower of transformers (``hf_model_name``) is built from that model's own ``config.json``, which
    transformers reads from a folder, its cache or the hub.

    :raises MissingExtraError: If open_clip is not installed, or cannot be imported.
    :raises CheckpointError: With the first weight that is missing, superfluous or of another shape.
    """
    open_clip = import_extra("open_clip")
    cfg = copy.deepcopy(dict(model_cfg))
    if "multimodal_cfg" in cfg:
        raise CheckpointError(f"{where} is a CoCa model, which writes captions; it is not supported")
    cfg["vision_cfg"]["timm_model_pretrained"] = False
    cfg["text_cfg"]["hf_model_pretrained"] = False
    custom = cfg.pop("custom_text", False) or "hf_model_name" in cfg["text_cfg"]
    model: Any = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**cfg)
    weights = open_clip.factory.convert_state_dict(model, weights)
    if custom and "positional_embedding" in weights:
        weights = open_clip.convert_to_custom_text_state_dict(weights)
    if mismatch := first_mismatch(_without_scale(model.state_dict()), _without_scale(weights)):
        raise CheckpointError(f"{where} does not fit the model that its config calls for: {mismatch}")
    model.load_state_dict(_without_scale(weights), strict=False)
    built: nn.Module = model.eval().requires_grad_(False)
    return built


def _without_scale(weights: Mapping[str, Any]) -> Weights:
    """Leave out what only the training loss needs, and what has been stored in several shapes."""
    return {name: value for name, value in weights.items() if name not in ("logit_scale", "logit_bias")}


def import_extra(name: str) -> Any:
    """Import open_clip or transformers.

    :raises MissingExtraError: If it is not installed, or a torchvision of another torch keeps it out.
    """
    try:
        found = importlib.import_module(name)
        if name == "transformers":  # it imports lazily: this is where it needs torchvision, if that is there
            importlib.import_module("transformers.image_utils")
        return found
    except ModuleNotFoundError as err:
        raise MissingExtraError.of(err.name, "openclip") from err
    except RuntimeError as err:  # torchvision, when it was built for another torch
        raise MissingExtraError(
            f"{name} needs a torchvision that fits your torch, and yours does not ({err}); for a CPU "
            "torch run: pip install torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from err
