"""Search results as one self-contained HTML page: pictures, scores, paths; no script, no link out."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.hit import Hit
from t2i_pipelines.images import decode, read

THUMBNAIL = 256
"""Longest side of an embedded picture, in pixels."""


@dataclass(frozen=True)
class _Tile:
    """One hit as the page shows it; ``data`` is empty where the picture can no longer be read."""

    name: str
    path: str
    score: float
    data: str

    @property
    def percent(self) -> int:
        """The cosine as the length of a bar; below zero there is none."""
        return round(max(0.0, self.score) * 100)


def thumbnail(path: str, longest: int = THUMBNAIL) -> Pillow.Image:
    """A small upright RGB copy of a picture.

    :raises ImageDecodeError: If it cannot be read.
    """
    picture = Pillow.fromarray(decode(read(path), path))
    picture.thumbnail((longest, longest))
    return picture


def render(results: Iterable[tuple[str, Sequence[Hit]]], title: str = "Results", note: str = "") -> str:
    """Render pairs of query and hits. All text is escaped; pictures are embedded as JPEG.

    :param note: a line below the title.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("t2i_pipelines", "."), autoescape=True)
    shown = [(query, [_tile(hit) for hit in hits]) for query, hits in results]
    return environment.get_template("page.html").render(results=shown, title=title, note=note)


def _tile(hit: Hit) -> _Tile:
    try:
        data = _data_uri(thumbnail(hit.path))
    except ImageDecodeError:
        data = ""
    return _Tile(Path(hit.path).name, hit.path, hit.score, data)


def _data_uri(picture: Pillow.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
