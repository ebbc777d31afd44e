"""Pages, ranges, groups, near-duplicates and diversity, on every engine."""

import json

import numpy as np
import pytest
from stored import DIM, emptied, random_units, row, unit

from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ConfigError, VectorError

pytest_plugins = ["milvus_backends"]

COUNT = 400
VECTORS = random_units(COUNT)
QUERY = random_units(1, seed=9)
SCORES = (VECTORS @ QUERY[0]).tolist()
ORDER = [str(at) for at in sorted(range(COUNT), key=lambda at: -SCORES[at])]
ALBUMS = {str(at): at % 7 for at in range(0, COUNT, 2)}


@pytest.fixture(scope="module")
def prepared(milvus_backend):
    collection = milvus_backend.open("options")
    collection.drop()
    emptied(collection).upsert(
        [
            row(at, vector, album=ALBUMS[str(at)]) if at % 2 == 0 else row(at, vector)
            for at, vector in enumerate(VECTORS)
        ]
    )
    yield collection
    collection.drop()
    collection.close()


@pytest.fixture
def find(prepared):
    def ids(**options):
        (hits,) = prepared.search(QUERY, **options)
        return [hit.id for hit in hits]

    return ids


def best_of_each(ids):
    """The first id of each album, and each id without one."""
    seen = set()
    return [id for id in ids if id not in ALBUMS or (ALBUMS[id] not in seen and not seen.add(ALBUMS[id]))]


def not_alike(ids, threshold):
    kept = []
    for id in ids:
        if all(VECTORS[int(id)] @ VECTORS[int(other)] < threshold for other in kept):
            kept.append(id)
    return kept


def test_pages_are_parts_of_the_whole_ranking(find):
    assert find(limit=25) == ORDER[:25]
    assert find(limit=10, offset=25) == ORDER[25:35]
    assert find(limit=10, offset=395) == ORDER[395:]
    assert find(limit=10, offset=400) == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group_by": "album"},
        {"collapse": 0.5},
        {"diversity": 0.4},
        {"radius": -0.2, "range_filter": 0.3},
        {"group_by": "album", "collapse": 0.6, "diversity": 0.3, "where": {"size": 1}},
    ],
)
def test_page_one_and_page_two_are_one_page_of_both(find, options):
    both = find(limit=40, **options)
    assert find(limit=13, **options) + find(limit=27, offset=13, **options) == both
    assert len(both) == len(set(both)) > 13


def test_a_range_keeps_scores_between_its_bounds(find):
    bounds = sorted(SCORES)
    low, high = bounds[100] + 1e-4, bounds[300] + 1e-4
    within = [id for id in ORDER if low < SCORES[int(id)] <= high]
    assert find(limit=400, radius=low, range_filter=high) == within
    assert find(limit=5, radius=low, range_filter=high, offset=3) == within[3:8]
    assert find(limit=400, radius=high) == [id for id in ORDER if SCORES[int(id)] > high]
    assert find(limit=400, radius=0.999) == []


def test_of_a_group_the_best_comes_and_rows_without_a_group_stay(find, prepared):
    assert find(limit=400, group_by="album") == best_of_each(ORDER)
    where = {"album": ("!=", None)}
    assert find(limit=400, group_by="album", where=where) == best_of_each(id for id in ORDER if id in ALBUMS)
    (hits,) = prepared.search(QUERY, group_by="album", where=where)
    assert [dict(hit.fields) for hit in hits] == [{}] * 7
    (hits,) = prepared.search(QUERY, group_by="album", where=where, output_fields=["album"])
    assert sorted(hit.fields["album"] for hit in hits) == list(range(7))


def test_groups_are_looked_for_until_the_limit_is_reached(milvus_backend):
    """3,000 rows of one group are in front of the others: more than are asked for at first."""
    collection = emptied(milvus_backend.open("deep"))
    x, y = unit(0, 1)
    near = [row(f"n{at:04}", x + at / 1e5 * y, g="one") for at in range(3000)]
    collection.upsert([*near, row("two", x + y, g="two"), row("three", y, g="three")])
    (hits,) = collection.search(x[None], limit=3, group_by="g")
    assert [hit.id for hit in hits] == ["n0000", "two", "three"]
    (hits,) = collection.search(x[None], limit=3, collapse=0.9)
    assert [hit.id for hit in hits] == ["n0000", "two", "three"]
    (hits,) = collection.search(x[None], limit=2, radius=-1, range_filter=0.9)
    assert [hit.id for hit in hits] == ["two", "three"]
    collection.drop()


def test_of_pictures_that_are_alike_the_best_comes(find):
    for threshold in (0.3, 0.6):
        assert find(limit=400, collapse=threshold) == not_alike(ORDER, threshold)
        assert find(limit=5, collapse=threshold) == not_alike(ORDER, threshold)[:5]


def test_groups_are_made_before_near_duplicates_are_looked_for(find):
    assert find(limit=400, group_by="album", collapse=0.5) == not_alike(best_of_each(ORDER), 0.5)


