"""Metadata is changed, and rows are counted and deleted by filter, on every engine."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from stored import row, unit

from t2i_pipelines.collection import Ledger
from t2i_pipelines.errors import ConfigError

pytest_plugins = ["milvus_backends"]


def metadata(store, id):
    return store.rows([id], ["$meta"])[id].items() - {("id", id)}


def test_an_update_changes_what_it_names_and_keeps_the_rest(store):
    vector = (0.3 * unit(0) + 0.7 * unit(1))[0]
    store.upsert([row("a", vector, year=2015, place="Rome", gone=1), row("b", unit(2)[0], year=1999)])
    assert store.update("a", {"year": 2016, "gone": None, "caption": 'a "dog"'})
    assert metadata(store, "a") == {("year", 2016), ("place", "Rome"), ("caption", 'a "dog"')}
    assert metadata(store, "b") == {("year", 1999)}
    assert store.rows(["a"], ["vector"])["a"]["vector"] == pytest.approx(vector.tolist(), abs=0)
    assert store.ledger(["a"]) == {"a": Ledger(1, 2, "d")}
    (hits,) = store.search(vector[None], where={"year": 2016}, output_fields=["path"])
    assert [(hit.id, hit.path) for hit in hits] == [("a", "a.jpg")]
    assert hits[0].score == pytest.approx(1)
    assert store.count() == 2


def test_an_update_of_nothing_and_one_of_an_unknown_row_store_nothing(store):
    store.upsert([row("a", unit(0)[0], year=1)])
    assert store.update("a", {})
    assert not store.update("b", {"year": 2})
    assert metadata(store, "a") == {("year", 1)}
    assert store.count() == 1


@pytest.mark.parametrize("name", ["id", "path", "vector", "size", "mtime", "digest"])
def test_the_collections_own_fields_are_not_updated(store, name):
    store.upsert([row("a", unit(0)[0], year=1)])
    for value in ("x", None):
        with pytest.raises(ConfigError, match=f"row 'a': metadata may not be called '{name}', which the c"):
            store.update("a", {"year": 2, name: value})
    assert metadata(store, "a") == {("year", 1)}


def test_metadata_that_grows_too_large_by_an_update_is_refused(store):
    store.upsert([row("a", unit(0)[0], text="x" * 40_000)])
    with pytest.raises(ConfigError, match="row 'a': metadata takes 800.. bytes as JSON, Milvus stores 65535"):
        store.update("a", {"more": "x" * 40_000})
    assert metadata(store, "a") == {("text", "x" * 40_000)}


def test_updates_of_many_threads_lose_none(store):
    store.upsert([row("a", unit(0)[0])])
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda at: store.update("a", {f"c{at}": at}), range(12)))
    assert metadata(store, "a") == {(f"c{at}", at) for at in range(12)}


def test_a_row_that_is_stored_during_an_update_is_not_lost(store, monkeypatch):
    store.upsert([row("a", unit(0)[0], year=1)])
    read, writer = store.rows, threading.Thread(target=store.upsert, args=([row("a", unit(1)[0], year=2)],))

    def slow(ids, fields):
        found = read(ids, fields)
        writer.start()
        writer.join(0.3)
        return found

    monkeypatch.setattr(store, "rows", slow)
    store.update("a", {"place": "Rome"})
    writer.join()
    monkeypatch.undo()
    assert metadata(store, "a") == {("year", 2)}
    assert store.rows(["a"], ["vector"])["a"]["vector"] == unit(1)[0].tolist()


def test_rows_are_counted_by_filter(store):
    store.upsert([row(at, unit(at % 16)[0], year=2000 + at % 4, place="Rome") for at in range(20)])
    assert store.count() == 20
    assert store.count(filter="year > 2001") == 10
    assert store.count(filter="year > 2001", where={"year": ("!=", 2003)}) == 5
    assert store.count(where={"place": ("like", "B%")}) == 0
    with pytest.raises(ConfigError, match="filter 'year >' was refused"):
        store.count(filter="year >")


def test_rows_are_deleted_by_filter_and_counted(store):
    store.upsert([row(at, unit(at % 16)[0], year=2000 + at % 4) for at in range(2300)])
    assert store.delete_by_filter("year > 2001", {"year": ("!=", 2003)}) == 575
    assert store.count() == 1725
    assert store.delete_by_filter(where={"year": 2002}) == 0
    assert store.values("year").counts == [(2000, 575), (2001, 575), (2003, 575)]
    assert store.delete_by_filter('id != ""') == 1725
    assert store.count() == 0


@pytest.mark.parametrize("nothing", [{}, {"filter": " \n"}, {"where": {}}, {"where": {"year": []}}])
def test_deleting_without_a_condition_is_refused(store, nothing):
    store.upsert([row("a", unit(0)[0], year=1)])
    with pytest.raises(
        ConfigError, match="filter and where have no condition, so every row would be deleted"
    ):
        store.delete_by_filter(**nothing)
    assert store.count() == 1


def test_deleting_by_a_filter_that_is_none_deletes_nothing(store):
    store.upsert([row("a", unit(0)[0], year=1)])
    for wrong in ("year >", "()", "1 ==", "no such thing", "year > 2000 or", "year", "1", "'a'", "id"):
        with pytest.raises(ConfigError, match="was refused"):
            store.delete_by_filter(wrong)
    assert store.count() == 1


def test_a_collection_that_is_not_there_has_nothing_to_change(milvus_backend):
    ghost = milvus_backend.open("no_update")
    assert not ghost.update("a", {"year": 1})
    assert ghost.delete_by_filter("year > 1") == 0
    assert ghost.count(filter="year > 1") == 0
    assert ghost.space() is None
