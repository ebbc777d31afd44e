"""Searching from many threads, while rows come in."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from t2i_pipelines import Like, Searcher, build_insert_pipeline, build_search_pipeline
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.images import path_key
from t2i_pipelines.testing import COLOURS


def test_many_threads_search_at_once_and_each_gets_its_own_answer(pictures, settings):
    build_insert_pipeline(**settings)(pictures)
    searcher, search = Searcher(**settings, limit=1), build_search_pipeline(**settings, limit=1)
    names = list(COLOURS) * 20
    with ThreadPoolExecutor(16) as threads:
        for find in (searcher, lambda query: search(query).get()[1]):
            found = threads.map(lambda name, find=find: Path(find(f"{name} thing")[0].path).stem, names)
            assert list(found) == names


class Watch:
    """Searches for rows that were acknowledged, and notes each answer that is not right."""

    def __init__(self, searcher: Searcher, vectors: dict[str, np.ndarray]) -> None:
        self.searcher, self.vectors = searcher, vectors
        self.acknowledged: list[str] = []
        self.done = threading.Event()
        self.wrong: list[str] = []
        self.searches = 0

    def look(self) -> None:
        turn = 0
        while not self.done.is_set():
            known = self.acknowledged[-5:]
            if known:
                self.check(known[turn % len(known)])
            turn += 1

    def check(self, path: str) -> None:
        hits = self.searcher(Like(path_key(path)))
        self.searches += 1
        if (hits[0].path, hits[0].score) != (path, pytest.approx(1, abs=1e-5)):
            self.wrong.append(f"{path} was acknowledged and is not found: {hits[:1]}")
        if [hit.score for hit in hits] != sorted((hit.score for hit in hits), reverse=True):
            self.wrong.append(f"not in order: {hits}")
        for hit in hits:
            if hit.score != pytest.approx(float(self.vectors[hit.path] @ self.vectors[path]), abs=1e-5):
                self.wrong.append(f"{hit} is not what is stored")


@pytest.mark.slow
def test_while_others_insert_answers_are_right_and_what_was_acknowledged_is_found(on_disk):
    """Every hit is a row as it is stored, with its own score; a row is found once its insert returns."""
    open_collection(uri=on_disk["uri"]).prepare(load_encoder("colour").space)
    drawn = np.random.default_rng(5).normal(size=(400, 3)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    watch = Watch(Searcher(**on_disk, limit=10), {f"/{n}.png": vector for n, vector in enumerate(drawn)})
    insert = ops.t2i.milvus_insert(**{**on_disk, "uri": str(on_disk["uri"])})
    with ThreadPoolExecutor(3) as threads:
        looking = [threads.submit(watch.look) for _ in range(3)]
        try:
            for path, vector in watch.vectors.items():
                insert(path, vector)
                watch.acknowledged.append(path)
        finally:
            watch.done.set()
        for one in looking:
            one.result()
    assert watch.wrong == []
    assert watch.searches > 10
    assert {hit.path for hit in watch.searcher("red", limit=1000)} == set(watch.vectors)
