"""What was searched for, as people read it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError, QueryError
from t2i_pipelines.search.query import Img, Like, Q, Query, query_of
from t2i_pipelines.search.query.algebra import Operand, number
from t2i_pipelines.search.results.address import name_of
from t2i_pipelines.search.results.pictures import decoded
from t2i_pipelines.search.results.printable import printable
from t2i_pipelines.search.results.thumbnails import LONGEST, Thumbnail, thumbnail

MOST = 4_000
"""Bytes that an image of a query may take."""

OPERANDS = 8
"""Operands of a query that are shown."""

LONGEST_TEXT = 400
"""Characters of an operand that are shown."""


@dataclass(frozen=True)
class Part:
    """An operand of a query.

    :ivar text: the words, or the name of the image.
    :ivar picture: None for words.
    :ivar sign: what stands before it: a plus, a minus or nothing.
    :ivar weight: how often it counts; empty for once.
    """

    text: str
    picture: Thumbnail | None = None
    sign: str = ""
    weight: str = ""


def parts(
    query: object,
    paths: Mapping[str, str] | None = None,
    known: Mapping[str, Thumbnail] | None = None,
) -> list[Part]:
    """The operands of a query, in order; none for None. Images on the web are named and not fetched.

    :param query: anything that can be searched for; the text of anything else.
    :param paths: where images are, by id, for queries that name an id.
    :param known: thumbnails that were made before, by path.
    """
    found = _query(query)
    if found is None:
        return [Part(printable(query, LONGEST_TEXT))] if query is not None and str(query) else []
    shown: list[Part] = []
    for weight, operand in found.terms[:OPERANDS]:
        sign = "−" if weight < 0 else "+" if shown else ""
        times = "" if abs(weight) == 1 else f"× {number(abs(weight))}"
        text, picture = _shown(operand, paths or {}, known or {})
        shown.append(Part(printable(text, LONGEST_TEXT), picture, sign, times))
    if left := len(found.terms) - OPERANDS:
        shown += [Part(f"and {left} more")] if left > 0 else []
    return shown


def addresses(query: object) -> list[str]:
    """Where the images of a query are that were given by path or URL."""
    found = _query(query)
    pictures = [operand.picture for _, operand in found.terms if isinstance(operand, Img)] if found else []
    return [picture for picture in pictures if isinstance(picture, str)]


def as_text(query: object) -> str:
    """A query in one line, as the command line takes it; words as they are; empty for None."""
    if query is None or isinstance(query, str):
        return query or ""
    found = _query(query)
    return str(query if found is None else found)


def _query(query: object) -> Query | None:
    try:
        return query_of(query)
    except QueryError:  # it was never searched for: the list was put together by hand
        return None


def _shown(
    operand: Operand, paths: Mapping[str, str], known: Mapping[str, Thumbnail]
) -> tuple[str, Thumbnail | None]:
    if isinstance(operand, Q):
        return operand.text, None
    if isinstance(operand, Like):
        path = paths.get(operand.id)
        return f"like {operand.id}", None if path is None else known.get(path) or thumbnail(path, MOST)
    given = operand.picture
    if isinstance(given, str):
        return name_of(given), known.get(given) or thumbnail(given, MOST)
    return operand.described, _thumbnail(given)


def _thumbnail(given: object) -> Thumbnail:
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
    """An image of any mode by the decoder: upright, RGB, over white."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=picture.getexif())
    return decoded(buffer.getvalue(), "<PIL image>", LONGEST)
