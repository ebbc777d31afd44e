"""Large images at a fraction of their size, where the model cannot tell the difference.

A model sees a square of a few hundred pixels. Decoding 12 megapixels, and resizing all of them, costs a
multiple of decoding at half or a quarter. JPEG gives these sizes while it decodes; others are averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil, floor
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from PIL import Image as Pillow

from t2i_pipelines.types import Image

Side: TypeAlias = Callable[[], int | None]
"""Tells the side of the square that a model sees, in pixels; None where it sees no square."""

MARGIN = 4
"""The shorter side keeps at least this many times the pixels that the model sees.

Measured on 0.5 to 12 megapixels with and without noise, embedded by ``t2i_mini``: from 4 on the cosine to
the exact way is above 0.9995, at 3 it can fall to 0.9989.
"""

MANY = 100_000_000
"""Pixels above which a long, narrow image is reduced even without the margin: decoded whole it takes 7 bytes
a pixel."""


class Plan(NamedTuple):
    """How an image becomes smaller.

    :ivar by: 1, 2, 4 or 8.
    :ivar grid: (width, height) that it then has.
    """

    by: int
    grid: tuple[int, int]


SMALLEST = 64
"""A model that sees less is treated as if it saw this many pixels: small images are decoded fast anyway."""


def factor(size: tuple[int, int], seen: int) -> int:
    """Return how many times smaller an image may become: 1, 2, 4 or 8.

    :param size: (width, height).
    :param seen: side of the square that the model sees, in pixels.
    """
    margins = (MARGIN, 1) if size[0] * size[1] > MANY else (MARGIN,)
    choices = ((margin, by) for margin in margins for by in (8, 4, 2))
    return next((by for margin, by in choices if min(size) >= by * margin * max(seen, SMALLEST)), 1)


def plan(size: tuple[int, int], side: Side | None) -> Plan:
    """Return how an image becomes smaller.

    :param size: (width, height).
    :param side: asked only where the image is large; None for no reduction.
    """
    margin = 1 if size[0] * size[1] > MANY else MARGIN
    seen = side() if side and min(size) >= 2 * margin * SMALLEST else None
    by = factor(size, seen) if seen else 1
    return Plan(by, _grid(size, by, seen) if seen else size)


def _grid(size: tuple[int, int], by: int, seen: int) -> tuple[int, int]:
    """Whole pixels, as near as may be to a size that is perhaps not whole.

    Preprocessing makes the shorter side ``seen`` and cuts the longer one to whole pixels; where there is a
    choice, it is cut as that of the large image would be.
    """

    def longer(width: int, height: int) -> int:
        return int(seen * max(width, height) / min(width, height))

    width, height = (side / by for side in size)
    choices = product({floor(width), ceil(width)}, {floor(height), ceil(height)})
    return min(
        choices, key=lambda one: (longer(*one) != longer(*size), abs(one[0] - width) + abs(one[1] - height))
    )


def shrink(image: Pillow.Image, plan: Plan) -> Image:
    """Average squares of ``by`` x ``by`` pixels.

    :param image: of mode RGB.
    """
    if plan.by == 1:
        return np.asarray(image)
    width, height = image.size
    return regrid(np.asarray(image.reduce(plan.by)), (width / plan.by, height / plan.by), plan.grid)


def regrid(image: Image, size: tuple[float, float], grid: tuple[int, int]) -> Image:
    """Make whole pixels of a size that is not whole: 771 pixels at half size are 385.5.

    Decoders fill up the last pixel. Taken for a whole one, it would move all others by up to a tenth of a
    pixel that the model sees, which shows in its vectors.

    :param size: (width, height), how much of ``image`` the image truly covers.
    :param grid: (width, height) of the result.
    """
    if grid == size == (image.shape[1], image.shape[0]):
        return image
    x, y = size[0] / grid[0], size[1] / grid[1]
    source = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, source, grid, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )
