"""Decode bytes to pixels: (H, W, 3) uint8 sRGB, upright, over a background.

Pillow decodes, since it refuses damaged data, where OpenCV returns what it has and reports on stderr alone.
Only TIFFs in YCbCr, which Pillow reads from 13 on, are left to OpenCV. Pillow fills missing parts of a JPEG
with grey and does not report it, so a JPEG that may be truncated is checked.
:mod:`t2i_pipelines.images.isolate` does the same in processes of its own.
"""

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
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, ImageFile, TiffImagePlugin
from PIL import Image as Pillow

from t2i_pipelines.config.settings import Decoding, Frames
from t2i_pipelines.errors import ImageDecodeError, cause
from t2i_pipelines.images.colour import alpha_of_deep_key, colour_key, to_pixels, to_srgb
from t2i_pipelines.images.shrink import Plan, Side, plan, regrid, shrink
from t2i_pipelines.types import Image

MEAN_OF = 8
"""Frames that ``mean`` takes, evenly spaced."""

_ANIMATIONS = {"GIF", "PNG", "WEBP", "AVIF"}
"""Formats of animations. The frames of TIFFs, icons and stereo photographs are pages, sizes or views."""


def is_animation(header: Pillow.Image) -> bool:
    """Return whether the image has frames to choose from."""
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


_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker in compressed data: there 0xff is written as 0xff00, and restart markers belong to the data."""

_SOS, _EOI = 0xDA, 0xD9
_COEFFICIENTS = 64
_FILLED_WITH = 128
"""What libjpeg gives each channel of a block that it has no data for."""


def check_complete(content: bytes, header: ImageFile.ImageFile) -> None:
    """Refuse a JPEG that ends before its image does.

    Most images cost nothing: one whose last pixel is not grey is complete, unless it is progressive or CMYK,
    where missing data need not be grey.

    :param header: of the image, loaded.
    :raises ImageDecodeError: If data is missing, or a scan of a progressive JPEG.
    """
    is_progressive = "progressive" in header.info
    last = header.getpixel((header.width - 1, header.height - 1))
    if header.mode in ("L", "RGB") and not is_progressive and last not in (_FILLED_WITH, (_FILLED_WITH,) * 3):
        return
    if is_progressive and not _has_every_scan(content):
        raise ImageDecodeError("it ends before its last scan; truncated='accept' takes what is there")
    try:  # at an eighth of the size, the smallest that it offers
        simplejpeg.decode_jpeg(content, "GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
    except ValueError as err:
        if "premature end" in str(err).lower():
            raise ImageDecodeError(f"{err}; truncated='accept' takes what is there") from None


def _has_every_scan(content: bytes) -> bool:
    """Return whether each component's 64 coefficients are sent down to their last bit.

    ITU-T T.81, section G.1.1.1: each scan has a band of coefficients, and the bits down to ``Al``.
    """
    sent: dict[int, set[int]] = {}
    at = 0
    while (marker := _MARKER.search(content, at)) and marker[1][0] != _EOI:
        at = marker.end()
        if marker[1] in b"\xd8\x01":  # these two have no length
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        segment, at = content[at + 2 : at + length], at + length
        if 0xC0 <= marker[1][0] <= 0xCF and marker[1] not in b"\xc4\xc8\xcc":  # start of frame
            sent = {component: set() for component in segment[6::3]}
        if marker[1][0] == _SOS and segment:
            many = segment[0]
            first, last, bits = segment[1 + 2 * many : 4 + 2 * many]
            if not bits & 15:
                for component in segment[1 : 1 + 2 * many : 2]:
                    sent[component] |= set(range(first, last + 1))
    return all(len(bands) == _COEFFICIENTS for bands in sent.values())


FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO", "QOI"),
    *("DIB", "PSD", "ICNS", "DDS", "SGI", "PCX", "TGA"),  # TGA has no signature, so it comes last
)
"""Decoded formats, in the order of trying. Pillow reads more, some by running other programs (EPS)."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""Brands of ISO/IEC 23008-12; the last two may be AVIF as well."""

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
"""Read with the extra ``heif``."""

BYTES_A_PIXEL = 5
"""How much memory an image of ``max_pixels`` may take to decode: 0.9 GB with the default."""

LONGEST_SIDE = 1_000_000
"""Pixels that a side may have: each row takes memory of its own, 40 bytes and more, however short it is."""

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
    if max(width, height) > LONGEST_SIDE:
        raise ImageDecodeError(
            f"{width} x {height} pixels: a side may have {LONGEST_SIDE:,} at most; cut the image into pieces"
        )
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


def pixels_of(image: Pillow.Image, decoding: Decoding = _DEFAULT) -> Image:
    """Return the pixels of a PIL image, its current frame, as those of a file: (H, W, 3) uint8 sRGB, upright.

    :raises ImageDecodeError: If it is too large, or cannot be loaded.
    """
    try:
        check_size(image, decoding.max_pixels)
        if not min(image.size):
            raise ImageDecodeError(f"it has no pixels: {image.width} x {image.height}")
        return _upright(to_pixels(image, decoding.background), orientation(image))
    except Exception as err:  # as above: it may be a file that is not loaded yet
        raise ImageDecodeError(f"cannot read the PIL image {image!r}: {cause(err)}") from err


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
    """OpenCV rotates a TIFF upright whatever its flags say. None where it cannot read it."""
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
    image = header.crop((0, 0, *canvas)) if frame else header
    by = smaller.by if image.size == canvas else 1
    pixels = to_pixels(image, decoding.background, by, key, alpha)
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