def test_diversity_chooses_what_differs_from_what_was_chosen(find):
    chosen = find(limit=10, diversity=0.7)
    assert chosen[0] == ORDER[0]
    by_score, by_mmr = (VECTORS[[int(id) for id in ids]] for ids in (ORDER[:10], chosen))
    by_score, by_mmr = (np.triu(some @ some.T, 1) for some in (by_score, by_mmr))
    assert by_mmr.max() < by_score.max()
    assert set(chosen) <= set(ORDER[:60])
    assert find(limit=10, diversity=0) == ORDER[:10]


def test_many_queries_are_each_chosen_for(prepared):
    queries = random_units(8, seed=3)
    for options in ({"collapse": 0.5}, {"group_by": "album"}, {"diversity": 0.5}, {"offset": 3}):
        together = prepared.search(queries, limit=5, **options)
        for query, hits in zip(queries, together, strict=True):
            (alone,) = prepared.search(query[None], limit=5, **options)
            assert [hit.id for hit in hits] == [hit.id for hit in alone]


def test_equal_scores_come_by_id_however_many_are_asked_for(milvus_backend):
    collection = emptied(milvus_backend.open("ties"))
    ids = [f"{at:02}" for at in range(60)]
    collection.upsert([row(id, unit(0)[0]) for id in reversed(ids)])
    collection.upsert([row("best", unit(0)[0] + 1e-9), row("worse", unit(1)[0])])
    (hits,) = collection.search(unit(0), limit=100)
    order = [hit.id for hit in hits]
    assert order == [*sorted([*ids, "best"]), "worse"]
    for limit in (1, 7, 30, 61):
        (hits,) = collection.search(unit(0), limit=limit)
        assert [hit.id for hit in hits] == order[:limit]
        (hits,) = collection.search(unit(0), limit=7, offset=limit)
        assert [hit.id for hit in hits] == order[limit : limit + 7]
    collection.drop()


@pytest.mark.parametrize(
    "options", [{}, {"offset": 5}, {"radius": 0.0}, {"where": {"album": 3}}, {"group_by": "album"}]
)
def test_iterating_gives_what_a_search_without_limit_would(prepared, find, options):
    batches = list(prepared.iterate(QUERY[0], batch_size=33, **options))
    assert [hit.id for hits in batches for hit in hits] == find(limit=400, **options)
    assert {len(hits) for hits in batches[:-1]} <= {33}


def test_iterating_asks_for_the_fields_too(prepared):
    (hits,) = prepared.iterate(QUERY[0], SearchOptions(where={"album": 3}, output_fields=["album"]))
    assert [dict(hit.fields) for hit in hits] == [{"album": 3}] * len(hits)
    assert len(hits) > 20


def test_nothing_stored_gives_nothing_to_iterate(milvus_backend):
    ghost = milvus_backend.open("ghost")
    assert list(ghost.iterate(QUERY[0])) == []
    assert ghost.duplicates() == []


def test_what_is_wrong_is_said_at_once(prepared):
    with pytest.raises(VectorError, match="query 0: the vector has shape"):
        prepared.iterate(np.ones(DIM + 1, np.float32))
    with pytest.raises(ConfigError, match="batch_size must be between 1 and 16384, got 0"):
        prepared.iterate(QUERY[0], batch_size=0)
    with pytest.raises(ConfigError, match="threshold must be a number from -1 to 1, got 2"):
        prepared.duplicates(2)
    with pytest.raises(ConfigError, match=r"offset \+ limit must be at most 16,384"):
        prepared.search(QUERY, offset=16384 - 9, limit=10)
    with pytest.raises(ConfigError, match="collapse must be a number from 0 to 1, got 1.5"):
        prepared.search(QUERY, collapse=1.5)


@pytest.mark.slow
def test_iterating_goes_past_milvus_window_without_a_gap_or_a_repetition(milvus_backend):
    count = 18_000
    collection = emptied(milvus_backend.open("window"))
    vectors = random_units(count, seed=4)
    vectors[100:150] = vectors[100]  # fifty images that are the same
    for start in range(0, count, 3000):
        collection.upsert(
            [row(f"{at:05}", vectors[at], even=at % 2 == 0) for at in range(start, start + 3000)]
        )
    collection.flush()
    scores = vectors.astype(np.float64) @ QUERY[0].astype(np.float64)
    for options, rows in (({}, range(count)), ({"where": {"even": True}}, range(0, count, 2))):
        found = [hit for hits in collection.iterate(QUERY[0], batch_size=4000, **options) for hit in hits]
        assert sorted(hit.id for hit in found) == [f"{at:05}" for at in rows]
        assert [hit.score for hit in found] == pytest.approx(sorted(scores[rows], reverse=True), abs=1e-5)
        ranked = scores[[int(hit.id) for hit in found]]
        assert (np.diff(ranked) < 2e-7).all()  # float32 cannot tell closer ones apart
    same = [hit.id for hit in found if 100 <= int(hit.id) < 150]
    assert same == sorted(same)
    hits, *_ = collection.iterate(QUERY[0], batch_size=4000)
    (top,) = collection.search(QUERY, limit=3000)
    assert [hit.id for hit in top] == [hit.id for hit in hits[:3000]]
    assert json.dumps([hit.score for hit in top])  # plain floats
    collection.drop()
