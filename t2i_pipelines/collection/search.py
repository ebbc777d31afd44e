"""Search a collection: the request, the order of hits across pages, and exact scans past Milvus's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.collection import schema
from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.collection.failures import RefusedError
from t2i_pipelines.collection.rerank import different, in_range, one_of_each, placed, unlike
from t2i_pipelines.collection.rows import check_vectors
from t2i_pipelines.config.search import (
    MAX_LIMIT,
    SearchOptions,
    check_filter,
    expression,
    literal,
    read_where,
    template,
)
from t2i_pipelines.errors import ConfigError, StoreError, VectorError
from t2i_pipelines.types import Hit, Matrix, Vector

if TYPE_CHECKING:
    from t2i_pipelines.collection.collection import Collection

Page = list[dict[str, Any]]

LITE_PAGE = 250_000
"""Rows of a page of Milvus Lite, which goes through the whole collection for each."""

VECTORS_PAGE = 10_000
"""Rows of a page with vectors: of a server's answer at most 64 MB, and not much memory."""


def pages(
    query: Callable[..., Page],
    fields: Sequence[str],
    is_lite: bool,
    filters: Sequence[Mapping[str, Any]] = ({},),
    *,
    after: str = "",
    most: int | None = None,
) -> Iterator[Page]:
    """Pages of rows, each beginning after the last id of the one before.

    ``MilvusClient.query_iterator`` does the same, but an id that holds a quote breaks its filter, and
    what it asks of a server 2.3 is answered without the latest writes, whatever consistency is asked for.

    :param query: reads one page, given forms of a filter, and further arguments of ``MilvusClient.query``.
    :param filters: forms of one filter, each as arguments of ``MilvusClient.query``.
    :param after: only rows of a higher id.
    :param most: rows of a page, in place of what suits most collections.
    :raises StoreError: If the ids of a page do not come in order: then rows might be left out.
    """
    last, limit = after, LITE_PAGE if is_lite else MAX_LIMIT
    if most is not None or "vector" in fields:
        limit = most or VECTORS_PAGE
    in_order = {"iterator": "True"} if is_lite else {}  # a server's limited query is in the order of ids
    while True:
        after = f"id > {literal(last)}"
        forms = [
            {**form, "filter": f"({after}) and ({form['filter']})" if form.get("filter") else after}
            for form in filters
        ]
        page = query(forms, limit=limit, output_fields=["id", *fields], **in_order)
        ids = [last, *(row["id"] for row in page)]
        if any(before >= later for before, later in pairwise(ids)):
            raise StoreError(f"this Milvus gives rows out of order when asked for those with {after}")
        if page:
            yield page
        if not page or (is_lite and len(page) < limit):  # a server's short page need not be its last
            return
        last = ids[-1]


HITS_A_CALL = 65536


def check_queries(vectors: Matrix, dim: int | None) -> Matrix:
    """(N, D) as float32.

    :param dim: None if there is no collection: then any length goes.
    :raises VectorError: If a query is not finite, zero, or not (dim,).
    """
    shape = np.shape(vectors)
    if len(shape) != 2:
        raise VectorError(f"search takes queries of shape (N, D), got {shape}")
    names = [f"query {number}" for number in range(shape[0])]
    return check_vectors(list(vectors), names, shape[1] if dim is None else dim)


