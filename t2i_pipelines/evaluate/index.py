"""Embed images and texts of pairs, and measure how much of an exact search the index of Milvus finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.collection import Collection, collection_names, open_collection
from t2i_pipelines.config.checks import templates_of
from t2i_pipelines.config.storage import AUTO
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.vectors import CachedTexts, unit
from t2i_pipelines.errors import CollectionNotFoundError, QueryError, SourceError, VectorError
from t2i_pipelines.evaluate.metrics import DECIMALS, DEPTH, Bootstrap, Metric, in_order, judged, units
from t2i_pipelines.evaluate.pairs import Pairs, refused
from t2i_pipelines.evaluate.reading import Direction, Embedded
from t2i_pipelines.images import path_key
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.operators.normalize import Normalize
from t2i_pipelines.operators.read import ReadSource
from t2i_pipelines.search.query import check_text
from t2i_pipelines.types import Encoder, Hit, Matrix, Outcome, Space, Vector

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
    images: Embedded,
    space: Space,
    boot: Bootstrap,
    embedding: float,
) -> IndexFigures:
    """Search the collection for every text, and compare with the exact best 10 of its rows.

    :param embedding: seconds that embedding the texts took.
    :raises CollectionNotFoundError: If a named collection is not there.
    :raises ModelMismatchError: If another model made it.
    """
    with _collection(place, pairs, images, space) as collection:
        stored, paths = _stored(collection)
        began = perf_counter()
        hits = [
            one
            for at in range(0, len(texts.vectors), AT_ONCE)
            for one in collection.search(texts.vectors[at : at + AT_ONCE], limit=DEPTH)
        ]
        seconds = perf_counter() - began
        alone = _milliseconds_of_one_search(collection, texts.vectors[:ALONE])
        recall = _recalls(texts.vectors, hits, stored)
        values = in_order(judged(_numbers(hits, pairs, exact, texts, stored, paths), exact.right))
        return IndexFigures(
            collection.index_type,
            str(place.uri),
            collection.name,
            len(paths),
            tuple(path for path in pairs.images if path not in set(paths)),
            boot.metric("recall@10", recall),
            MappingProxyType({name: boot.metric(name, some) for name, some in values.items()}),
            MappingProxyType(values),
            len(hits) / (seconds + embedding) if hits else float("nan"),
            alone,
        )


@contextmanager
def _collection(place: Place, pairs: Pairs, images: Embedded, space: Space) -> Iterator[Collection]:
    name = (
        place.collection_name or f"evaluation_{path_key(pairs.digest + repr(space) + place.index_type)[:16]}"
    )
    collection = open_collection(place.uri, place.token, name, place.timeout, index_type=place.index_type)
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
        paths = [pairs.images[number] for number in images.numbers.tolist()]
        for at in range(0, len(paths), ROWS_AT_ONCE):
            some = slice(at, at + ROWS_AT_ONCE)
            collection.upsert([_row(*one) for one in zip(paths[some], images.vectors[some], strict=True)])
        collection.flush()
        yield collection
    finally:
        collection.drop()
        collection.close()


def _row(path: str, vector: Any) -> dict[str, Any]:
    return {"id": path_key(path), "path": path, "vector": vector, "size": -1, "mtime": -1, "digest": ""}


def _stored(collection: Collection) -> tuple[Matrix, list[str]]:
    """Return every row: unit vectors, and paths."""
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
    known = {path: number for number, path in enumerate(pairs.images)}
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


def _milliseconds_of_one_search(collection: Collection, queries: Matrix) -> float:
    times = []
    for query in queries:
        began = perf_counter()
        collection.search(query[None], limit=DEPTH)
        times.append(perf_counter() - began)
    return 1000 * float(np.median(times)) if times else float("nan")


TEXTS_A_PASS = 64
"""Texts that are embedded one at a time, to see how long one takes."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


class Texts(NamedTuple):
    """Texts as vectors, and how long that took.

    :ivar seconds: for all, in passes of 64.
    :ivar ms: median of one alone.
    """

    embedded: Embedded
    failed: list[Outcome]
    seconds: float
    ms: float


def embed_images(
    pairs: Pairs, model: dict[str, Any], batch_size: int, on_progress: OnProgress | None
) -> tuple[Embedded, list[Outcome]]:
    """Read, decode, embed and normalise every image; the outcomes of those that failed."""
    steps = (ImageDecode(**model), Clip(**model, modality="image"), Normalize())
    numbers: list[int] = []
    vectors: list[Vector] = []
    failed: list[Outcome] = []
    done = 0
    for batch in ReadSource(batch_size)([{"path": path} for path in pairs.images]):
        for step in steps:
            step(batch)
        for record in batch:
            if record.vector is not None:
                numbers.append(done)
                vectors.append(record.vector)
            else:
                failed.append(record.outcome)
            done += 1
        if on_progress is not None:
            on_progress("images", done, len(pairs.images))
    return _together(numbers, vectors, len(pairs.images), load_encoder(**model)), failed


def embed_texts(
    pairs: Pairs, encoder: Encoder, templates: str | Sequence[str], on_progress: OnProgress | None
) -> Texts:
    """Embed and normalise every text, as a search does but without what it remembers of earlier ones."""
    filled_into = templates_of(templates)
    sound, failed = _checked(pairs)
    embed = CachedTexts(encoder)
    vectors: list[Vector] = []
    numbers: list[int] = []
    if sound:
        embed([pairs.texts[sound[0]]], filled_into)  # loads the model
        embed = CachedTexts(encoder)
    seconds = 0.0
    for at in range(0, len(sound), TEXTS_A_PASS):
        some = sound[at : at + TEXTS_A_PASS]
        began = perf_counter()
        passed = embed([pairs.texts[number] for number in some], filled_into)
        seconds += perf_counter() - began
        for number, vector in zip(some, passed, strict=True):
            try:
                vectors.append(unit(vector))
                numbers.append(number)
            except VectorError as err:
                failed.append(_refused(pairs, number, f"cannot embed {pairs.texts[number]!r:.80}: {err}"))
        if on_progress is not None:
            on_progress("texts", at + len(some), len(sound))
    embedded = _together(numbers, vectors, len(pairs.texts), encoder)
    return Texts(
        embedded,
        failed,
        seconds,
        _milliseconds_of_one_text([pairs.texts[n] for n in sound[:ALONE]], encoder, filled_into),
    )


def _checked(pairs: Pairs) -> tuple[list[int], list[Outcome]]:
    sound, failed = [], []
    for number, text in enumerate(pairs.texts):
        try:
            check_text(text)
            sound.append(number)
        except QueryError as err:
            failed.append(_refused(pairs, number, f"cannot ask {text!r:.80}: {err}"))
    return sound, failed


def _refused(pairs: Pairs, number: int, reason: str) -> Outcome:
    return refused(pairs.images[pairs.shown[number][0]], reason)


def _milliseconds_of_one_text(texts: list[str], encoder: Encoder, templates: Sequence[str]) -> float:
    times = []
    for text in texts:
        began = perf_counter()
        CachedTexts(encoder)([text], templates)
        times.append(perf_counter() - began)
    return 1000 * float(np.median(times)) if times else float("nan")


def _together(numbers: list[int], vectors: list[Vector], total: int, encoder: Encoder) -> Embedded:
    matrix = np.stack(vectors) if vectors else np.empty((0, encoder.space.dim), np.float32)
    return Embedded(matrix, np.array(numbers, np.int64), total)
