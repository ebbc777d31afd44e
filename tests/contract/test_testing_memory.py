"""A database in memory, for tests: what its users rely on beside the contract of every collection."""

import subprocess
import sys
import threading
import time
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored import SPACE, emptied, random_units, row, unit

from t2i_pipelines import InsertReport, Searcher, build_insert_pipeline, close
from t2i_pipelines.collection import aliases, catalog, collection_names, open_collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.distributed import insert_distributed
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, StoreError
from t2i_pipelines.testing import MemoryCollection, forget_memory

URI = "memory://testing"


@pytest.fixture(autouse=True)
def forgotten():
    yield
    forget_memory()


@pytest.fixture
def store():
    return emptied(open_collection(URI))


def ids(store, **more):
    return [hit.id for hit in store.search(unit(0), limit=100, **more)[0]]


def test_images_are_inserted_and_found_without_a_file(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = {"uri": URI, "model_name": "colour"}
    assert InsertReport.collect(build_insert_pipeline(**place)(str(pictures))).counts["inserted"] == 7
    hits = Searcher(**place)("red")
    assert (hits[0].path, hits[0].score) == (str(pictures / "red.png"), pytest.approx(1))
    assert list(tmp_path.iterdir()) == [pictures]


def test_without_the_import_a_uri_in_memory_is_refused_with_what_to_import():
    code = f"""
from t2i_pipelines import Searcher
from t2i_pipelines.errors import ConfigError
try:
    Searcher(uri={URI!r})("red")
except ConfigError as err:
    print(err)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"uri '{URI}' is for tests: import t2i_pipelines.testing before it is used\n"


def test_equal_settings_are_one_collection_and_closing_keeps_its_rows(store):
    store.upsert([row("a", unit(0)[0])])
    assert open_collection(URI) is store
    close()
    with_a_token = open_collection(URI, token="other")
    assert (with_a_token.count(), store.count()) == (1, 1)
    assert collection_names(URI) == ["image_collection"]
    assert parse_uri("MEMORY://testing").uri == URI
    with_a_token.drop()
    assert store.entry() is None


def test_a_collection_is_the_same_until_it_is_dropped_and_is_not_made_twice(store, monkeypatch):
    monkeypatch.setattr(catalog, "RECHECK", 0)
    first = store.entry()
    assert store.is_unchanged(first, store.entry())
    store.upsert([row("a", unit(0)[0])])
    with pytest.raises(StoreError, match="there is a collection 'image_collection' already"):
        store.connection.call("create_collection", store.name, doing="make", timeout=1)
    assert store.count() == 1
    store.drop()
    store.prepare(SPACE)
    assert store.entry() != first


def test_each_uri_is_a_database_of_its_own_and_so_is_each_collection_without_one(store):
    store.upsert([row("a", unit(0)[0])])
    other, own, second = open_collection(URI + "2"), MemoryCollection(), MemoryCollection()
    assert [one.space() for one in (other, own, second)] == [None] * 3
    own.prepare(SPACE)
    assert (own.count(), second.space()) == (0, None)
    assert open_collection(own.uri).space() == SPACE
    assert MemoryCollection(uri=URI).count() == 1
    with pytest.raises(ConfigError, match="uri must begin with memory://, got 'milvus.db'"):
        MemoryCollection(uri="milvus.db")


def test_what_is_forgotten_is_gone_for_all_who_had_it_open(store):
    store.upsert([row("a", unit(0)[0])])
    beside, other = MemoryCollection(uri=URI), emptied(open_collection(URI + "2"))
    assert beside.count() == 1
    forget_memory(URI)
    assert (store.count(), beside.count(), store.space(), other.space()) == (0, 0, None, SPACE)
    assert collection_names(URI) == []
    with pytest.raises(CollectionNotFoundError):
        store.upsert([row("a", unit(0)[0])])
    forget_memory()
    assert other.space() is None


def test_neither_rows_that_were_given_nor_hits_that_were_read_are_the_stored_ones(store):
    given = row("a", unit(0)[0], tags=["x"], exif={"iso": 100})
    store.upsert([given])
    given["tags"].append("y")
    given["vector"][:] = unit(1)[0]
    (hit,) = store.search(unit(0), output_fields=["tags", "exif"])[0]
    assert (hit.score, dict(hit.fields)) == (1, {"tags": ["x"], "exif": {"iso": 100}})
    hit.fields["tags"].append("z")
    hit.fields["exif"].clear()
    found = store.rows(["a"], ["tags", "exif", "vector"])["a"]
    assert (found["tags"], found["exif"], found["vector"]) == (["x"], {"iso": 100}, unit(0)[0].tolist())


def test_a_row_is_looked_up_by_a_list_of_ids_as_by_any_other_filter(store):
    store.upsert([row(id, unit(0)[0]) for id in "cab"])
    assert sorted(ids(store, filter='id in ["a", "c", "z"]')) == ["a", "c"]
    assert ids(store, filter='id not in ["a", "c"]') == ["b"]
    assert ids(store, filter="id in []") == []
    two = store.read("query", filter='id > "a"', limit=2, output_fields=["path"])
    assert two == [{"id": "b", "path": "b.jpg"}, {"id": "c", "path": "c.jpg"}]
    assert store.read("query", filter="", limit=1, output_fields=["size"]) == [{"id": "a", "size": 1}]
    with pytest.raises(ConfigError, match="was refused"):
        ids(store, filter="id in [1]")


def test_a_filter_is_refused_of_an_empty_collection_too(store):
    for bad in ("year >", "vector == 1", "path + 1 == 2", "nothing(path)"):
        with pytest.raises(ConfigError, match=r"filter .* was refused"):
            ids(store, filter=bad)
    assert ids(store, filter="year > 1") == []


def test_scores_are_exact_and_equal_ones_come_by_id(store):
    vectors = random_units(500)
    store.upsert([row(f"{at:03}", 3 * one) for at, one in enumerate(vectors)])
    (hits,) = store.search(vectors[:1], limit=500)
    exact = vectors.astype(np.float64) @ vectors[0].astype(np.float64)
    assert [hit.id for hit in hits] == [f"{at:03}" for at in np.argsort(-exact)]
    assert [hit.score for hit in hits] == pytest.approx(np.sort(exact)[::-1], abs=1e-6)
    store.upsert([row(f"{at:03}", (at + 1) * vectors[0]) for at in range(500)])
    assert [hit.id for hit in store.search(vectors[:1], limit=7)[0]] == [f"{at:03}" for at in range(7)]


def test_a_name_becomes_an_alias_and_moves_at_once(store):
    began = time.monotonic()
    store.upsert([row("old", unit(0)[0])])
    first = aliases.make_alias(store)
    second = emptied(open_collection(URI, collection_name="second"))
    second.upsert([row("new", unit(0)[0])])
    aliases.move(store, "second")
    assert (ids(store), store.catalog.find().real_name) == (["new"], "second")
    assert collection_names(URI) == sorted([first, "second"])
    assert ids(open_collection(URI, collection_name=first)) == ["old"]
    forget_memory(URI)
    assert store.space() is None
    assert time.monotonic() - began < 2, "there is none to wait for, and no renaming that is not done"


def test_threads_write_and_read_one_collection_and_no_row_is_lost(store):
    numbers, problems, done = count(), [], threading.Event()

    def write():
        for _ in range(20):
            start = 10 * next(numbers)
            store.upsert([row(start + at, one) for at, one in enumerate(random_units(10, start))])

    def read():
        while not done.is_set():
            try:
                store.search(random_units(2), filter="size == 1", limit=5)
                store.ledger(["1", "2"])
            except Exception as err:
                problems.append(err)

    writers, readers = ([threading.Thread(target=one) for _ in range(4)] for one in (write, read))
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert problems == []
    assert store.count() == 800


def test_ray_is_refused_since_its_workers_are_other_processes(pictures):
    with pytest.raises(ConfigError, match=f"uri '{URI}' is the memory of this process"):
        insert_distributed(str(pictures), uri=URI, model_name="colour")


VALUES = st.one_of(st.integers(-3, 3), st.sampled_from(["", "a", "ab", "b_"]), st.booleans())
ROWS = st.fixed_dictionaries({}, optional={"n": st.integers(-3, 3), "t": st.sampled_from(["", "a", "ab"])})


@pytest.fixture
def both(tmp_path):
    """The same collection in memory and in Milvus Lite."""
    return [open_collection(uri) for uri in (URI, tmp_path / "milvus.db")]


@pytest.mark.filterwarnings("ignore:no row has a column")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ROWS, min_size=1, max_size=6),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("nt"), st.sampled_from(["==", "!=", "in", "not in"]), VALUES),
            st.tuples(st.just("n"), st.sampled_from([">", "<="]), st.integers(-3, 3)),
            st.tuples(st.just("t"), st.just("like"), st.sampled_from(["a%", "%b", "_b", "%"])),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(
        ["", "n > 0", 't == "a" or exists n', "not (size > 1) and n in [1, 2]", 'path like "%1%"']
    ),
)
def test_conditions_and_filters_find_what_they_find_in_milvus_lite(both, stored, conditions, filter):
    where = {}
    for name, operator, value in conditions:
        where.setdefault(name, []).append((operator, [value] if operator.endswith("in") else value))
    found = []
    for store in both:
        emptied(store).upsert([row(at, unit(0)[0], **one) for at, one in enumerate(stored)])
        try:
            found.append(ids(store, where=where, filter=filter))
        except ConfigError as err:
            found.append(type(err))
    assert found[0] == found[1]
