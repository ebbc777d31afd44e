"""What open_clip can load and OpenAI's architecture cannot: SigLIP, multilingual text towers, timm towers."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from t2i_pipelines.encoders.checkpoints import Weights, first_mismatch
from t2i_pipelines.errors import CheckpointError, MissingExtraError

_VISION = {"image_size", "layers", "width", "patch_size", "head_width"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name", "tokenizer_kwargs"}


def is_openai_clip(model_cfg: Mapping[str, Any]) -> bool:
    """Whether open_clip's ``model_cfg`` describes OpenAI's architecture and nothing beyond it."""
    known = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    return (
        model_cfg.keys() <= known
        and model_cfg["vision_cfg"].keys() <= _VISION
        and model_cfg["text_cfg"].keys() <= _TEXT
    )


def build_openclip(model_cfg: Mapping[str, Any], weights: Weights, where: str) -> nn.Module:
    """The ``open_clip`` model with these weights, in evaluation mode.

    A text tower of transformers (``hf_model_name``) is built from that model's own ``config.json``, which
    transformers reads from a folder, its cache or the hub.

    :raises MissingExtraError: If open_clip is not installed, or cannot be imported.
    :raises CheckpointError: With the first weight that is missing, superfluous or of another shape.
    """
    open_clip = _import()
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


def _import() -> Any:
    try:
        return importlib.import_module("open_clip")
    except ModuleNotFoundError as err:
        raise MissingExtraError(
            f"{err.name} is not installed; run: pip install 't2i-pipelines[openclip]'"
        ) from err
    except RuntimeError as err:  # torchvision, when it was built for another torch
        raise MissingExtraError(
            f"open_clip needs a torchvision that fits your torch, and yours does not ({err}); for a CPU "
            "torch run: pip install torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from err
