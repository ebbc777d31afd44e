"""The image tower of t2i_mini: EfficientNet-Lite0 for photographs, a small CLIP's for drawings, and a gate.

A photograph's vector is ``sqrt(probability)`` of each noun, a class of ImageNet or a hypernym of some, less
its mean, in fewer dimensions. A drawing's vector is that of the CLIP it was trained with. The gate says how
far an image is a photograph; both parts stand one after the other.

EfficientNet-Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD

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

SIDE, DRAWN_SIDE = 128, 96
"""Pixels that the tower sees of an image, and that its tower of drawings does."""

TEMPERATURE = 1.5
"""Of the softmax over classes: flatter than in training, so that the second and third class count."""

STEADY = 2.0
"""The last dimension of a photograph, the same for all, as a multiple of the usual length of the others.

Without it a photograph that shows nothing clearly would be scaled up to length 1, and be as near to some noun
as one that shows it.
"""

SHORT = 0.5 / (1 + STEADY**2) ** 0.5
"""Length of a drawing's vector without the steady dimension: half of a photograph's.

There are fewer drawings to tell apart, and each is nearer to any text: at the same length, drawings come
before photographs that answer better.
"""

MARK = "visual.lite.stem.weight"
"""A weight that only this tower has."""


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
    """EfficientNet-Lite0 with batch norms folded into convolutions: images to features and class scores."""

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


class TwofoldTower(nn.Module):
    """Images to (N, D) vectors: ``gate * photograph``, then ``(1 - gate) * drawing``.

    Both have the steady dimension, so that their cosines to texts are of the same size.

    :param drawn: the tower of drawings, (N, 3, 96, 96) -> (N, drawn_dim).
    :param nouns: how many nouns a photograph is compared with.
    :param photo_dim: dimensions of photographs; the last is the steady one.
    :ivar below: (nouns, 1000) float32, 0 or 1: the classes of each noun.
    :ivar basis: (photo_dim, nouns) float32; the last row is zero.
    :ivar steady: (photo_dim,) float32, added; zero but for the last.
    :ivar proj: (D, D) float32, the identity until fine-tuning changes it.
    """

    below: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor
    steady: torch.Tensor
    direction: torch.Tensor

    def __init__(self, drawn: nn.Module, *, nouns: int, photo_dim: int, drawn_dim: int) -> None:
        super().__init__()
        self.lite, self.drawn, self.gate = Lite0(), drawn, nn.Linear(FEATURES, 1)
        self.register_buffer("below", torch.zeros(nouns, CLASSES))
        self.register_buffer("mean", torch.zeros(nouns))
        self.register_buffer("basis", torch.zeros(photo_dim, nouns))
        self.register_buffer("steady", torch.zeros(photo_dim))
        self.register_buffer("direction", torch.eye(photo_dim)[-1], persistent=False)
        self.proj = nn.Parameter(torch.eye(photo_dim + drawn_dim))

    @property
    def conv1(self) -> nn.Conv2d:
        """The first convolution, of which Towhee's ``CLIP`` asks the dtype."""
        return self.lite.stem

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) float32, normalised as CLIP's -> (N, D)."""
        features = self.lite(photo_input(x))
        return self.join(features, self.lite.classify(features), self.drawn(drawing_input(x)))

    def join(self, features: torch.Tensor, scores: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Compute vectors from what the towers gave: (N, 1280), (N, 1000) and (N, drawn_dim)."""
        probabilities = (scores / TEMPERATURE).softmax(-1)
        photo = F.linear((probabilities @ self.below.T).sqrt() - self.mean, self.basis) + self.steady
        share = torch.sigmoid(self.gate(features))
        photo = share * F.normalize(photo, dim=-1) + (1 - share) * (1 - SHORT**2) ** 0.5 * self.direction
        return torch.cat([photo, (1 - share) * SHORT * F.normalize(drawn, dim=-1)], -1) @ self.proj


def photo_input(x: torch.Tensor) -> torch.Tensor:
    """Pixels normalised as CLIP's are -> as EfficientNet-Lite's: ``(RGB - 127) / 128``."""
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (x * (std * (255 / 128))) + (mean * 255 - 127) / 128


def drawing_input(x: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) -> (N, 3, 96, 96), what the tower of drawings was trained on."""
    return F.interpolate(x, (DRAWN_SIDE, DRAWN_SIDE), mode="bilinear", align_corners=False)


def sizes_of_twofold(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the sizes of the tower of drawings, as the arguments of ``CLIP``; the image is SIDE pixels."""
    drawn = {name.removeprefix("visual.drawn."): value for name, value in weights.items()}
    layers = {name.split(".")[0] + "." + name.split(".")[1] for name in drawn if name.startswith("layer")}
    return {
        "image_resolution": SIDE,
        "vision_layers": tuple(sum(one.startswith(f"layer{n}.") for one in layers) for n in (1, 2, 3, 4)),
        "vision_width": drawn["layer1.0.conv1.weight"].shape[0],
        "vision_patch_size": None,
    }


def twofold_like(weights: Mapping[str, torch.Tensor], resnet: Any) -> TwofoldTower:
    """Build the tower that weights, named as ``CLIP``'s with this tower as ``visual``, are of.

    :param resnet: Towhee's ``ModifiedResNet``.
    """
    sizes = sizes_of_twofold(weights)
    photo_dim, nouns = weights["visual.basis"].shape
    drawn_dim = weights["visual.drawn.attnpool.c_proj.weight"].shape[0]
    width = sizes["vision_width"]
    drawn = resnet(sizes["vision_layers"], drawn_dim, width * 32 // 64, DRAWN_SIDE, width)
    return TwofoldTower(drawn, nouns=nouns, photo_dim=photo_dim, drawn_dim=drawn_dim)
