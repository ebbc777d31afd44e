"""Every kind of colour to 8-bit sRGB, without alpha."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageCms, ImageFile, PngImagePlugin

from t2i_pipelines.types import Image

_DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_PROFILED = {"RGB", "L", "CMYK", "LAB"}
"""Modes that can carry a profile."""


BAND = 1 << 22
"""Pixels that are converted at once: each step of a conversion makes a copy."""


def to_pixels(
    image: Pillow.Image,
    background: str,
    by: int = 1,
    key: int | None = None,
    alpha: Pillow.Image | None = None,
) -> Image:
    """Convert an image in any of Pillow's modes to (H, W, 3) uint8 sRGB, some rows at a time.

    16-bit values are scaled to 8 bits; CMYK, LAB and embedded profiles are converted to sRGB.

    :param background: colour under transparent parts.
    :param by: average squares of this many pixels a side, 1 to 8.
    :param key: the grey that is transparent, see :func:`colour_key`.
    :param alpha: of mode L, in place of the image's own, see :func:`alpha_of_deep_key`.
    """
    width, height = image.size
    rows = max(1, BAND // (width * by)) * by
    pixels = np.empty((-(-height // by), -(-width // by), 3), np.uint8)
    white = _white(image) if image.mode in _DEEP else 0.0
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole = (top, bottom) == (0, height)
        box = (0, top, width, bottom)
        mask = alpha.crop(box) if alpha is not None else None
        band = _to_rgb(image if whole else image.crop(box), background, white, key, mask)
        pixels[top // by : -(-bottom // by)] = np.asarray(band.reduce(by) if by > 1 else band)
    return pixels


def colour_key(header: ImageFile.ImageFile) -> int | None:
    """Return the grey value that a PNG's tRNS chunk makes transparent, in the units of the decoded pixels.

    Of 2 and 4 bits Pillow gives it in those of the file, and it drops that of 16 bits. Ask before the pixels
    are loaded.
    https://www.w3.org/TR/png-3/#11tRNS
    """
    key = header.info.get("transparency")
    if header.format != "PNG" or not isinstance(key, int) or not header.tile:
        return None
    scale = {"1": 1, "L;2": 85, "L;4": 17, "L": 1, "I;16B": 1}
    raw = header.tile[0].args
    name = raw[0] if isinstance(raw, tuple) else raw
    return key * scale[name] if name in scale else None


def alpha_of_deep_key(header: ImageFile.ImageFile, content: bytes) -> Pillow.Image | None:
    """Return the alpha of an RGB PNG of 16 bits in which a tRNS chunk makes one colour transparent.

    Pillow keeps the high bytes only and compares them with all of the colour, so both bytes are decoded here,
    one after the other. Ask before the pixels are loaded; None for other images, and damaged ones.
    """
    key = header.info.get("transparency")
    if header.format != "PNG" or not isinstance(key, tuple) or not header.tile:
        return None
    if header.tile[0].args != "RGB;16B":
        return None
    width, height = header.size
    opaque = np.zeros((height, width), bool)
    for raw_mode, shift in (("RGB;16B", 8), ("RGB;16L", 0)):
        half = PngImagePlugin.PngImageFile(io.BytesIO(content))
        half.tile = [tile._replace(args=raw_mode) for tile in half.tile]
        try:
            half.load()
        except Exception:  # the image itself fails in the same way, and says so
            return None
        rows = max(1, BAND // width)
        for top in range(0, height, rows):
            band = np.asarray(half.crop((0, top, width, min(top + rows, height))))
            opaque[top : top + rows] |= (band != [value >> shift & 255 for value in key]).any(-1)
    return Pillow.fromarray(opaque.view(np.uint8) * np.uint8(255))


def _to_rgb(
    image: Pillow.Image, background: str, white: float, key: int | None, alpha: Pillow.Image | None
) -> Pillow.Image:
    profile = image.info.get("icc_profile")
    if alpha is not None:
        image.info.pop("transparency", None)
    elif key is not None:
        grey = np.asarray(image if image.mode in _DEEP else image.convert("L"))
        alpha = Pillow.fromarray(np.where(grey == key, 0, 255).astype(np.uint8))
    elif image.mode not in _DEEP and image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    if image.mode in _DEEP:
        image = Pillow.fromarray(_shallow(np.asarray(image), white))
    colours = _opaque(image)
    if profile:
        colours = _converted(colours, profile)
    if colours.mode != "RGB":
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


def _opaque(image: Pillow.Image) -> Pillow.Image:
    """Return one of the modes that can carry a profile; without alpha."""
    if image.mode in _PROFILED:
        return image
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def _converted(image: Pillow.Image, profile: bytes) -> Pillow.Image:
    """To sRGB; as it is where the profile is broken, of another colour space, or sRGB itself."""
    transform = _transform(profile, image.mode)
    if transform is None and image.mode == "L":  # grey in an RGB profile has that profile's tones
        image = image.convert("RGB")
        transform = _transform(profile, "RGB")
    return image if transform is None else _apply(transform, image)


def _apply(transform: ImageCms.ImageCmsTransform, image: Pillow.Image) -> Pillow.Image:
    converted = ImageCms.applyTransform(image, transform)
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
    """Return whether a transform moves any colour by more than rounding does; most profiles are sRGB."""
    if mode != "RGB":
        return True
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
    moved = np.asarray(_apply(transform, Pillow.fromarray(colours)), np.int16)
    return bool(np.abs(moved - colours).max() > 2)


def _white(image: Pillow.Image) -> float:
    """Return the value of white in grey of 16 or more bits.

    Whole numbers are 16-bit. Floating point is 0 (black) to 1 (white), as TIFF has it; where some value is
    above 1, to 255, or to 65535.
    """
    if image.mode != "F":
        return 65535.0
    highest = 0.0
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        band = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        highest = max(highest, float(np.nan_to_num(band, nan=0.0, posinf=65535.0).max(initial=0.0)))
    return next((top for top in (1.0, 255.0) if highest <= top), 65535.0)


def _shallow(pixels: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Scale grey of 16 or more bits to (H, W) uint8; values beyond ``white`` are clipped."""
    values = pixels.astype(np.float64)
    if pixels.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=white)
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)