def portions(queries: Matrix, limit: int) -> Iterator[Matrix]:
    """Yield the queries in order, as many a call as keep its answer small."""
    step = max(1, min(1024, HITS_A_CALL // int(limit)))
    for start in range(0, len(queries), step):
        yield queries[start : start + step]


def request(
    queries: Matrix, limit: int, output_fields: Sequence[str], params: Mapping[str, int]
) -> dict[str, Any]:
    """Arguments of ``MilvusClient.search``, but for the filter. Everything is said: defaults differ.

    :param params: how deep the index is searched.
    """
    fields = [field for field in output_fields if field != "id"]
    return {
        "data": list(queries),
        "anns_field": "vector",
        "limit": int(limit),
        "output_fields": list(dict.fromkeys(["path", *fields])),
        "search_params": {"metric_type": "COSINE", "params": dict(params)},
    }


def from_answer(answer: Any, queries: int, output_fields: Sequence[str]) -> list[list[Hit]]:
    """Return what ``MilvusClient.search`` returned, as hits; None, without collection, as no hits."""
    if answer is None:
        return [[] for _ in range(queries)]
    return [
        [hit(str(found["id"]), found["distance"], found["entity"], output_fields) for found in one]
        for one in answer
    ]


def hit(id: str, score: float, row: Mapping[str, Any], output_fields: Sequence[str]) -> Hit:
    """Return a hit from the fields of its row.

    :param output_fields: those that the hit shall show, ``*`` for all but the vector.
    """
    score = min(1.0, max(-1.0, float(score)))  # float32 sums end a little beyond
    return Hit(id, score, row["path"], _fields(row, output_fields) if output_fields else None)


def _fields(row: Mapping[str, Any], output_fields: Sequence[str]) -> dict[str, Any]:
    row = dict(row)
    stored = [key for key in row if key not in ("vector", "$meta")]
    wanted = [key for name in output_fields for key in (stored if name == "*" else [name])]
    return {
        key: np.asarray(row[key], np.float32) if key == "vector" else row[key]
        for key in dict.fromkeys(wanted)
        if key not in ("id", "path") and row.get(key) is not None
    }


Search = Callable[[Matrix, int, int], list[list[Hit]]]
"""(N, D) queries, how many hits, and how deep the index is to look for them -> N lists."""


@dataclass
class _Reading:
    """How far the hits of one query have been read.

    :ivar final: hits that will not change any more, in order.
    :ivar seen: their ids.
    :ivar rungs: how many rungs they took.
    :ivar whole: nothing is left.
    """

    query: Vector
    final: list[Hit] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    rungs: int = 0
    whole: bool = False

    def merged(self, answer: list[Hit]) -> list[Hit]:
        """Return the final hits, then the new ones by score, equal scores by id."""
        fresh = [hit for hit in answer if hit.id not in self.seen]
        return [*self.final, *sorted(fresh, key=lambda hit: (-hit.score, hit.id))]

    def settle(self, hits: list[Hit]) -> None:
        """Let nothing in front of these hits, nor between them."""
        self.final, self.seen = hits, {hit.id for hit in hits}


class Rankings:
    """The rows of a collection, ranked for each of some queries.

    An approximate index that is asked for more hits also looks deeper, and may find one that belongs further
    up. Then two pages would overlap. So it is asked for fixed numbers of hits, its rungs, and what a rung
    has given keeps its place: a page is the same part of every longer list. (Of rows with one score that end
    a rung, the index decides which belong to it.) Rows beyond the last rung, or that it cannot reach, follow
    by an exact comparison with every row.

    :param search: asks the index.
    :param rungs: numbers of hits, rising.
    :param exact: the index misses nothing.
    :param count: tells how many rows there are to be ranked.
    :param rest: all rows but those with these ids, by score.
    """

    def __init__(
        self,
        queries: Matrix,
        search: Search,
        *,
        rungs: Sequence[int],
        exact: bool,
        count: Callable[[], int],
        rest: Callable[[Vector, set[str]], Iterator[Hit]],
    ) -> None:
        self._readings = [_Reading(query) for query in queries]
        self._search, self._rungs, self._exact, self._count, self._rest = search, rungs, exact, count, rest

    def top(self, number: int) -> list[list[Hit]]:
        """Return the first ``number`` hits of each query, fewer only if there are no more rows."""
        for _ in self._rungs:
            if reading := [one for one in self._readings if not one.whole and len(one.final) < number]:
                self._climb(reading, number)
        for one in self._readings:
            if not one.whole and len(one.final) < number:
                one.final += islice(self._rest(one.query, one.seen), number - len(one.final))
        return [one.final[:number] for one in self._readings]

    def walks(self) -> list[Iterator[Hit]]:
        """Return the hits of each query for as long as they are asked for."""
        self._climb(self._readings, self._rungs[0])
        return [self._walk(reading) for reading in self._readings]

    def _walk(self, reading: _Reading) -> Iterator[Hit]:
        given = 0
        while True:
            yield from reading.final[given:]
            given = len(reading.final)
            if reading.whole:
                return
            if reading.rungs == len(self._rungs):
                break
            self._climb([reading], self._rungs[reading.rungs])
        yield from self._rest(reading.query, reading.seen)

    def _climb(self, readings: list[_Reading], number: int) -> None:
        """Read one rung further; all must be at the same. Of a rung that reaches ``number`` hits, no more."""
        size = self._rungs[readings[0].rungs]
        limit = min(size, number + 1)
        answers = self._search(np.stack([one.query for one in readings]), limit, size)
        for one, answer in zip(readings, answers, strict=True):
            one.rungs += 1
            hits, full = one.merged(answer), len(answer) == limit
            if full and limit < size and hits[number - 1].score == hits[-1].score:
                # which of several with one score came was chance: their ids decide
                (answer,) = self._search(one.query[None], size, size)
                hits, full = one.merged(answer), len(answer) == size
            one.settle(hits)
            one.whole = not full and (self._exact or len(hits) >= self._count())


def cached(ask: Callable[[], Any]) -> Callable[[], Any]:
    """``ask``, asked once and not before it is needed."""
    answers: list[Any] = []

    def first() -> Any:
        if not answers:
            answers.append(ask())
        return answers[0]

    return first


Pages = Callable[[], Iterator[Sequence[Mapping[str, Any]]]]
"""Reads the collection again: pages of rows with id and vector."""

KEPT = 200_000
"""Rows that one pass through the collection puts in order."""


def cosines(page: Sequence[Mapping[str, Any]], query: Vector) -> NDArray[np.float64]:
    """Return the cosines of N rows, (N,). Each is independent of the others, unlike in a matrix product."""
    matrix = np.asarray([row["vector"] for row in page], np.float64)
    products = (matrix * query).sum(axis=1)
    return np.asarray(products / (np.sqrt((matrix * matrix).sum(axis=1)) * np.linalg.norm(query)))


def by_score(pages: Pages, query: Vector, passed_by: set[str]) -> Iterator[tuple[str, float]]:
    """Id and cosine of every row, best first, equal ones by id, but for ids that are ``passed_by``.

    Goes through the collection once for each ``KEPT`` rows that are asked for.
    """
    last = (-np.inf, "")
    while True:
        best: list[tuple[float, str]] = []
        for page in pages():
            found = zip((-cosines(page, query)).tolist(), (row["id"] for row in page), strict=True)
            best += (one for one in found if one > last and one[1] not in passed_by)
            if len(best) > 2 * KEPT:
                best = sorted(best)[:KEPT]
        best = sorted(best)[:KEPT]
        for score, id in best:
            yield id, -score
        if len(best) < KEPT:
            return
        last = best[-1]


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
        self._depth = schema.depth(entry.index_type, is_lite=collection.is_lite)
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
        """Return all hits of one query, past every limit."""
        (walk,) = self._rankings(query[None], [MAX_LIMIT]).walks()
        return islice(self._picked(walk), self._options.offset, None)

    def pages(
        self, fields: Sequence[str], *, after: str = "", most: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Return the rows that meet the filter, a page at a time; see :func:`pages`."""
        seconds = self._collection.patience if most is None else None

        def read(forms: Sequence[Form], **arguments: Any) -> list[dict[str, Any]]:
            return self._ask("query", forms, seconds=seconds, **arguments) or []

        return pages(read, fields, self._collection.is_lite, self._filters, after=after, most=most)

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
            count=cached(self.count),
            rest=self._rest,
        )

    def _search(self, queries: Matrix, limit: int, rung: int) -> list[list[Hit]]:
        found: list[list[Hit]] = []
        params = self._depth.params(rung, filtered=bool(self._filters[0].get("filter")))
        for some in portions(queries, limit):
            answer = self._ask("search", self._filters, **request(some, limit, self._fields, params))
            found += from_answer(answer, len(some), self._fields)
        return found

    def count(self) -> int:
        """Return how many rows meet the filter."""
        rows = self._ask("query", self._filters, output_fields=["count(*)"])
        return int(rows[0]["count(*)"]) if rows else 0

    def _rest(self, query: Vector, passed_by: set[str]) -> Iterator[Hit]:
        ranked = by_score(lambda: self.pages(["vector"]), query, passed_by)
        while some := list(islice(ranked, A_LOOKUP)):
            rows = self._collection.rows([id for id, _ in some], ["path", *self._fields])
            yield from (hit(id, score, rows[id], self._fields) for id, score in some if id in rows)

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
