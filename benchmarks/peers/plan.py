"""What is measured: contenders, the two ways of measuring, the size of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

BATCH = 32
"""Images a pass, for every contender that works in batches."""

WARM = BATCH
"""Further images that each contender takes before the clock starts."""

CALIBRATION = 128
"""Images that int8 is calibrated on; none of them is measured."""

Mode: TypeAlias = Literal["insert", "encode"]
"""``insert``: files on disk -> rows in Milvus Lite. ``encode``: images of the model's size -> vectors."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a CLIP with a vision transformer; heads are width / 64, as in OpenAI's.

    :ivar dim: length of a vector.
    :ivar image_size: side of the square that the model sees, in pixels.
    :ivar patch_size: in pixels.
    :ivar vision: width and number of layers of the image tower.
    :ivar text: width and number of layers of the text tower.
    """

    name: str
    dim: int
    image_size: int
    patch_size: int
    vision: tuple[int, int]
    text: tuple[int, int]


VIT_B_32 = Shape("ViT-B/32", 512, 224, 32, (768, 12), (512, 12))
TINY = Shape("tiny", 64, 64, 16, (128, 2), (64, 2))
SHAPES = {shape.name: shape for shape in (VIT_B_32, TINY)}


@dataclass(frozen=True)
class Contender:
    """One way to embed images. A row of data; the code is in ``bench.contenders``.

    :ivar module: of ``bench.contenders``.
    :ivar options: arguments of the module's ``start``.
    :ivar packages: what must be importable.
    :ivar most: images that it is given at most, where its memory grows with each.
    :ivar ours: this library. Then importing it counts as memory, and the targets apply.
    """

    name: str
    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ("insert", "encode")
    most: int | None = None
    ours: bool = False


@dataclass(frozen=True)
class Plan:
    """One run.

    :ivar images: how many images each contender takes, besides those to warm up.
    :ivar rounds: how often; each round measures every contender once, and medians are shown.
    """

    contenders: tuple[Contender, ...]
    images: int = 128
    rounds: int = 3
    shape: Shape = VIT_B_32
