"""What columns there are and their commonest values, and reading by filter, on every engine."""

import pytest
from stored import row, unit

from t2i_pipelines.collection.columns import Values
from t2i_pipelines.errors import ConfigError

pytest_plugins = ["milvus_backends"]


def stored(store, *metadata):
    """A row for each mapping, their ids 0000, 0001 and so on."""
    store.upsert([row(f"{at:04}", unit(at % 16)[0], **one) for at, one in enumerate(metadata)])


def test_columns_are_those_of_the_metadata_with_their_types(store):
    stored(
        store,
        {"year": 2015, "f": 0.5, "ok": True, "place": "Rome", "tags": ["a"], "exif": {"iso": 100}},
        {"year": 2016, "f": 1, "GPS (lat)": 41.9, "35mm": "x", "any": 1},
        {"any": "text"},
    )
    assert store.columns() == {
        "35mm": "string",
        "GPS (lat)": "number",
        "any": "mixed",
        "exif": "object",
        "f": "number",
        "ok": "boolean",
        "place": "string",
        "tags": "array",
        "year": "integer",
    }


def test_columns_are_looked_for_in_a_bounded_number_of_rows(store):
    stored(store, {"first": 1}, {"second": 1}, {"third": 1})
    assert store.columns(rows=2) == {"first": "integer", "second": "integer"}
    assert set(store.columns(rows=3)) == {"first", "second", "third"}


def test_the_commonest_values_come_first_with_their_counts(store):
    years = [2015, 2016, 2016, 2014, 2014, 2014]
    stored(store, *({"year": year} for year in years), {"place": "Rome"})
    assert store.values("year") == Values([(2014, 3), (2016, 2), (2015, 1)], 7, True)
    assert store.values("year", limit=1) == Values([(2014, 3)], 7, True)
    assert store.values("place") == Values([("Rome", 1)], 7, True)
    assert store.values("nowhere") == Values([], 7, True)


def test_values_are_counted_in_a_bounded_number_of_rows_which_it_says(store):
    stored(store, *({"n": at % 2} for at in range(30)))
    assert store.values("n", rows=10) == Values([(0, 5), (1, 5)], 10, False)
    assert store.values("n", rows=30) == Values([(0, 15), (1, 15)], 30, True)


def test_each_item_of_a_list_counts_once_a_row_and_objects_do_not(store):
    stored(store, {"tags": ["dog", "dog", "pool"]}, {"tags": ["dog"]}, {"tags": {"a": 1}}, {"tags": "dog"})
    assert store.values("tags").counts == [("dog", 3), ("pool", 1)]


def test_true_is_not_counted_as_one(store):
    stored(store, {"v": True}, {"v": 1}, {"v": 1.0}, {"v": "1"}, {"v": True}, {"v": True})
    found = store.values("v").counts
    assert [(value, type(value), count) for value, count in found] == [
        (True, bool, 3),
        (1, type(found[1][0]), 2),
        ("1", str, 1),
    ]


@pytest.mark.parametrize("name", ["GPS (lat)", "35mm", "in", "a b", "Größe"])
def test_values_of_a_column_of_any_name(store, name):
    stored(store, {name: "x"}, {name: "y"}, {name: "x"})
    assert store.values(name).counts == [("x", 2), ("y", 1)]


def test_more_rows_than_a_page_has_are_looked_at(store):
    stored(store, *({"n": at % 3} for at in range(2500)))
    assert store.values("n", rows=2400) == Values([(0, 800), (1, 800), (2, 800)], 2400, False)
    assert store.values("n") == Values([(0, 834), (1, 833), (2, 833)], 2500, True)


@pytest.mark.parametrize("name", ["path", "vector", "digest", "id", "size", "mtime", "$meta", "", 5])
def test_the_collections_own_columns_have_no_values(store, name):
    with pytest.raises(ConfigError, match=r"column must be the name of metadata, got .*own columns \(id, ve"):
        store.values(name)


def test_rows_are_read_by_filter_after_an_id_and_in_pages(store):
    stored(store, *({"n": at % 4} for at in range(40)))
    pages = list(store.scan(["n"], filter="n < 2", where={"n": ("!=", 0)}, after="0012", page_rows=3))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [one["id"] for page in pages for one in page] == [f"{at:04}" for at in range(13, 40, 4)]
    with pytest.raises(ConfigError, match="filter 'n <' was refused"):
        list(store.scan(["n"], filter="n <"))
    with pytest.raises(ConfigError, match="page_rows must be between 1 and 16384, got 0"):
        list(store.scan(["n"], page_rows=0))


def test_rows_that_stay_are_read_once_while_others_come_and_go(store):
    stored(store, *({"n": at} for at in range(20)))
    read = []
    for at, page in enumerate(store.scan([], page_rows=4)):
        read += [one["id"] for one in page]
        store.delete([read[0], f"{19 - at:04}"])  # behind and in front
        store.upsert([row(f"0000-{at}", unit(0)[0]), row(f"{at + 10:04}-new", unit(1)[0])])
    assert len(read) == len(set(read))
    assert {f"{at:04}" for at in range(1, 15)} <= set(read)


def test_numbers_that_cannot_work_are_refused(store):
    for wrong in ({"limit": 0}, {"rows": 0}, {"rows": 1_000_001}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be between 1 and"):
            store.values("year", **wrong)
    with pytest.raises(ConfigError, match="rows must be between 1 and"):
        store.columns(rows=0)


def test_a_collection_that_is_not_there_has_no_columns(milvus_backend):
    ghost = milvus_backend.open("no_columns")
    assert ghost.columns() == {}
    assert ghost.values("year") == Values([], 0, True)
    assert ghost.space() is None
