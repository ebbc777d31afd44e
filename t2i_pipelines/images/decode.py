"""Bytes to pixels: (H, W, 3) uint8 sRGB, upright, over a background.

OpenCV decodes what it reads faithfully: 8-bit grey and colour without alpha or palette. Pillow does the
rest. :mod:`t2i_pipelines.images.isolate` does the same in processes of its own.
"""

from __future__ import annotations

from contextlib import suppress

import cv2
import numpy as np
from PIL import ImageFile

from t2i_pipelines.config import Decoding
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.colour import to_rgb, to_srgb
from t2i_pipelines.images.frames import chosen, is_animation
from t2i_pipelines.images.header import identify, orientation
from t2i_pipelines.images.shrink import Side, factor, regrid, shrink
from t2i_pipelines.types import Image

_FAITHFUL = {
    "JPEG": {"RGB", "L"},
    "MPO": {"RGB", "L"},  # a JPEG with further views behind it
    "PNG": {"RGB", "L"},
    "WEBP": {"RGB"},
}
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_DEFAULT = Decoding()


def decode(
    content: bytes, name: str = "<bytes>", decoding: Decoding = _DEFAULT, side: Side | None = None
) -> Image:
    """Decode a picture.

    :param name: what error messages call the picture.
    :param side: tells the side of the square that a model will see, in pixels. A much larger picture may
        then come back at a half, a quarter or an eighth of its size, unless ``decoding.reduce`` is ``never``.
    :return: (H, W, 3) uint8 RGB. With ``frames="mean"`` an animation gives (F, H, W, 3), F up to 8.
    :raises ImageDecodeError: Whatever is wrong with the bytes; names the picture and the cause.
    """
    try:
        return _decode(content, decoding, side if decoding.reduce == "auto" else None)
    except Exception as err:  # decoders meet hostile bytes in many ways: each is this picture's failure
        raise ImageDecodeError(f"cannot read image {name}: {cause(err)}") from err


def _decode(content: bytes, decoding: Decoding, side: Side | None) -> Image:
    header = identify(content, decoding.max_pixels)
    by = factor(header.size, side)
    image = _with_opencv(content, header, by)
    if image is not None:
        image = to_srgb(image, header.info.get("icc_profile"), grey=header.mode == "L")
        return _upright(image, orientation(header))
    frames = [
        _with_pillow(header, frame, decoding, by)
        for frame in chosen(header, decoding.frames, decoding.max_pixels)
    ]
    several = decoding.frames == "mean" and is_animation(header)
    return np.stack(frames) if several else frames[0]


def _with_opencv(content: bytes, header: ImageFile.ImageFile, by: int) -> Image | None:
    """None where OpenCV cannot, or not faithfully."""
    if header.mode not in _FAITHFUL.get(header.format or "", ()):
        return None
    if "transparency" in header.info or is_animation(header):
        return None
    reduced = by > 1 and header.format in ("JPEG", "MPO")
    flags = _REDUCED[by] if reduced else cv2.IMREAD_COLOR_RGB
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None:
        return None
    image = np.asarray(pixels, np.uint8)
    if not reduced:
        return shrink(image, by)
    width, height = header.size
    return regrid(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), width / by, height / by)


def _with_pillow(header: ImageFile.ImageFile, frame: int, decoding: Decoding, by: int) -> Image:
    if frame:
        header.seek(frame)
    _load(header, decoding)
    image = shrink(to_rgb(header, decoding.background), by)
    return _upright(image, orientation(header))  # of what is left to do: Pillow turns a TIFF while loading


def _load(header: ImageFile.ImageFile, decoding: Decoding) -> None:
    try:
        header.load()
    except Exception:
        if decoding.truncated == "refuse":
            raise
        header.tile = []  # nothing is left to load: what has been decoded is the picture
        with suppress(Exception):
            header.load()
            return
        raise


def _upright(image: Image, orientation: int) -> Image:
    """Undo one of EXIF's eight orientations."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    if orientation in (2, 3, 6, 7):
        image = cv2.flip(image, 1)
    if orientation in (3, 4, 7, 8):
        image = cv2.flip(image, 0)
    return image
