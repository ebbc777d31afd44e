"""Bytes to pixels: (H, W, 3) uint8 sRGB, upright, over a background.

Pillow decodes, since it refuses damaged data, where OpenCV returns what it has and reports on stderr alone.
Only TIFFs in YCbCr, which Pillow reads from 13 on, are left to OpenCV. :mod:`t2i_pipelines.images.isolate`
does the same in processes of its own.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFile, TiffImagePlugin

from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.colour import alpha_of_deep_key, colour_key, to_pixels, to_srgb
from t2i_pipelines.images.frames import chosen, is_animation
from t2i_pipelines.images.header import check_progressive, check_size, identify, orientation
from t2i_pipelines.images.jpeg import check_complete
from t2i_pipelines.images.shrink import Plan, Side, plan, regrid, shrink
from t2i_pipelines.types import Image

_YCBCR = 6  # TIFF 6.0, section 21
_DEFAULT = Decoding()


def decode(
    content: bytes, name: str = "<bytes>", decoding: Decoding = _DEFAULT, side: Side | None = None
) -> Image:
    """Decode an image.

    :param name: what error messages call the image.
    :param side: tells the side of the square that a model will see, in pixels. A much larger image may
        then come back at a half, a quarter or an eighth of its size, unless ``decoding.reduce`` is ``never``.
    :return: (H, W, 3) uint8 RGB. With ``frames="mean"`` an animation gives (F, H, W, 3), F up to 8.
    :raises ImageDecodeError: Whatever is wrong with the bytes; names the image and the cause.
    """
    try:
        return _decode(content, decoding, side if decoding.reduce == "auto" else None)
    except Exception as err:  # decoders meet hostile bytes in many ways: each is this image's failure
        raise ImageDecodeError(f"cannot read image {name}: {cause(err)}") from err


def pixels_of(picture: Pillow.Image, decoding: Decoding = _DEFAULT) -> Image:
    """The pixels of a PIL image, its current frame, as those of a file: (H, W, 3) uint8 sRGB, upright.

    :raises ImageDecodeError: If it is too large, or cannot be loaded.
    """
    try:
        check_size(picture, decoding.max_pixels)
        if not min(picture.size):
            raise ImageDecodeError(f"it has no pixels: {picture.width} x {picture.height}")
        return _upright(to_pixels(picture, decoding.background), orientation(picture))
    except Exception as err:  # as above: it may be a file that is not loaded yet
        raise ImageDecodeError(f"cannot read the PIL image {picture!r}: {cause(err)}") from err


def checked_array(array: NDArray[Any]) -> Image:
    """Return an array of pixels if it is one that a model takes.

    :raises ImageDecodeError: If it is not (H, W, 3) uint8, or empty.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageDecodeError(
            f"an array must be (H, W, 3) uint8, RGB, and not empty; got {array.shape} {array.dtype}; "
            "convert it, for example by np.asarray(pil_image.convert('RGB')), or, of values from 0 to 1, by "
            "(255 * array).astype('uint8')"
        )
    return array


def _decode(content: bytes, decoding: Decoding, side: Side | None) -> Image:
    header = identify(content, decoding.max_pixels)
    check_progressive(header, decoding.max_pixels)
    if _is_ycbcr_tiff(header) and (image := _upright_tiff(content, side)) is not None:
        return to_srgb(image, header.info.get("icc_profile"))
    smaller = plan(header.size, side)
    canvas = header.size
    frames = [
        _with_pillow(content, header, frame, canvas, decoding, smaller)
        for frame in chosen(header, decoding.frames, decoding.max_pixels)
    ]
    several = decoding.frames == "mean" and is_animation(header)
    return np.stack(frames) if several else frames[0]


def _is_ycbcr_tiff(header: ImageFile.ImageFile) -> bool:
    """Of one image, and not compressed as JPEG, which Pillow reads."""
    if not isinstance(header, TiffImagePlugin.TiffImageFile) or header.info.get("compression") == "jpeg":
        return False
    return header.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _YCBCR and not is_animation(
        header
    )


def _upright_tiff(content: bytes, side: Side | None) -> Image | None:
    """OpenCV turns a TIFF upright whatever it is told. None where it cannot read it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    if pixels is None:
        return None
    return shrink(Pillow.fromarray(pixels), plan((pixels.shape[1], pixels.shape[0]), side))


def _with_pillow(
    content: bytes,
    header: ImageFile.ImageFile,
    frame: int,
    canvas: tuple[int, int],
    decoding: Decoding,
    smaller: Plan,
) -> Image:
    for index in range(header.tell() + 1, frame + 1):  # one by one: each may claim to be larger
        header.seek(index)
        check_size(header, decoding.max_pixels)
    key, alpha = colour_key(header), alpha_of_deep_key(header, content)
    is_jpeg = header.format in ("JPEG", "MPO")
    if smaller.by > 1 and is_jpeg:
        header.draft(None, (canvas[0] // smaller.by, canvas[1] // smaller.by))  # decoded at this size
    _load(header, decoding)
    if is_jpeg and not frame and decoding.truncated == "refuse":
        check_complete(content, header)
    picture = header.crop((0, 0, *canvas)) if frame else header
    by = smaller.by if picture.size == canvas else 1
    pixels = to_pixels(picture, decoding.background, by, key, alpha)
    if smaller.by > 1:
        pixels = regrid(pixels, (canvas[0] / smaller.by, canvas[1] / smaller.by), smaller.grid)
    return _upright(pixels, orientation(header))  # of what is left to do: Pillow turns a TIFF while loading


def _load(header: ImageFile.ImageFile, decoding: Decoding) -> None:
    try:
        header.load()
    except Exception:
        if decoding.truncated == "refuse":
            raise
        header.tile = []  # nothing is left to load: what has been decoded is the image
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
