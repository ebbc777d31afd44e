"""Result lists as pages show them: what the templates are filled with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i_pipelines.search.results.address import name_of
from t2i_pipelines.search.results.asked import Part, parts
from t2i_pipelines.search.results.printable import percent, printable
from t2i_pipelines.search.results.thumbnails import BUDGET, Thumbnail, thumbnails
from t2i_pipelines.types import Hit

if TYPE_CHECKING:
    from t2i_pipelines.search.results.hits import Hits

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
    picture: Thumbnail
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
        return STANDS_IN.get(self.picture.state, "")

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
    """What is shown of a list.

    :param most: hits to show; None for all.
    :param budget: bytes that all images may take.
    """
    shown = list(hits)[:most]
    pictures = thumbnails([hit.path for hit in shown], hits.fetched, budget=budget)
    tiles = [
        Tile(rank, hit, picture)
        for rank, (hit, picture) in enumerate(zip(shown, pictures, strict=True), hits.first_rank)
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
