"""Result lists as templates, texts and pandas show them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from t2i_pipelines.errors import ImageDecodeError, QueryError
from t2i_pipelines.search.query import Img, Like, Operand, Q, Query, number, query_of
from t2i_pipelines.search.render import (
    BUDGET,
    LONGEST,
    Thumbnail,
    decoded,
    name_of,
    percent,
    printable,
    thumbnail,
    thumbnails,
)
from t2i_pipelines.types import Hit

if TYPE_CHECKING:
    import pandas as pd

    from t2i_pipelines.search.hits import Hits

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
    :ivar image: None for words.
    :ivar sign: what stands before it: a plus, a minus or nothing.
    :ivar weight: how often it counts; empty for once.
    """

    text: str
    image: Thumbnail | None = None
    sign: str = ""
    weight: str = ""


def parts(
    query: object,
    paths: Mapping[str, str] | None = None,
    known: Mapping[str, Thumbnail] | None = None,
) -> list[Part]:
    """Return the operands of a query, in order; none for None. Images on the web are named and not fetched.

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
        text, image = _shown(operand, paths or {}, known or {})
        shown.append(Part(printable(text, LONGEST_TEXT), image, sign, times))
    if left := len(found.terms) - OPERANDS:
        shown += [Part(f"and {left} more")] if left > 0 else []
    return shown


def addresses(query: object) -> list[str]:
    """Return where the images of a query are that were given by path or URL."""
    found = _query(query)
    images = [operand.image for _, operand in found.terms if isinstance(operand, Img)] if found else []
    return [image for image in images if isinstance(image, str)]


def as_text(query: object) -> str:
    """Return a query in one line, as the command line takes it; words as they are; empty for None."""
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
    given = operand.image
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


def _upright(image: Pillow.Image) -> Pillow.Image:
    """Return an image of any mode by the decoder: upright, RGB, over white."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=image.getexif())
    return decoded(buffer.getvalue(), "<PIL image>", LONGEST)


SHOWN = 50
"""Hits that a notebook shows of one list; :meth:`Hits.save_html` writes all."""

FIELDS = 5
"""Further fields that are shown of one hit."""

LONGEST_FIELD = 100
"""Characters that are shown of one field."""

LONGEST_PATH = 240
"""Characters that are shown of a path, in the tooltip."""

STANDS_IN = {
    "missing": "missing",
    "remote": "not fetched",
    "unreadable": "cannot be shown",
}
"""What stands in the place of an image, by its state."""

NOTHING_STORED = "Nothing is stored that could match."
NOTHING_LEFT = "Nothing that is stored meets the conditions."
NOTHING_MORE = "There are no further hits."
NO_MATCH = "Nothing matches."
NEAREST = "Probably nothing matches. These are the nearest."


