"""Bytes to pixels: (H, W, 3) uint8 RGB, upright, over white.

OpenCV decodes what it reads faithfully: 8-bit grey and colour without alpha or palette. Pillow does the
rest. Embedded colour profiles are ignored, as CLIP's own preprocessing does.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.types import Image

_FAITHFUL = {"JPEG": {"RGB", "L"}, "PNG": {"RGB", "L"}, "WEBP": {"RGB"}, "BMP": {"RGB"}, "TIFF": {"RGB", "L"}}


def decode(content: bytes, name: str = "<bytes>") -> Image:
    """Decode a picture; EXIF rotation is applied, transparent parts become white.

    :param name: what error messages call the picture.
    :return: (H, W, 3) uint8 RGB.
    :raises ImageDecodeError: Whatever is wrong with the bytes; names the picture and the cause.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; only pixels matter here
            return _decode(content)
    except ImageDecodeError as err:
        raise ImageDecodeError(f"cannot read image {name}: {err}") from err
    except Exception as err:  # decoders meet hostile bytes in many ways: each is this picture's failure
        cause = str(err) or type(err).__name__
        raise ImageDecodeError(f"cannot read image {name}: {cause.splitlines()[0]}") from err


def _decode(content: bytes) -> Image:
    try:
        header = Pillow.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ImageDecodeError("not a picture in a known format") from None
    except Pillow.DecompressionBombError as err:
        raise ImageDecodeError(f"{err} PIL.Image.MAX_IMAGE_PIXELS sets the limit") from err
    if _opencv_reads(header):
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise ImageDecodeError(f"the {header.format} data is damaged or cut off")
        return np.asarray(pixels, np.uint8)
    return _decode_with_pillow(header)


def _opencv_reads(header: Pillow.Image) -> bool:
    if header.mode not in _FAITHFUL.get(header.format or "", ()) or "transparency" in header.info:
        return False
    # OpenCV turns a JPEG upright; other formats seldom carry an orientation
    return header.format == "JPEG" or header.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _decode_with_pillow(header: Pillow.Image) -> Image:
    picture = ImageOps.exif_transpose(header)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _from_deep_grey(np.asarray(picture))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        picture = Pillow.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _from_deep_grey(pixels: np.ndarray) -> Image:
    """Scale 16-bit grey to 8 bits; values beyond 16 bits are clipped."""
    grey = (np.clip(pixels.astype(np.float64), 0, 65535) / 257).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
