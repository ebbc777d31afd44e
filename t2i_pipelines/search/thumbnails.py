"""Read and decode the images of hits, as WebP in ``data:`` URIs or side by side in one image."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from PIL import Image as Pillow
from PIL import ImageColor, ImageDraw, ImageFont, ImageOps

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ConfigError, ImageDecodeError, SourceError
from t2i_pipelines.images import decode, is_remote, read
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.shrink import MARGIN

THREADS = 8
"""Images that are read at the same time."""

_LENIENT = Decoding(truncated="accept")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load(path: str, longest: int | None = None) -> Pillow.Image:
    """Read an image: upright, RGB, over white. What is there of a file that is cut off is taken.

    :param path: a path or any address that can be inserted; what is remote is fetched.
    :param longest: the longer side is at most this, in pixels; a large JPEG is decoded at a fraction.
    :raises ImageDecodeError: If it cannot be read; names file and cause.
    """
    try:
        if _is_other(path):
            raise ImageDecodeError(f"cannot read image {path}: it is not a file")
        return decoded(read(path), path, longest)
    except SourceError as err:
        raise ImageDecodeError(f"cannot read image {path}: {err}") from err


def decoded(content: bytes, name: str, longest: int | None = None) -> Pillow.Image:
    """Decode an image, see :func:`load`."""
    side = None if longest is None else lambda: longest // MARGIN
    return shrunk(Pillow.fromarray(decode(content, name, _LENIENT, side)), longest)


def shrunk(image: Pillow.Image, longest: int | None) -> Pillow.Image:
    """The image, its longer side at most ``longest`` pixels."""
    if longest is not None:
        image.thumbnail((longest, longest))
    return image


def is_gone(path: str) -> bool:
    """Whether a local file is no longer there; of a file in a tar, the tar. Nothing remote is asked."""
    if is_remote(path):
        return False
    try:
        Path(_local(path)).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # there may be a file, which cannot be read
        return False
    return False


def _is_other(path: str) -> bool:
    """Whether a local path is no file: a folder, a device or a pipe, which reading would not end."""
    return not is_remote(path) and not is_gone(path) and not os.path.isfile(_local(path))  # noqa: PTH113


def _local(path: str) -> str:
    while scheme(path) == "tar":
        path = path.partition("::")[2]
    return normal(path) if scheme(path) else path


def together(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Do the same to many, ``THREADS`` at a time; results come in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def montage(
    images: Sequence[Pillow.Image | None], columns: int, size: int, crop: bool, gap: int, background: str
) -> Pillow.Image:
    """Lay out images in rows from the top left, each in a square.

    :param images: of any size; None leaves a place that says ``missing``.
    :param size: side of a square, in pixels.
    :param crop: fill the square and cut off what stands out; otherwise the whole image is seen.
    :param gap: pixels between squares.
    :return: RGB, ``columns * size + (columns - 1) * gap`` wide.
    :raises ConfigError: If the gap is out of its range, or the colour is none.
    """
    check_whole_number("gap", gap, 1000, lowest=0)
    try:
        ImageColor.getrgb(background)
    except ValueError as err:
        raise ConfigError(
            f"background must be a colour such as 'white' or '#fff', got {background!r}"
        ) from err
    rows = -(-len(images) // columns)
    step = size + gap
    whole = Pillow.new("RGB", (columns * step - gap, rows * step - gap), background)
    for number, image in enumerate(images):
        if image is None:
            tile = _missing(size)
        elif crop:
            tile = ImageOps.fit(image, (size, size))
        else:
            tile = ImageOps.pad(image, (size, size), color=background)
        whole.paste(tile, (number % columns * step, number // columns * step))
    return whole


def _missing(size: int) -> Pillow.Image:
    tile = Pillow.new("RGB", (size, size), "#888")
    font = ImageFont.load_default(max(8, size / 8))
    ImageDraw.Draw(tile).text((size / 2, size / 2), "missing", "white", font=font, anchor="mm")
    return tile


LONGEST = 256
"""Longer side of an embedded image, in pixels."""

PLACE = 150
"""Side of the place for an image where a viewer drops our style sheet, in pixels."""

BUDGET = 450_000
"""Bytes that all images of one grid may take; base64 makes four of three."""

MOST = 24_000
"""Bytes that one image may take."""

_STEPS = ((LONGEST, 80), (LONGEST, 50), (192, 60), (128, 60), (96, 40), (64, 30))
"""(longer side, WebP quality), tried in this order until an image is small enough."""

State: TypeAlias = Literal["shown", "missing", "remote", "unreadable"]


@dataclass(frozen=True)
class Thumbnail:
    """An image as a page shows it.

    :ivar state: ``missing`` where the file is gone; ``remote`` where it was not fetched.
    :ivar content: WebP; empty unless the state is ``shown``.
    :ivar width: in pixels, 0 unless the state is ``shown``.
    :ivar height: in pixels, 0 unless the state is ``shown``.
    """

    state: State
    content: bytes = b""
    width: int = 0
    height: int = 0

    @classmethod
    def of(cls, image: Pillow.Image, most: int = MOST) -> Thumbnail:
        """Make one of an image of mode RGB, in at most ``most`` bytes."""
        for longest, quality in _STEPS:
            small = shrunk(image.copy(), longest)
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=quality, method=2)
            if buffer.tell() <= most:
                break
        return cls("shown", buffer.getvalue(), *small.size)

    @property
    def uri(self) -> str:
        """As the source of an image; empty unless the state is ``shown``."""
        if not self.content:
            return ""
        return "data:image/webp;base64," + base64.b64encode(self.content).decode()

    @property
    def fitted(self) -> tuple[int, int]:
        """(width, height) in the place for it in a grid, ``PLACE`` pixels in square."""
        scale = PLACE / max(self.width, self.height, 1)
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))


def thumbnails(
    paths: Sequence[str], known: Mapping[str, Thumbnail], fetch: bool = False, budget: int | None = BUDGET
) -> list[Thumbnail]:
    """A thumbnail for each path; never an error, so that a page shows the others.

    :param known: those that were made before, by path.
    :param fetch: ask for what is remote; otherwise nothing leaves this machine.
    :param budget: bytes for all of them together; None for ``MOST`` bytes each.
    """
    most = MOST if budget is None else min(MOST, budget // max(1, len(paths)))

    def one(path: str) -> Thumbnail:
        return known.get(path) or thumbnail(path, most, fetch)

    return together(one, paths)


def thumbnail(path: str, most: int = MOST, fetch: bool = False) -> Thumbnail:
    """The thumbnail of what is at a path; see :func:`thumbnails`."""
    if is_remote(path) and not fetch:
        return Thumbnail("remote")
    if is_gone(path):
        return Thumbnail("missing")
    try:
        return Thumbnail.of(load(path, LONGEST), most)
    except ImageDecodeError:
        return Thumbnail("unreadable")
