"""Render templates to HTML, with the images of hits as WebP in ``data:`` URIs; and texts for people.

All text is escaped; images are embedded; no script, and nothing from outside. Text of others cannot steer a
terminal or break an encoding.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from PIL import Image as Pillow
from PIL import ImageColor, ImageDraw, ImageFont, ImageOps

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ConfigError, ImageDecodeError, SourceError
from t2i_pipelines.images import decode, is_remote, read
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.shrink import MARGIN

if TYPE_CHECKING:
    from jinja2 import Environment

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters, of which terminals take orders
    "\u202a-\u202e\u2066-\u2069"  # turn the direction of all that follows
    "\ud800-\udfff\ufffe\uffff]"  # half a character: a file name that is not UTF-8
)


def printable(value: object, longest: int | None = None) -> str:
    """Return the text of a value, in one line; what cannot be printed becomes U+FFFD.

    :param longest: characters to keep; a longer text ends in an ellipsis.
    """
    text = _UNPRINTABLE.sub("\ufffd", str(value))
    text = re.sub(r"[\t\n\r\u2028\u2029]+", " ", text)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def percent(share: float | None) -> str:
    """Return a share as people read it: ``83%``, ``<1%``; empty for None."""
    if share is None:
        return ""
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def name_of(path: str) -> str:
    """Return the last part of a path, of a URL, or of the name of a file in a tar; never empty."""
    if scheme(path) == "tar":
        path = path.partition("::")[0]
    elif scheme(path):
        path = path.partition("?")[0].partition("#")[0]
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def near(path: str) -> str:
    """Return the path as seen from the folder that this process works in, where that is shorter."""
    if "://" in path:
        return path
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


def fragment(body: str, **shown: Any) -> str:
    """Return a part of a page, with its style, as notebooks show it.

    :param body: name of the template.
    """
    return environment().get_template("fragment.html").render(body=body, **shown)


def page(
    body: str,
    title: str = "",
    note: str = "",
    window: str = "Results",
    steps: Sequence[tuple[str, str]] = (),
    **shown: Any,
) -> str:
    """Return a page that needs nothing else.

    :param body: name of the template.
    :param title: the heading; without one there is none.
    :param note: a line below the title.
    :param window: the title of the browser's window where the page has none.
    :param steps: commands to go on with, listed at the end, each after its purpose.
    """
    shown |= {"body": body, "title": title, "note": note, "window": window, "steps": steps}
    return environment().get_template("page.html").render(**shown)


def save(path: str | os.PathLike[str], html: str) -> Path:
    """Write a page as UTF-8, and make the folders above it.

    :return: where it is.
    """
    place = Path(path).expanduser()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(html, encoding="utf-8")
    return place


@cache
def environment() -> Environment:
    """Return what renders templates: it escapes all text, and replaces what cannot be printed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def text(value: object) -> object:
        return value if isinstance(value, Markup) else printable(value)

    return Environment(
        loader=PackageLoader("t2i_pipelines.search"),
        autoescape=True,
        finalize=text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


THREADS = 8
"""Images that are read at the same time."""

_LENIENT = Decoding(truncated="accept")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load(path: str, longest: int | None = None) -> Pillow.Image:
    """Read an image: upright, RGB, over white. Of a file that is cut off, the part that is there is shown.

    :param path: a path or any address that can be inserted; a remote image is fetched.
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
    """Return the image, its longer side at most ``longest`` pixels."""
    if longest is not None:
        image.thumbnail((longest, longest))
    return image


def is_gone(path: str) -> bool:
    """Return whether a local file is no longer there.

    Of a file in a tar, the tar. Nothing remote is asked.
    """
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
    """Return whether a local path is no file: a folder, a device or a pipe, which reading would not end."""
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
    """Return a thumbnail for each path; never an error, so that a page shows the others.

    :param known: those that were made before, by path.
    :param fetch: fetch remote images; otherwise nothing leaves this machine.
    :param budget: bytes for all of them together; None for ``MOST`` bytes each.
    """
    most = MOST if budget is None else min(MOST, budget // max(1, len(paths)))

    def one(path: str) -> Thumbnail:
        return known.get(path) or thumbnail(path, most, fetch)

    return together(one, paths)


def thumbnail(path: str, most: int = MOST, fetch: bool = False) -> Thumbnail:
    """Return the thumbnail of the image at a path; see :func:`thumbnails`."""
    if is_remote(path) and not fetch:
        return Thumbnail("remote")
    if is_gone(path):
        return Thumbnail("missing")
    try:
        return Thumbnail.of(load(path, LONGEST), most)
    except ImageDecodeError:
        return Thumbnail("unreadable")
