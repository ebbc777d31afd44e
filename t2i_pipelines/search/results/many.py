"""The hits of several queries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self, SupportsIndex, overload

from t2i_pipelines.search.results.hits import Hits
from t2i_pipelines.search.results.render import fragment, page, save
from t2i_pipelines.search.results.thumbnails import BUDGET
from t2i_pipelines.search.results.view import SHOWN, view

QUERIES = 10
"""Queries that a notebook shows."""


class ManyHits(list[Hits]):
    """The hits of several queries, in the order of the queries. A list of :class:`Hits`."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hits: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Hits | Self:
        """The hits of one query, or of some."""
        found = super().__getitem__(index)
        return found if isinstance(found, Hits) else type(self)(found)

    def __repr__(self) -> str:
        """Each list, one below the other."""
        return "\n".join(map(repr, self)) or "<ManyHits: no queries>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a grid for each of the first ten queries, 50 hits in all."""
        shown = self[:QUERIES]
        each = SHOWN // max(1, len(shown))
        views = [view(hits, each, BUDGET * each // SHOWN) for hits in shown]
        return fragment("hits.html", views=views, unseen=len(self) - len(shown))

    def save_html(self, path: str | os.PathLike[str], title: str = "", note: str = "") -> Path:
        """Write all hits of all queries as one page; see :meth:`Hits.save_html`."""
        return save(path, page("hits.html", title, note, views=[view(hits, None, None) for hits in self]))
