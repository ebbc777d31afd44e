"""Small images that travel inside a page, as WebP in ``data:`` URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import is_remote
from t2i_pipelines.search.results.pictures import is_gone, load, shrunk, together

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
    def of(cls, picture: Pillow.Image, most: int = MOST) -> Thumbnail:
        """Make one of an image of mode RGB, in at most ``most`` bytes."""
        for longest, quality in _STEPS:
            small = shrunk(picture.copy(), longest)
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
