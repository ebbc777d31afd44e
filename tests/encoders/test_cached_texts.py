"""Vectors of texts are remembered: the latest, of each model, for everybody in the process."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from t2i_pipelines import Searcher, build_search_pipeline
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.encoders import load, register_encoder
from t2i_pipelines.encoders.vectors import TEXTS_KEPT, CachedTexts
from t2i_pipelines.testing import ColourEncoder
from t2i_pipelines.types import Space


class Notes(ColourEncoder):
    """Remembers what it was asked to embed."""

    space = Space("notes", "mean colour, noted", "none", 3)

    def __init__(self):
        super().__init__()
        self.asked = []

    def encode_texts(self, texts):
        self.asked.append(list(texts))
        return super().encode_texts(texts)


def test_a_text_is_embedded_once_and_only_what_is_new_is_embedded():
    encoder = Notes()
    texts = CachedTexts(encoder)
    first = texts(["red", "blue", "red"])
    assert [vector.tolist() for vector in first] == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]
    again = texts(["green", "blue", "cyan", "red"])
    assert [vector.tolist() for vector in again] == [[0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]]
    assert encoder.asked == [["red", "blue"], ["green", "cyan"]]
    assert texts([]) == []


def test_what_a_caller_does_to_a_vector_is_not_remembered():
    texts = CachedTexts(Notes())
    for _ in range(3):
        one, same = texts(["red", "red"])
        assert one.tolist() == same.tolist() == [1, 0, 0]
        one *= 7
        same += 1


def test_the_least_recently_used_is_forgotten_first():
    encoder = Notes()
    texts = CachedTexts(encoder, size=2)
    for text in ("red", "blue", "red", "green", "red", "blue"):
        texts([text])
    assert [text for (text,) in encoder.asked] == ["red", "blue", "green", "blue"]
    assert len(texts(["cyan", "white", "yellow", "cyan"])) == 4, "more at once than are kept"


@pytest.mark.slow
def test_memory_has_a_bound_whatever_the_texts():
    texts = CachedTexts(Notes())
    texts([f"red {number}" for number in range(TEXTS_KEPT + 50)])
    texts(["red " * 10**5])
    kept = texts._kept
    assert len(kept) == TEXTS_KEPT
    assert {len(key) for key in kept} == {16}
    assert all(vector.base is None for vector in kept.values()), "no vector keeps its whole pass in memory"


def test_templates_are_part_of_what_is_remembered():
    encoder = Notes()
    texts = CachedTexts(encoder)
    assert texts(["red"])[0].tolist() == [1, 0, 0]
    assert texts(["red"], ["blue {}"])[0].tolist() == [1, 0, 1]
    assert texts(["red"])[0].tolist() == [1, 0, 0]
    assert encoder.asked == [["red"], ["blue red"]]


def test_a_model_that_fails_leaves_nothing_behind():
    encoder = Notes()
    texts = CachedTexts(encoder)
    encoder.encode_texts = lambda some: 1 / 0
    with pytest.raises(ZeroDivisionError):
        texts(["red"])
    del encoder.encode_texts
    assert texts(["red"])[0].tolist() == [1, 0, 0]


def test_all_searchers_pipelines_and_operators_of_a_model_share_it(tmp_path):
    encoder = Notes()
    register_encoder("notes", lambda checkpoint, compute: encoder)
    settings = {"uri": str(tmp_path / "none.db"), "model_name": "notes"}
    clip = ops.t2i.clip(model_name="notes", modality="text")
    for search in (
        Searcher(**settings),
        Searcher(**settings, limit=3),
        build_search_pipeline(**settings),
        clip,
    ):
        search("red")
    assert encoder.asked == [["red"]]


def test_another_model_of_the_same_name_has_its_own():
    register_encoder("notes", lambda checkpoint, compute: Notes())
    before = load("notes")
    gone = weakref.ref(before.texts)
    before.texts(["red"])
    register_encoder("notes", lambda checkpoint, compute: Notes())
    after = load("notes")
    assert after.encoder is not before.encoder
    after.texts(["red"])
    assert after.encoder.asked == [["red"]]
    del before
    assert gone() is None


def test_many_threads_get_the_right_vectors():
    texts = CachedTexts(Notes(), size=8)
    start = threading.Barrier(8)

    def ask(thread):
        start.wait()
        random = np.random.default_rng(thread)
        for _ in range(300):
            amounts = random.integers(0, 2, 3)
            words = " ".join(np.repeat(["red", "green", "blue"], amounts)) or "white"
            (vector,) = texts([words])
            assert vector.tolist() == (amounts.tolist() if amounts.any() else [1, 1, 1])
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