@dataclass(frozen=True)
class Tile:
    """One hit.

    :ivar note: stands beside the rank, such as how far the hit moved between two lists.
    """

    rank: int
    hit: Hit
    image: Thumbnail
    note: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return printable(name_of(self.hit.path), LONGEST_FIELD)

    @property
    def path(self) -> str:
        """The whole path; of a very long one, both ends."""
        text = printable(self.hit.path)
        half = LONGEST_PATH // 2
        return text if len(text) <= LONGEST_PATH else f"{text[:half]}…{text[-half:]}"

    @property
    def score(self) -> str:
        """The cosine, to three places."""
        return f"{self.hit.score:.3f}"

    @property
    def relevance(self) -> str:
        """The relevance in per cent; empty where nothing was calibrated."""
        return percent(self.hit.relevance)

    @property
    def percent(self) -> int:
        """Length of the bar: the relevance, where there is none the cosine; below zero there is no bar."""
        share = self.hit.score if self.hit.relevance is None else self.hit.relevance
        return round(100 * min(1.0, max(0.0, share)))

    @property
    def stands_in(self) -> str:
        """What stands in the place of the image, if it is not shown."""
        return STANDS_IN.get(self.image.state, "")

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and values of the first further fields."""
        shown = list(self.hit.fields.items())[:FIELDS]
        return [(printable(name, 40), printable(value, LONGEST_FIELD)) for name, value in shown]

    @property
    def further_fields(self) -> int:
        """How many fields are not shown."""
        return max(0, len(self.hit.fields) - FIELDS)


@dataclass(frozen=True)
class View:
    """One result list.

    :ivar verdict: that nothing matches, or why the list is empty; empty where hits speak for themselves.
    :ivar left_out: how many hits are not shown.
    """

    query: list[Part]
    tiles: list[Tile]
    verdict: str
    left_out: int = 0

    @property
    def summary(self) -> str:
        """How many hits."""
        total = len(self.tiles) + self.left_out
        return f"{total:,} hit{'' if total == 1 else 's'}"


def view(hits: Hits, most: int | None = SHOWN, budget: int | None = BUDGET) -> View:
    """Return the parts of a list that a page shows.

    :param most: hits to show; None for all.
    :param budget: bytes that all images may take.
    """
    shown = list(hits)[:most]
    images = thumbnails([hit.path for hit in shown], hits.fetched, budget=budget)
    tiles = [
        Tile(rank, hit, image)
        for rank, (hit, image) in enumerate(zip(shown, images, strict=True), hits.first_rank)
    ]
    paths = {hit.id: hit.path for hit in hits}
    return View(parts(hits.query, paths, hits.fetched), tiles, verdict(hits), len(hits) - len(shown))


def verdict(hits: Hits) -> str:
    """That nothing matches, or why a list is empty; empty where hits speak for themselves."""
    if hits.no_match:
        return NEAREST if hits else NO_MATCH
    if hits:
        return ""
    asked = hits.options
    if asked is None:
        return NOTHING_STORED
    if asked.offset:
        return NOTHING_MORE
    conditions = asked.filter, asked.where, asked.radius is not None, asked.min_relevance
    return NOTHING_LEFT if any(conditions) else NOTHING_STORED


TABLE_ROWS = 10
"""Hits that a text shows."""

COLUMNS = ("rank", "id", "score", "relevance", "path")


def text(hits: Hits) -> str:
    """Return the query, and a line for each of the first hits.

    Rank, score, relevance, path, further fields.
    """
    said = verdict(hits)
    query = printable(as_text(hits.query), 80)
    head = f"{len(hits):,} hit{'' if len(hits) == 1 else 's'}" + (f" for {query!r}" if query else "")
    lines = [f"<Hits: {head}{'. ' + said if said else ''}>"]
    shown = list(hits)[:TABLE_ROWS]
    width = len(str(hits.first_rank + len(shown) - 1))
    for rank, hit in enumerate(shown, hits.first_rank):
        relevance = "" if hit.relevance is None else f"  {percent(hit.relevance):>4}"
        fields = "".join(f"  {printable(name)}={printable(value, 40)}" for name, value in hit.fields.items())
        lines.append(f"  {rank:{width}}  {hit.score:6.3f}{relevance}  {printable(hit.path)}{fields}")
    if left := len(hits) - len(shown):
        lines.append(f"  ... and {left:,} more")
    return "\n".join(lines)


def frame(hits: Hits) -> pd.DataFrame:
    """See :meth:`Hits.to_pandas`."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"rank": rank, "id": hit.id, "score": hit.score, "relevance": hit.relevance, "path": hit.path}
        | {_column(name): value for name, value in hit.fields.items()}
        for rank, hit in enumerate(hits, hits.first_rank)
    ]
    fields = dict.fromkeys(_column(name) for hit in hits for name in hit.fields)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *fields])
    table = table.astype({"rank": "int64", "score": "float64", "relevance": "float64"}).set_index("rank")
    table.attrs["query"], table.attrs["no_match"] = as_text(hits.query), hits.no_match
    return table


def _column(field: str) -> str:
    """Return the column of a further field, apart from those that every table has."""
    return f"fields.{field}" if field in COLUMNS else field
