"""How fast searching is: ``python -m benchmarks.search``, or ``--queries`` alone for the first part.

1. Queries: 100 as a list against 100 in a loop; and what a search takes beyond embedding its text and asking
   Milvus. No text is asked for twice, so none comes from the cache.
2. Index: recall, and the time of a search against brute force; see ``search_index.py``, which also takes
   the further arguments, such as ``--photos``.

Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.own_vectors import captions
from t2i_pipelines import Searcher, build_search_pipeline
from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.types import Encoder, Matrix

MANY = 100
"""Queries in a list."""

FASTER = 10.0
"""How many times the rate of a loop a list must have."""

BEYOND = 0.5
"""Milliseconds that a search may take beyond embedding its text and searching Milvus, each alone."""

TOKEN = "T2I_BENCH_TOKEN"
"""Of the environment: where ``--token`` is left out, it is looked for there."""

LIMIT = 10
NAME = "t2i_bench_search"


@dataclass(frozen=True)
class Place:
    """A collection of random unit vectors, and two ways to search it.

    :ivar raw: a search by ``MilvusClient``, without anything of ours around it, whose hits are read: until
        then it has not decoded them.
    """

    encoder: Encoder
    collection: Collection
    ways: dict[str, Callable[[Any], Any]]
    raw: Callable[[Matrix], Any]


def prepared(model: str, uri: str, token: str, rows: int) -> Place:
    """Fill a database, and open what searches it."""
    encoder = load_encoder(model)
    collection = open_collection(uri=uri, token=token, collection_name=NAME)
    collection.drop()
    collection.prepare(encoder.space)
    random = np.random.default_rng(0)
    for first in range(0, rows, 1000):
        vectors = random.normal(size=(min(1000, rows - first), encoder.space.dim)).astype(np.float32)
        collection.upsert([row(first + at, vector) for at, vector in enumerate(vectors)])
    collection.flush()
    settings: dict[str, Any] = {"uri": uri, "token": token, "collection_name": NAME}
    settings |= {"model_name": model, "limit": LIMIT}
    pipeline, searcher = build_search_pipeline(**settings), Searcher(**settings)
    ways = {"pipeline": lambda query: pipeline(query).get()[1], "Searcher": searcher}
    return Place(encoder, collection, ways, raw_search(collection))


def row(number: int, vector: Matrix) -> dict[str, Any]:
    """What is stored of an image."""
    return {
        "id": f"{number:032x}",
        "vector": vector / np.linalg.norm(vector),
        "path": f"/photos/{number // 1000}/{number}.jpg",
        "size": 10_000,
        "mtime": number,
        "digest": f"{number:032x}:",
    }


def raw_search(collection: Collection) -> Callable[[Matrix], Any]:
    """The call of ``MilvusClient`` that a search comes to, with the very arguments."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    connection = collection.connection
    client = connection._open(30.0)
    search = client.search
    client.search = lambda *positional, **named: (
        calls.append((positional, named)) or search(*positional, **named)
    )
    try:
        space = collection.space()
        assert space is not None
        collection.search(np.eye(1, space.dim, dtype=np.float32), limit=LIMIT)
    finally:
        del client.search
    positional, named = calls[0]

    def searched(vectors: Matrix) -> list[list[tuple[str, float, str]]]:
        answer = search(*positional, **{**named, "data": list(vectors)})
        return [[(hit["id"], hit["distance"], hit["entity"]["path"]) for hit in hits] for hits in answer]

    return searched


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def one_by_one(search: Callable[[Any], Any], queries: Sequence[str]) -> None:
    """Search in a loop."""
    for query in queries:
        search(query)


def list_against_loop(place: Place, texts: Iterator[str], rounds: int) -> bool:
    """Print both rates; gives whether the list is fast enough."""
    met = True
    for name, search in place.ways.items():
        loop, at_once = [], []
        for _ in range(rounds):
            loop.append(seconds(one_by_one, search, take(texts, MANY)))
            at_once.append(seconds(search, take(texts, MANY)))
        slow, fast = np.median(loop), np.median(at_once)
        met &= verdict(
            f"{name}, {MANY} queries: loop {MANY / slow:,.0f}/s, list {MANY / fast:,.0f}/s",
            slow / fast,
            FASTER,
            at_least=True,
        )
    bound = [seconds(lambda: place.raw(place.encoder.encode_texts(take(texts, MANY)))) for _ in range(rounds)]
    alone = [
        seconds(lambda: [place.raw(place.encoder.encode_texts([text])) for text in take(texts, MANY)])
        for _ in range(rounds)
    ]
    allowed = np.median(alone) / np.median(bound)
    print(f"the model and Milvus alone, without anything of ours, do a list {allowed:.1f} times as fast")
    return met


