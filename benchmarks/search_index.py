"""How well and how fast the index finds: ``python -m benchmarks.search_index --photos cifar10/train.tar.gz``.

Prints recall@10 against an exact search, p50 and p99 of a search for one vector, and the rate of 100 at once;
of our collection, with its index chosen by the number of rows, beside brute force by NumPy and FAISS on the
same vectors in the same run. Ends with 1 where the collection's recall is below 0.99.

The vectors are those of ``t2i_mini``, for images, and for captions as queries; see ``own_vectors.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.own_vectors import MODEL, own_vectors
from t2i_pipelines.collection import Collection, close, open_collection
from t2i_pipelines.collection.schema import GRAPH
from t2i_pipelines.config.storage import AUTO
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import MissingExtraError
from t2i_pipelines.types import Matrix

LEAST = 0.99
"""The recall@10 that no index may be below."""

LIMIT, AT_ONCE, A_BATCH = 10, 100, 5000
ROUNDING = 1e-5
"""What float32 sums may differ by: of images that are this close, either is right."""

Search = Callable[[Matrix], list[list[int]]]
"""(Q, D) -> the numbers of ten rows for each."""


class Truth:
    """An exact search, for comparing others with it."""

    def __init__(self, vectors: Matrix, queries: Matrix) -> None:
        self._vectors, self._queries = vectors, queries
        self._least = np.concatenate(
            [
                np.partition(some @ vectors.T, -LIMIT, axis=1)[:, -LIMIT]
                for some in np.array_split(queries, max(1, len(queries) // 100))
            ]
        )

    def recall(self, found: list[list[int]]) -> float:
        """Share of the ten best that were found; of equal ones, any."""
        right = [
            int((self._vectors[numbers] @ query >= least - ROUNDING).sum())
            for numbers, query, least in zip(found, self._queries, self._least, strict=True)
        ]
        return sum(right) / (LIMIT * len(right))


def numpy_search(vectors: Matrix) -> Search:
    """Brute force: a matrix product."""

    def best(scores: NDArray[np.float32]) -> list[int]:
        top = np.argpartition(scores, -LIMIT)[-LIMIT:]
        return [int(one) for one in top[np.argsort(-scores[top])]]

    return lambda queries: [best(scores) for scores in queries @ vectors.T]


def faiss_search(vectors: Matrix, ef: int | None) -> Search:
    """Brute force by FAISS, or its graph, built as the server's is."""
    try:
        import faiss  # type: ignore[import-untyped]
    except ImportError as err:
        raise MissingExtraError("FAISS is not installed: pip install 't2i-pipelines[bench]'") from err
    if ef is None:
        index = faiss.IndexFlatIP(vectors.shape[1])
    else:
        index = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH["M"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = GRAPH["efConstruction"], ef
    index.add(vectors)
    return lambda queries: [[int(one) for one in row] for row in index.search(queries, LIMIT)[1]]


def collection_search(collection: Collection) -> Search:
    """Ours, on Milvus."""
    return lambda queries: [[int(hit.id) for hit in hits] for hits in collection.search(queries, limit=LIMIT)]


def fill(collection: Collection, vectors: Matrix) -> None:
    """Insert as a run does: in batches, and flush once."""
    collection.drop()
    collection.prepare(load_encoder(MODEL).space)
    for first in range(0, len(vectors), A_BATCH):
        some = vectors[first : first + A_BATCH]
        collection.upsert([row(first + at, vector) for at, vector in enumerate(some)])
    collection.finish()


def row(number: int, vector: NDArray[np.float32]) -> dict[str, object]:
    """What is stored of an image."""
    path = f"/photos/{number // 1000:03}/{number:06}.jpg"
    about = {"path": path, "size": 10_000, "mtime": number, "digest": ""}
    return {"id": f"{number:08}", "vector": vector, **about}


def wait_for_index(collection: Collection) -> None:
    """A server builds it in the background, and compares every row until it has."""
    client = collection.connection._open(30.0)
    time.sleep(5)
    while client.describe_index(collection.name, "vector").get("state") != "Finished":
        time.sleep(1)
    time.sleep(15)


def measure(name: str, search: Search, queries: Matrix, truth: Truth, repeat: int) -> float:
    """Print one line; gives the recall."""
    search(queries[:AT_ONCE])  # warm
    taken = []
    for number in range(repeat):
        begun = time.perf_counter()
        search(queries[number % len(queries), None])
        taken.append(1e3 * (time.perf_counter() - begun))
    begun = time.perf_counter()
    search(queries[:AT_ONCE])
    rate = min(AT_ONCE, len(queries)) / (time.perf_counter() - begun)
    recall = truth.recall([found for some in np.array_split(queries, 15) for found in search(some)])
    p50, p99 = np.percentile(taken, [50, 99])
    print(f"{name:34} {recall:9.4f} {p50:8.2f} {p99:8.2f} {rate:10,.0f}", flush=True)
    return recall


def main(arguments: Sequence[str] | None = None) -> bool:
    """Measure; gives whether the collection's recall is high enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--photos", type=Path, help="tar.gz of images; the gallery alone if left out")
    parser.add_argument("--uri", help="a Milvus server in place of Milvus Lite")
    parser.add_argument("--token", default="")
    parser.add_argument("--index-type", default=AUTO, help="in place of the one that is chosen")
    parser.add_argument("--repeat", type=int, default=300, help="searches for one vector")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "t2i-bench-search")
    given = parser.parse_args(arguments)
    vectors, queries, note = own_vectors(given.vectors, given.photos, given.workdir)
    np.random.default_rng(0).shuffle(vectors)  # graphs depend on the order
    truth = Truth(vectors, queries)
    print(f"\n{note}; {vectors.shape[1]} dimensions, {os.cpu_count()} cores")
    print(f"{'':34} {'recall@10':>9} {'p50, ms':>8} {'p99, ms':>8} {'100 at once, /s':>10}")
    measure("NumPy, brute force", numpy_search(vectors), queries, truth, given.repeat)
    for ef in (None, 1024):
        name = "FAISS, brute force" if ef is None else f"FAISS, HNSW, ef {ef}"
        measure(name, faiss_search(vectors, ef), queries, truth, given.repeat)
    with tempfile.TemporaryDirectory() as folder:
        uri = given.uri or str(Path(folder) / "milvus.db")
        collection = open_collection(uri, given.token, "benchmark", index_type=given.index_type)
        begun = time.perf_counter()
        fill(collection, vectors)
        filled = time.perf_counter() - begun
        if not collection.is_lite:
            wait_for_index(collection)
        entry = collection.entry()
        assert entry is not None
        engine = "Milvus Lite" if collection.is_lite else "Milvus server"
        name = f"{engine}, {entry.index_type}"
        recall = measure(name, collection_search(collection), queries, truth, given.repeat)
        print(f"inserted, flushed and indexed in {filled:.0f} s")
        collection.drop()
        close(uri)
    return recall >= LEAST


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
