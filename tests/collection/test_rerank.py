"""One of a group, one of those alike, and those that differ; checked against the formulas, done plainly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.collection.rerank import Placed, different, in_range, one_of_each, placed, unlike
from t2i_pipelines.types import Hit


def ranked(seed, count=80, dim=6):
    """Hits by score for a query, with their unit vectors."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors[0]
    order = np.argsort(-scores, kind="stable")
    return [Placed(Hit(f"{at:03}", float(scores[at]), ""), vectors[at]) for at in order]


def ids(found):
    return [one.hit.id for one in found]


@given(st.integers(0, 1000), st.floats(0, 1))
def test_collapsing_keeps_what_no_better_kept_hit_is_like(seed, threshold):
    hits, kept = ranked(seed), []
    for one in hits:
        if all(float(one.vector @ other.vector) < threshold for other in kept):
            kept.append(one)
    assert ids(unlike(hits, threshold)) == ids(kept)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_diversity_is_maximal_marginal_relevance(seed, diversity):
    hits = ranked(seed, count=50)  # as many as the pool holds at first
    left, chosen = list(hits), []
    while left:

        def marginal(one):
            nearest = max((float(one.vector @ other.vector) for other in chosen), default=0.0)
            return (1 - diversity) * one.hit.score - diversity * nearest

        values = [marginal(one) for one in left]
        best = next(at for at, value in enumerate(values) if value > max(values) - 1e-6)
        chosen.append(left.pop(best))
    found = list(different(hits, diversity))
    assert sorted(ids(found)) == sorted(ids(hits))
    for number, (ours, plain) in enumerate(zip(found, chosen, strict=True)):
        if ours.hit.id != plain.hit.id:  # two that are worth the same, but for rounding
            before = found[:number]
            worth = [
                (1 - diversity) * one.hit.score
                - diversity * max((float(one.vector @ other.vector) for other in before), default=0.0)
                for one in (ours, plain)
            ]
            assert worth[0] == pytest.approx(worth[1], abs=1e-5)
            break


def test_without_diversity_nothing_changes_and_with_all_of_it_the_most_unlike_come():
    hits = ranked(3)
    assert ids(different(hits, 0.0)) == ids(hits)
    first, second, *_ = different(hits, 1.0)
    assert first.hit.id == hits[0].hit.id
    pool = hits[1:51]
    assert second.hit.id == min(pool, key=lambda one: float(one.vector @ first.vector)).hit.id


def test_of_twins_diversity_takes_one():
    x, y = np.eye(2, dtype=np.float32)
    near = (x + 0.1 * y) / np.linalg.norm(x + 0.1 * y)
    scored = (("a", 0.9, x), ("b", 0.89, near), ("c", 0.5, y))
    hits = [Placed(Hit(name, score, ""), vector) for name, score, vector in scored]
    assert ids(different(hits, 0.5)) == ["a", "c", "b"]
    assert ids(different(hits, 0.05)) == ["a", "b", "c"]


def test_how_far_down_a_hit_may_be_chosen_depends_on_its_place_only():
    """Else a page would not be a part of a longer list."""
    hits, read = ranked(5, count=2000), []
    walk = different((read.append(one.hit.id) or one for one in hits), 0.9)
    for number in range(1, 41):
        next(walk)
        assert len(read) == max(50, 5 * number) + number - 1


def test_a_hit_at_just_the_threshold_is_collapsed():
    x, y = np.eye(2, dtype=np.float32)
    assert ids(unlike([Placed(Hit("a", 0.9, ""), x), Placed(Hit("b", 0.8, ""), y)], 0.0)) == ["a"]


@pytest.mark.parametrize(
    ("radius", "range_filter", "left"),
    [
        (None, None, [5, 4, 3, 2, 1]),
        (2, None, [5, 4, 3]),
        (None, 4, [4, 3, 2, 1]),
        (2, 4, [4, 3]),
        (5, None, []),
    ],
)
def test_a_range_is_open_below_and_closed_above(radius, range_filter, left):
    hits = [Hit(str(score), score, "") for score in (5, 4, 3, 2, 1)]
    assert [hit.score for hit in in_range(hits, radius, range_filter)] == left


def test_no_more_hits_are_read_than_the_range_holds():
    def hits():
        yield Hit("a", 0.9, "")
        yield Hit("b", 0.1, "")
        raise AssertionError

    assert [hit.id for hit in in_range(hits(), 0.5, None)] == ["a"]


def test_of_a_group_the_best_comes_and_what_has_no_group_comes_too():
    values = ["x", "x", None, "y", None, ["x"], ["x"], 1, True, 1.0]
    values += [{"a": 1, "b": 2}, {"b": 2, "a": 1}]
    hits = [
        Hit(str(at), 1 - at / 100, "", {} if value is None else {"g": value})
        for at, value in enumerate(values)
    ]
    assert [int(hit.id) for hit in one_of_each(hits, "g")] == [0, 2, 3, 4, 5, 7, 8, 9, 10]


def test_a_path_is_a_group_too():
    hits = [Hit("1", 0.9, "a"), Hit("2", 0.8, "a"), Hit("3", 0.7, "b")]
    assert [hit.id for hit in one_of_each(hits, "path")] == ["1", "3"]
    assert [hit.id for hit in one_of_each(hits, "id")] == ["1", "2", "3"]


def test_vectors_are_looked_up_as_they_are_needed_and_what_is_gone_is_left_out():
    asked = []

    def vectors_of(some):
        asked.append(len(some))
        return {id: np.ones(2, np.float32) for id in some if id != "3"}

    hits = (Hit(str(at), 0.5, "") for at in range(300))
    found = placed(hits, vectors_of)
    assert [next(found).hit.id for _ in range(4)] == ["0", "1", "2", "4"]
    assert asked == [128]
    assert len(list(found)) == 295
    assert asked == [128, 128, 44]