def search_against_its_parts(place: Place, texts: Iterator[str], rounds: int) -> bool:
    """Print the medians, taken in turns in one run; gives whether a search adds little enough."""
    works = {**place.ways, "text": lambda text: place.encoder.encode_texts([text]), "Milvus": place.raw}
    taken: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    random = np.random.default_rng(2)
    for _ in range(rounds):
        random.shuffle(order)  # what comes before a work has its part in how long that takes
        for name in order:
            given: Any = next(texts)
            if name == "Milvus":
                given = place.encoder.encode_texts([given])
                given /= np.linalg.norm(given)
            taken[name].append(seconds(works[name], given))
    middle = {name: float(np.median(times)) for name, times in taken.items()}
    parts = middle["text"] + middle["Milvus"]
    print(f"p50 of text alone {1e3 * middle['text']:.2f} ms, Milvus alone {1e3 * middle['Milvus']:.2f} ms")
    return all(
        [
            verdict(
                f"{name}, p50 {1e3 * middle[name]:.2f} ms, beyond its parts",
                1e3 * (middle[name] - parts),
                BEYOND,
                "ms",
                at_least=False,
            )
            for name in place.ways
        ]
    )


def verdict(what: str, found: float, wanted: float, unit: str = "times", *, at_least: bool) -> bool:
    """Print a figure and its target."""
    met = found >= wanted if at_least else found <= wanted
    sign, said = ">=" if at_least else "<=", "met" if met else "missed"
    print(f"{what}: {found:.2f} {unit}, wanted {sign} {wanted:g}: {said}", flush=True)
    return met


def take(texts: Iterator[str], count: int) -> list[str]:
    """The next texts."""
    return [next(texts) for _ in range(count)]


def endless_texts() -> Iterator[str]:
    """The gallery's captions in five languages, each with a number, so that no two are the same."""
    known = captions()
    np.random.default_rng(1).shuffle(known)
    turn = 0
    while True:
        yield from (f"{caption} {turn}" if turn else caption for caption in known)
        turn += 1


def vit_b_32(workdir: Path) -> str:
    """A model of ViT-B/32's shape with random weights, as an ONNX folder."""
    from benchmarks.peers.contenders.ours import prepare
    from benchmarks.peers.inputs import Inputs, make
    from benchmarks.peers.plan import VIT_B_32

    inputs = Inputs(workdir / "b32", 32, VIT_B_32)
    if not inputs.are_made:
        make(inputs)
    prepare(inputs, "onnxruntime", "fp32")
    return str(inputs.of("ours") / "onnx")


def queries(model: str, rows: int, rounds: int, uri: str | None, token: str) -> bool:
    """The first part; gives whether all targets are met."""
    with tempfile.TemporaryDirectory() as folder:
        place = prepared(model, uri or str(Path(folder) / "milvus.db"), token, rows)
        running = getattr(place.encoder, "running", "")
        where = uri or "Milvus Lite"
        print(f"\n{Path(model).name}, {running}; {rows:,} rows in {where}, {os.cpu_count()} cores")
        try:
            texts = endless_texts()
            for search in place.ways.values():  # warm
                search(take(texts, MANY))
                one_by_one(search, take(texts, 20))
            gc.collect()
            met = search_against_its_parts(place, texts, rounds * 50)
            return list_against_loop(place, texts, rounds) and met
        finally:
            place.collection.drop()
            place.collection.close()


def in_a_process(model: str, rows: int, rounds: int, uri: str | None, token: str) -> bool:
    """The first part in a process of its own: what a database leaves behind slows the next."""
    command = [sys.executable, "-m", "benchmarks.search", "--alone", "--model", model, "--rows", str(rows)]
    command += ["--rounds", str(rounds), *(["--uri", uri] if uri else [])]
    # no other user of this machine shall read the token in the list of its processes
    return subprocess.run(command, check=False, env=os.environ | {TOKEN: token}).returncode == 0


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--queries", action="store_true", help="the first part alone")
    parser.add_argument("--model", action="append", help="name or path; repeatable; t2i_mini if left out")
    parser.add_argument("--b32", action="store_true", help="also a model of ViT-B/32's shape")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--uri", help="a Milvus server in place of Milvus Lite")
    parser.add_argument("--token", default=os.environ.get(TOKEN, ""), help="user:password of that server")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "t2i-bench-search")
    given, rest = parser.parse_known_args()
    models = given.model or ["t2i_mini"]
    if given.b32:
        models.append(vit_b_32(given.workdir))
    if given.alone:
        sys.exit(0 if queries(models[0], given.rows[0], given.rounds, given.uri, given.token) else 1)
    server = given.uri, given.token
    met = all([in_a_process(model, rows, given.rounds, *server) for model in models for rows in given.rows])
    if not given.queries:
        import search_index

        place = [
            "--workdir",
            str(given.workdir),
            *(["--uri", given.uri, "--token", given.token] if given.uri else []),
        ]
        met = search_index.main([*place, *rest]) and met
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
