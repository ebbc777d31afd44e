"""The same queries through Milvus: what the index finds of what an exact search would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.collection import Collection, collection_names, open_collection
from t2i_pipelines.config.storage import AUTO
from t2i_pipelines.errors import CollectionNotFoundError, SourceError
from t2i_pipelines.evaluate.directions import Direction, Embedded
from t2i_pipelines.evaluate.metrics import DEPTH, Bootstrap, Metric, in_order, judged
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.evaluate.ranks import DECIMALS, units
from t2i_pipelines.images import path_key
from t2i_pipelines.types import Hit, Matrix, Space

AT_ONCE = 64
"""Queries of one search."""

ALONE = 32
"""Queries that are searched one at a time, to see how long one takes."""

ROWS_AT_ONCE = 1000
ROUNDING = 10.0**-DECIMALS


@dataclass(frozen=True)
class Place:
    """Where the collection is.

    :ivar collection_name: None for one that is made for these pairs and dropped at the end.
    :ivar index_type: of a collection that is made; see :func:`~t2i_pipelines.collection.open_collection`.
    """

    uri: Any
    token: str = ""
    collection_name: str | None = None
    index_type: str = AUTO
    timeout: float = 30.0


@dataclass(frozen=True)
class IndexFigures:
    """What an index finds, apart from what the model knows.

    :ivar index: its type, such as ``FLAT`` or ``HNSW``.
    :ivar rows: of the collection.
    :ivar missing: images of the pairs that are not in it; they count as not found.
    :ivar recall: recall@10 of the index: the share of what it finds that is as good as the exact best 10.
    :ivar metrics: of text->image through the index; of ranks up to 10 only, so there is no MRR.
    :ivar per_query: name -> (Q,) float64: the figure of each query.
    :ivar queries_a_second: many at once, 64 texts a pass and a search.
    :ivar search_ms: of one search alone without embedding its text, median of up to 32.
    """

    index: str
    uri: str
    collection_name: str
    rows: int
    missing: tuple[str, ...]
    recall: Metric
    metrics: MappingProxyType[str, Metric]
    per_query: MappingProxyType[str, NDArray[np.float64]]
    queries_a_second: float
    search_ms: float

    def __getitem__(self, name: str) -> Metric:
        """One figure, such as ``R@5``."""
        return self.metrics[name]


def through_index(
    place: Place,
    pairs: Pairs,
    exact: Direction,
    texts: Embedded,
    pictures: Embedded,
    space: Space,
    boot: Bootstrap,
    embedding: float,
) -> IndexFigures:
    """Search the collection for every text, and compare with the exact best 10 of its rows.

    :param embedding: seconds that embedding the texts took.
    :raises CollectionNotFoundError: If a named collection is not there.
    :raises ModelMismatchError: If another model made it.
    """
    with _collection(place, pairs, pictures, space) as collection:
        stored, paths = _stored(collection)
        began = perf_counter()
        hits = [
            one
            for at in range(0, len(texts.vectors), AT_ONCE)
            for one in collection.search(texts.vectors[at : at + AT_ONCE], limit=DEPTH)
        ]
        seconds = perf_counter() - began
        alone = _alone(collection, texts.vectors[:ALONE])
        recall = _recalls(texts.vectors, hits, stored)
        values = in_order(judged(_numbers(hits, pairs, exact, texts, stored, paths), exact.right))
        return IndexFigures(
            collection.index_type,
            str(place.uri),
            collection.name,
            len(paths),
            tuple(path for path in pairs.pictures if path not in set(paths)),
            boot.metric("recall@10", recall),
            MappingProxyType({name: boot.metric(name, some) for name, some in values.items()}),
            MappingProxyType(values),
            len(hits) / (seconds + embedding) if hits else float("nan"),
            alone,
        )


@contextmanager
def _collection(place: Place, pairs: Pairs, pictures: Embedded, space: Space) -> Iterator[Collection]:
    name = (
        place.collection_name or f"evaluation_{path_key(pairs.digest + repr(space) + place.index_type)[:16]}"
    )
    collection = open_collection(place.uri, place.token, name, place.timeout, place.index_type)
    if place.collection_name is not None:
        if not collection.verify(space):
            names = ", ".join(collection_names(place.uri, place.token)) or "none"
            raise CollectionNotFoundError(
                f"there is no collection {name!r} at {place.uri}; its collections: {names}. Insert the "
                "images, or name no collection and one is made for the evaluation"
            )
        yield collection
        return
    collection.prepare(space)
    try:
        paths = [pairs.pictures[number] for number in pictures.numbers.tolist()]
        for at in range(0, len(paths), ROWS_AT_ONCE):
            some = slice(at, at + ROWS_AT_ONCE)
            collection.upsert([_row(*one) for one in zip(paths[some], pictures.vectors[some], strict=True)])
        collection.flush()
        yield collection
    finally:
        collection.drop()
        collection.close()


def _row(path: str, vector: Any) -> dict[str, Any]:
    return {"id": path_key(path), "path": path, "vector": vector, "size": -1, "mtime": -1, "digest": ""}


def _stored(collection: Collection) -> tuple[Matrix, list[str]]:
    """Every row: unit vectors, and paths."""
    rows = [row for page in collection.scan(["vector", "path"]) for row in page]
    if not rows:
        raise SourceError(f"{collection} is empty; insert the images first")
    return units(np.array([row["vector"] for row in rows], np.float32), "row"), [row["path"] for row in rows]


def _recalls(queries: Matrix, hits: Sequence[Sequence[Hit]], stored: Matrix) -> NDArray[np.float64]:
    """For each query the share of the exact best that was found.

    What was found counts if its cosine is that of the last of the exact best, or higher: of images that are
    equally near any will do. So counts ann-benchmarks.
    """
    depth = min(DEPTH, len(stored))
    recalls = np.empty(len(queries))
    for number, (query, found) in enumerate(zip(queries, hits, strict=True)):
        cosines = stored @ query
        last = np.partition(cosines, -depth)[-depth]
        recalls[number] = sum(hit.score >= last - ROUNDING for hit in found) / depth
    return recalls


def _numbers(
    hits: Sequence[Sequence[Hit]],
    pairs: Pairs,
    exact: Direction,
    texts: Embedded,
    stored: Matrix,
    paths: Sequence[str],
) -> list[list[int]]:
    """Return what Milvus found for each query of the exact search, best first.

    Of equal scores the right image counts last, as in the exact search: behind all rows that score the same,
    also those that Milvus left out for want of room. Rows that are no image of the pairs have numbers beyond.
    """
    known = {path: number for number, path in enumerate(pairs.pictures)}
    rows = np.array([known.setdefault(path, len(known)) for path in paths])
    found = dict(zip(texts.numbers.tolist(), zip(texts.vectors, hits, strict=True), strict=True))
    numbers = []
    for number, right in zip(exact.numbers.tolist(), exact.right, strict=True):
        query, some = found.get(number, (None, ()))
        scored = [(hit.score, known.setdefault(hit.path, len(known))) for hit in some]
        cosines = None if query is None else stored @ query
        numbers.append(_right_last(scored, set(right), rows, cosines))
    return numbers


def _right_last(
    scored: list[tuple[float, int]], right: set[int], rows: NDArray[np.int64], cosines: Any
) -> list[int]:
    """Order (score, number) with the right ones behind all rows of an equal score, and cut at ``DEPTH``."""
    ranked: list[int] = []
    at = 0
    while at < len(scored):
        score = scored[at][0]
        equal = [one for value, one in scored[at:] if value >= score - ROUNDING]
        at += len(equal)
        good = [one for one in equal if one in right]
        ranked += [one for one in equal if one not in right]
        if good:
            tied = rows[np.abs(cosines - score) <= ROUNDING].tolist()
            ranked += [one for one in tied if one not in right and one not in equal] + good
    return ranked[:DEPTH]


def _alone(collection: Collection, queries: Matrix) -> float:
    times = []
    for query in queries:
        began = perf_counter()
        collection.search(query[None], limit=DEPTH)
        times.append(perf_counter() - began)
    return 1000 * float(np.median(times)) if times else float("nan")
