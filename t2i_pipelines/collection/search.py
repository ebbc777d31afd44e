"""One search of a collection: what Milvus is asked for, and which of its answers are hits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_pipelines.collection import hits, indexes, scan
from t2i_pipelines.collection.entry import Entry
from t2i_pipelines.collection.every_row import by_score
from t2i_pipelines.collection.failures import RefusedError
from t2i_pipelines.collection.picking import different, in_range, one_of_each, placed, unlike
from t2i_pipelines.collection.ranking import Rankings, cached
from t2i_pipelines.config.conditions import check_filter, expression, read_where, template
from t2i_pipelines.config.search import MAX_LIMIT, SearchOptions
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Hit, Matrix, Vector

if TYPE_CHECKING:
    from t2i_pipelines.collection.collection import Collection

A_LOOKUP = 1000
"""Rows that are looked up by id at a time."""

A_STEP = 128
"""Hits to read first where it is unknown how many will be skipped."""

TEMPLATES = (2, 5)
"""The first Milvus that takes the values of a filter apart from it. Neither 2.3 nor Milvus Lite does."""

Form = dict[str, Any]
"""Arguments of ``MilvusClient`` that say which rows are meant."""


class Finder:
    """Searches a collection as ``options`` ask for."""

    def __init__(self, collection: Collection, entry: Entry, options: SearchOptions) -> None:
        self._collection, self._entry, self._options = collection, entry, options
        self._filters = filters(
            options,
            is_lite=collection.is_lite,
            templates=collection.version >= TEMPLATES,
            typed=entry.storage.partition_key,
        )
        self._depth = indexes.depth(entry.index_type, is_lite=collection.is_lite)
        group = [] if options.group_by is None else [options.group_by]
        self._fields = list(dict.fromkeys([*options.output_fields, *group]))

    def find(self, queries: Matrix) -> list[list[Hit]]:
        """(N, D) float32 -> N lists of hits."""
        asked = self._options
        first, last = asked.offset, asked.offset + asked.limit
        rungs = self._depth.rungs
        if self._takes_all:
            found = self._rankings(queries, rungs).top(last)
            ranked = [in_range(hits, asked.radius, None) for hits in found]
        else:
            steps = (A_STEP, *rungs) if self._depth.exact else rungs
            ranked = [self._picked(walk) for walk in self._rankings(queries, steps).walks()]
        return [list(islice(one, first, last)) for one in ranked]

    def every(self, query: Vector) -> Iterator[Hit]:
        """All hits of one query, past every limit."""
        (walk,) = self._rankings(query[None], [MAX_LIMIT]).walks()
        return islice(self._picked(walk), self._options.offset, None)

    def pages(self, fields: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """The rows that meet the filter, a page at a time."""
        seconds = self._collection.patience

        def read(forms: Sequence[Form], **arguments: Any) -> list[dict[str, Any]]:
            return self._ask("query", forms, seconds=seconds, **arguments) or []

        return scan.pages(read, fields, self._collection.is_lite, self._filters)

    @property
    def _takes_all(self) -> bool:
        asked = self._options
        return (asked.range_filter, asked.group_by, asked.collapse, asked.diversity) == (None, None, None, 0)

    def _picked(self, walk: Iterable[Hit]) -> Iterator[Hit]:
        asked = self._options
        found = in_range(walk, asked.radius, asked.range_filter)
        if asked.group_by is not None:
            found = one_of_each(found, asked.group_by)
            if asked.group_by not in asked.output_fields and "*" not in asked.output_fields:
                found = (_without(hit, asked.group_by) for hit in found)
        if asked.collapse is None and not asked.diversity:
            return found
        beside = placed(found, self._vectors)
        if asked.collapse is not None:
            beside = unlike(beside, asked.collapse)
        if asked.diversity:
            beside = different(beside, asked.diversity)
        return (one.hit for one in beside)

    def _rankings(self, queries: Matrix, rungs: Sequence[int]) -> Rankings:
        return Rankings(
            queries,
            self._search,
            rungs=rungs,
            exact=self._depth.exact,
            count=cached(self._count),
            rest=self._rest,
        )

    def _search(self, queries: Matrix, limit: int, rung: int) -> list[list[Hit]]:
        found: list[list[Hit]] = []
        params = self._depth.params(rung, filtered=bool(self._filters[0].get("filter")))
        for some in hits.portions(queries, limit):
            answer = self._ask("search", self._filters, **hits.request(some, limit, self._fields, params))
            found += hits.from_answer(answer, len(some), self._fields)
        return found

    def _count(self) -> int:
        rows = self._ask("query", self._filters, output_fields=["count(*)"])
        return int(rows[0]["count(*)"]) if rows else 0

    def _rest(self, query: Vector, passed_by: set[str]) -> Iterator[Hit]:
        ranked = by_score(lambda: self.pages(["vector"]), query, passed_by)
        while some := list(islice(ranked, A_LOOKUP)):
            rows = self._collection.rows([id for id, _ in some], ["path", *self._fields])
            yield from (hits.hit(id, score, rows[id], self._fields) for id, score in some if id in rows)

    def _vectors(self, ids: Sequence[str]) -> dict[str, Vector]:
        rows = self._collection.rows(ids, ["vector"])
        vectors = {id: np.asarray(row["vector"], np.float32) for id, row in rows.items()}
        return {id: vector / np.linalg.norm(vector) for id, vector in vectors.items()}

    def _ask(self, method: str, forms: Sequence[Form], **arguments: Any) -> Any:
        """Read, with the first form of the filter that this Milvus understands.

        :raises ConfigError: If it understands none.
        """
        for form in forms[:-1]:
            with suppress(RefusedError):
                return self._collection.read(method, **form, **arguments)
        try:
            return self._collection.read(method, **forms[-1], **arguments)
        except RefusedError as err:
            if not self._filters[-1]["filter"]:
                raise
            raise ConfigError(f"filter {self._filters[-1]['filter']!r} was refused: {err}") from err


def filters(
    options: SearchOptions, *, is_lite: bool, templates: bool, typed: str | None = None
) -> list[Form]:
    """Forms of one filter, to be tried in this order.

    :param typed: the metadata field that has a column of its own.
    """
    conditions, filter = read_where(options.where), check_filter(options.filter)
    conditions = [replace(one, typed=one.field == typed) for one in conditions]
    plain = {"filter": expression(filter, conditions, is_lite=is_lite)}
    if not templates or not conditions:
        return [plain]
    written, values = template(filter, conditions)
    return [{"filter": written, "filter_params": values}, plain]


def _without(hit: Hit, name: str) -> Hit:
    fields = {key: value for key, value in hit.fields.items() if key != name}
    return Hit(hit.id, hit.score, hit.path, fields, hit.relevance)
