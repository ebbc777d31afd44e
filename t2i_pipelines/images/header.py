"""Which format bytes are in, how large the image is, and which way is up; no pixel is decoded."""

from __future__ import annotations

import ctypes
import io
import re
import struct
import warnings
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, cast

import cv2
from PIL import ExifTags, ImageFile
from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO", "QOI"),
    *("DIB", "PSD", "ICNS", "DDS", "SGI", "PCX", "TGA"),  # TGA has no signature, so it comes last
)
"""What is decoded, in the order of trying. Pillow reads more, some by running other programs (EPS)."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""Brands of ISO/IEC 23008-12; the last two may be AVIF as well."""

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
"""Read with the extra ``heif``."""

BYTES_A_PIXEL = 5
"""How much memory an image of ``max_pixels`` may take to decode: 0.9 GB with the default."""

_ODD_METADATA = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)
"""What Pillow warns of: EXIF that is cut off, TIFF tags of the wrong type. Only pixels matter here."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in small letters, of the formats that are decoded with the installed extras."""
    formats = {*FORMATS, "MPO"}  # Pillow opens MPO by its JPEG reader
    known = {suffix for suffix, name in Pillow.registered_extensions().items() if name in formats}
    return frozenset(known | (HEIF_SUFFIXES if find_spec("pillow_heif") else frozenset()))


def identify(content: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read an image's header.

    :param max_pixels: width times height at most. Pillow's own limit, ``MAX_IMAGE_PIXELS``, is not asked.
    :raises ImageDecodeError: If the format is unknown or lacks its package, or the image is too large.
    """
    if _ODD_METADATA not in warnings.filters:  # for the process: `catch_warnings` is not for threads
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    silence_decoders()
    header = _open(content)
    if header is None:
        raise ImageDecodeError("not an image in a known format")
    check_size(header, max_pixels)
    return header


def check_size(header: Pillow.Image, max_pixels: int) -> None:
    """Refuse an image, or a frame of it, that is too large.

    :raises ImageDecodeError: With its size and the option that sets the limit.
    """
    width, height = header.size
    if width * height > max_pixels:
        raise ImageDecodeError(
            f"{width} x {height} are {width * height:,} pixels, more than max_pixels={max_pixels:,}; "
            "raise max_pixels (--max-pixels) if you trust the file"
        )


def check_progressive(header: Pillow.Image, max_pixels: int) -> None:
    """Refuse a progressive JPEG whose coefficients, all in memory at once, need too much memory.

    A coefficient has 2 bytes: 3 a pixel where colours have half the resolution, 6 where they have all of it.

    :raises ImageDecodeError: With its bytes and the option that sets the limit.
    """
    if "progressive" not in header.info or not (layers := getattr(header, "layer", None)):
        return
    widest, highest = max(layer[1] for layer in layers), max(layer[2] for layer in layers)
    samples = sum(layer[1] * layer[2] for layer in layers) / (widest * highest)
    needed, allowed = 2 * samples * header.width * header.height, BYTES_A_PIXEL * max_pixels
    if needed > allowed:
        raise ImageDecodeError(
            f"a progressive JPEG of {header.width} x {header.height} takes {needed / 1e6:,.0f} MB to decode, "
            f"more than the {allowed / 1e6:,.0f} MB of max_pixels={max_pixels:,}; raise max_pixels "
            "(--max-pixels) if you trust the file"
        )


def orientation(header: Pillow.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where there is none, or none that can be read."""
    with suppress(Exception):  # broken metadata is no reason to refuse the pixels
        return int(header.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


@cache
def silence_decoders() -> None:
    """Keep libtiff and OpenCV from writing to stderr: what is wrong with a file is in the error it raises.

    Pillow sets no error handler of libtiff's, so that of its own copy of the library is taken out here. Where
    that copy is not found, as in builds of distributions, the lines stay.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    folder = Path(Pillow.__file__).parent
    for library in chain(folder.parent.glob("pillow.libs/libtiff*"), folder.glob(".dylibs/libtiff*")):
        with suppress(OSError, AttributeError):
            tiff = ctypes.CDLL(str(library))
            for set_handler in (tiff.TIFFSetErrorHandler, tiff.TIFFSetWarningHandler):
                set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                set_handler(None)


def _open(content: bytes) -> ImageFile.ImageFile | None:
    """As ``PIL.Image.open``, whose limit of pixels is one for the whole process."""
    Pillow.init()
    for name in FORMATS:
        factory, accept = Pillow.OPEN[name]
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # "not mine"
            if accept is None or accept(content[:16]) is True:  # a string says why not
                return factory(io.BytesIO(content), "")
    return _open_heic(content) if content[4:8] == b"ftyp" and content[8:12] in _HEIC else None


def _open_heic(content: bytes) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError:
        way_out = "run: pip install 't2i-pipelines[heif]'"
        raise ImageDecodeError(f"HEIC needs the extra `heif`; {way_out}") from None
    factory: Any = pillow_heif.HeifImageFile
    return cast(ImageFile.ImageFile, factory(io.BytesIO(content)))
