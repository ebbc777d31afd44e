"""What was searched for, as people read it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError, QueryError
from t2i_pipelines.query import Img, Like, Q, Query, query_of
from t2i_pipelines.query.algebra import Operand, number
from t2i_pipelines.results.address import name_of
from t2i_pipelines.results.pictures import decoded
from t2i_pipelines.results.thumbnails import LONGEST, Thumbnail, thumbnail

MOST = 10_000
"""Bytes that a picture of a query may take."""


@dataclass(frozen=True)
class Part:
    """An operand of a query.

    :ivar text: the words, or the name of the picture.
    :ivar picture: None for words.
    :ivar sign: what stands before it: a plus, a minus or nothing.
    :ivar weight: how often it counts; empty for once.
    """

    text: str
    picture: Thumbnail | None = None
    sign: str = ""
    weight: str = ""


def parts(query: object, paths: Mapping[str, str] | None = None) -> list[Part]:
    """The operands of a query, in order; none for None. Pictures on the web are named and not fetched.

    :param query: anything that can be searched for; the text of anything else.
    :param paths: where pictures are, by id, for queries that name an id.
    """
    found = _query(query)
    if found is None:
        return [Part(str(query))] if query is not None and str(query) else []
    return [
        _part(operand, weight, first=not place, paths=paths or {})
        for place, (weight, operand) in enumerate(found.terms)
    ]


def as_text(query: object) -> str:
    """A query in one line, as the command line takes it; words as they are; empty for None."""
    if query is None or isinstance(query, str):
        return query or ""
    found = _query(query)
    return str(query if found is None else found)


def _query(query: object) -> Query | None:
    try:
        return query_of(query)
    except QueryError:  # it was never searched for: somebody put the list together
        return None


def _part(operand: Operand, weight: float, first: bool, paths: Mapping[str, str]) -> Part:
    sign = "−" if weight < 0 else "" if first else "+"
    times = "" if abs(weight) == 1 else f"× {number(abs(weight))}"
    if isinstance(operand, Q):
        return Part(operand.text, None, sign, times)
    if isinstance(operand, Like):
        path = paths.get(operand.id)
        return Part(f"like {operand.id}", thumbnail(path, MOST) if path else None, sign, times)
    return Part(_name(operand), _thumbnail(operand.picture), sign, times)


def _name(operand: Img) -> str:
    given = operand.picture
    return name_of(given) if isinstance(given, str) else operand.described


def _thumbnail(given: object) -> Thumbnail:
    if isinstance(given, str):
        return thumbnail(given, MOST)
    try:
        if isinstance(given, bytes):
            return Thumbnail.of(decoded(given, "<bytes>", LONGEST), MOST)
        if isinstance(given, np.ndarray):
            return Thumbnail.of(Pillow.fromarray(given), MOST)
        assert isinstance(given, Pillow.Image)
        return Thumbnail.of(_upright(given), MOST)
    except (ImageDecodeError, OSError, ValueError):
        return Thumbnail("unreadable")


def _upright(picture: Pillow.Image) -> Pillow.Image:
    """A picture of any mode by the decoder: upright, RGB, over white."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=picture.getexif())
    return decoded(buffer.getvalue(), "<PIL image>", LONGEST)
