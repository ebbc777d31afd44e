"""A page is the same part of every longer list, whatever index there is below."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.collection import search
from t2i_pipelines.collection.search import Rankings, by_score, cached, cosines
from t2i_pipelines.types import Hit

QUERY = np.ones((1, 1), np.float32)
RUNGS = (8, 32, 64)


class Index:
    """Scores by id, and how many of the best rows a rung overlooks: an approximate index."""

    def __init__(self, scores, overlooked=lambda rung: ()):
        self.truth = sorted((Hit(f"{at:03}", score, "") for at, score in enumerate(scores)), key=place)
        self.overlooked, self.calls = overlooked, []

    def search(self, queries, limit, rung):
        self.calls.append((len(queries), limit, rung))
        missed = self.overlooked(rung)
        # rows of one score come in an order of the index's own
        seen = [one for one in self.truth if one.id not in missed]
        seen.sort(key=lambda one: (-one.score, -int(one.id)))
        return [seen[:limit] for _ in queries]

    def rankings(self, exact=False, queries=QUERY):
        return Rankings(queries, self.search, rungs=RUNGS, exact=exact, count=self.count, rest=self.rest)

    def count(self):
        self.calls.append("count")
        return len(self.truth)

    def rest(self, query, passed_by):
        self.calls.append("rest")
        return (one for one in self.truth if one.id not in passed_by)

    def top(self, number, **options):
        return [one.id for one in self.rankings(**options).top(number)[0]]

    def walk(self, **options):
        (hits,) = self.rankings(**options).walks()
        return [one.id for one in hits]


def place(hit):
    return -hit.score, hit.id


def test_hits_come_by_score_and_equal_ones_by_id():
    index = Index([0.5, 0.9, 0.5, 0.9, 0.1])
    assert index.top(4, exact=True) == ["001", "003", "000", "002"]


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=150),
    st.integers(0, 70),
    st.integers(1, 70),
)
def test_two_pages_are_one_page_of_both(scores, offset, limit):
    overlooked = {8: {"001", "005"}, 32: {"005", "009"}, 64: {"011"}}
    for exact, index in ((True, Index(scores)), (False, Index(scores, overlooked.get))):
        longer = index.top(offset + limit, exact=exact)
        assert index.top(offset, exact=exact) == longer[:offset] if offset else True
        assert len(longer) == len(set(longer)) == min(offset + limit, len(scores))
        assert longer == index.walk(exact=exact)[: offset + limit]


@given(st.lists(st.floats(-1, 1, width=16), max_size=150, unique=True))
def test_a_walk_gives_every_row_once_and_in_order_if_the_index_is_exact(scores):
    index = Index(scores)
    assert index.walk(exact=True) == [one.id for one in index.truth]


def test_what_a_rung_overlooked_follows_it():
    index = Index(np.linspace(1, 0, 40), lambda rung: {"002"} if rung == 8 else ())
    ranked = index.walk()
    assert ranked[:9] == ["000", "001", "003", "004", "005", "006", "007", "008", "002"]
    assert sorted(ranked) == sorted(one.id for one in index.truth)


def test_what_the_index_cannot_reach_is_found_by_comparing_every_row():
    index = Index(np.linspace(1, 0, 20), lambda rung: {f"{at:03}" for at in range(20) if at % 2})
    assert len(index.top(20)) == 20
    assert index.calls[-1] == "rest"
    assert len(Index(np.linspace(1, 0, 20)).top(20, exact=True)) == 20


@pytest.mark.parametrize("exact", [True, False])
def test_a_walk_goes_on_past_the_last_rung(exact):
    index = Index(np.linspace(1, 0, 100))
    assert index.walk(exact=exact) == [one.id for one in index.truth]
    assert index.calls[-1] == "rest"


def test_what_is_asked_once_is_not_asked_before_it_is_needed():
    calls = []
    ask = cached(lambda: calls.append(1) or len(calls))
    assert calls == []
    assert [ask(), ask(), calls] == [1, 1, [1]]


def test_an_exact_index_is_not_asked_again_when_it_gives_all_it_has():
    index = Index([0.5, 0.4])
    assert len(index.top(7, exact=True)) == 2
    assert index.calls == [(1, 8, 8)]


def test_many_queries_are_one_request_and_ten_hits_take_one_more_to_see_a_tie():
    index = Index(np.linspace(1, 0, 100))
    found = index.rankings(queries=np.ones((50, 1), np.float32)).top(5)
    assert [len(hits) for hits in found] == [5] * 50
    assert index.calls == [(50, 6, 8)]


def test_a_tie_at_the_end_of_a_page_is_looked_into():
    index = Index([0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    assert index.top(2) == ["000", "001"]
    assert index.calls == [(1, 3, 8), (1, 8, 8), "count"]


def pages_of(vectors, a_page=7):
    rows = [{"id": f"{at:04}", "vector": vector} for at, vector in enumerate(vectors)]
    return lambda: (rows[at : at + a_page] for at in range(0, len(rows), a_page))


@pytest.mark.parametrize("kept", [1, 5, 1000])
def test_every_row_comes_once_in_the_order_of_its_cosine_however_many_passes_it_takes(monkeypatch, kept):
    monkeypatch.setattr(search, "KEPT", kept)
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    vectors[10:20] = vectors[10] * np.arange(1, 11)[:, None]  # one direction, ten lengths
    query = np.asarray([1, 2, 3, 4], np.float32)
    exact = vectors.astype(np.float64) @ query / np.linalg.norm(vectors.astype(np.float64), axis=1)
    found = list(by_score(pages_of(vectors), query, {"0003"}))
    assert sorted(id for id, _ in found) == [f"{at:04}" for at in range(60) if at != 3]
    assert [score for _, score in found] == pytest.approx(
        sorted(np.delete(exact, 3) / np.linalg.norm(query), reverse=True), abs=1e-9
    )


def test_a_cosine_does_not_depend_on_the_rows_beside_it():
    vectors = np.random.default_rng(1).normal(size=(50, 512)).astype(np.float32)
    query = vectors[0]
    rows = [{"vector": vector} for vector in vectors]
    assert [float(cosines([one], query)[0]) for one in rows] == cosines(rows, query).tolist()
