"""Every kind of colour to 8-bit sRGB, without alpha."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageCms

from t2i_pipelines.types import Image

_DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_PROFILED = {"RGB", "L", "CMYK", "LAB"}
"""Modes that can carry a profile."""


def to_rgb(picture: Pillow.Image, background: str) -> Pillow.Image:
    """A picture in any of Pillow's modes -> sRGB in mode RGB, over ``background`` where it is transparent.

    16-bit values are scaled to 8 bits; CMYK, LAB and embedded profiles are converted to sRGB.
    """
    profile = picture.info.get("icc_profile")
    if picture.mode in _DEEP:
        picture = Pillow.fromarray(_shallow(np.asarray(picture)))
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    colours = _opaque(picture)
    if profile:
        colours = _converted(colours, profile)
    colours = colours.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        canvas = Pillow.new("RGB", colours.size, background)
        canvas.paste(colours, mask=alpha)
        colours = canvas
    return colours


def to_srgb(image: Image, profile: bytes | None, grey: bool = False) -> Image:
    """(H, W, 3) uint8 in the colours of an ICC profile -> the same in sRGB.

    :param grey: the three are one, and the profile may be for grey.
    """
    mode = "L" if grey and profile and _transform(profile, "L") else "RGB"
    transform = _transform(profile, mode) if profile else None
    if transform is None:
        return image
    return np.asarray(_apply(transform, Pillow.fromarray(image[..., 0] if mode == "L" else image)))


def _opaque(picture: Pillow.Image) -> Pillow.Image:
    """One of the modes that can carry a profile; without alpha."""
    if picture.mode in _PROFILED:
        return picture
    return picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")


def _converted(picture: Pillow.Image, profile: bytes) -> Pillow.Image:
    """To sRGB; as it is where the profile is broken, of another colour space, or sRGB itself."""
    transform = _transform(profile, picture.mode)
    if transform is None and picture.mode == "L":  # grey in an RGB profile has that profile's tones
        picture = picture.convert("RGB")
        transform = _transform(profile, "RGB")
    return picture if transform is None else _apply(transform, picture)


def _apply(transform: ImageCms.ImageCmsTransform, picture: Pillow.Image) -> Pillow.Image:
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # it is None in place only
    return converted


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where it does not apply, or changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return transform if _changes(transform, mode) else None
    except (ImageCms.PyCMSError, OSError, ValueError):  # a broken profile is no reason to refuse the pixels
        return None


def _changes(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform moves any colour by more than rounding does; most profiles are sRGB."""
    if mode != "RGB":
        return True
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
    moved = np.asarray(_apply(transform, Pillow.fromarray(colours)), np.int16)
    return bool(np.abs(moved - colours).max() > 2)


def _shallow(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey of 16 or more bits -> (H, W) uint8.

    Whole numbers are 16-bit: what is beyond is clipped. Floating point is 0 (black) to 1 (white), as TIFF
    has it; where some value is above 1, to 255, or to 65535.
    """
    white = 65535.0
    values = pixels.astype(np.float64)
    if pixels.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=white)
        white = next((top for top in (1.0, 255.0) if values.max() <= top), white)
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)
