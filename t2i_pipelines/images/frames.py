"""Which frames of an animation are looked at."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pillow

from t2i_pipelines.config.settings import Frames

MEAN_OF = 8
"""Frames that ``mean`` takes, evenly spaced."""

_ANIMATIONS = {"GIF", "PNG", "WEBP", "AVIF"}
"""What a TIFF, an icon or a stereo photograph holds further are pages, sizes or views."""


def is_animation(header: Pillow.Image) -> bool:
    """Whether the image has frames to choose from."""
    return header.format in _ANIMATIONS and bool(getattr(header, "is_animated", False))


def chosen(header: Pillow.Image, frames: Frames, max_pixels: int) -> list[int]:
    """Indices of the frames that the option means, ascending.

    To reach a frame, all before it are decoded. So that a small file cannot take hours, the choice is among
    the first frames that have ``max_pixels`` pixels in all.
    """
    if frames == "first" or not is_animation(header):
        return [0]
    width, height = header.size
    count = min(getattr(header, "n_frames", 1), max(1, max_pixels // (width * height)))
    if frames == "middle":
        return [count // 2]
    return sorted({int(one) for one in np.linspace(0, count - 1, min(count, MEAN_OF)).round()})
