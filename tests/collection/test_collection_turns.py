"""Who searches while Milvus Lite is written to sees every row that was acknowledged."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from stored import SPACE, random_units, row

from t2i_pipelines.collection import catalog, open_collection, schema
from t2i_pipelines.collection.lite import one_writer, reading

VECTORS = random_units(20, seed=7)
A_WHILE = 0.5  # seconds in which a search that does not wait has long answered


@pytest.fixture
def store(tmp_path):
    collection = open_collection(tmp_path / "turns.db")
    collection.prepare(SPACE)
    collection.upsert([row(f"{at:02}", vector, n=at) for at, vector in enumerate(VECTORS)])
    yield collection
    collection.close()


def stopped(monkeypatch, target, name, *, after=False):
    """Let the next ``target.name`` stop until the second event, or a while; the first tells that it did."""
    stops, go_on = threading.Event(), threading.Event()
    original = getattr(target, name)

    def stopping(*args, **kwargs):
        found = original(*args, **kwargs) if after else None
        if not stops.is_set():
            stops.set()
            go_on.wait(A_WHILE)
        return found if after else original(*args, **kwargs)

    monkeypatch.setattr(target, name, stopping)
    return stops, go_on


def beside(first, second, stops, go_on):
    """What both give, the second begun where the first stops."""
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(first)
        assert stops.wait(30)
        other = threads.submit(second)
        other.add_done_callback(lambda _: go_on.set())
        return one.result(), other.result()


def found_by(store):
    return [hits[0].id if hits else None for hits in store.search(VECTORS, limit=1)]


READS = {
    "search": lambda store: found_by(store) == [f"{at:02}" for at in range(20)],
    "count": lambda store: store.count() == 20,
    "rows": lambda store: len(store.ledger([f"{at:02}" for at in range(20)])) == 20,
    "scan": lambda store: sum(map(len, store.scan(["path"]))) == 20,
}


@pytest.fixture
def mid_read(monkeypatch):
    """Milvus Lite's reads stop between what is in files and what is in memory."""
    from milvus_lite.engine.collection import Collection

    return stopped(monkeypatch, Collection, "_read_snapshot", after=True)


@pytest.mark.parametrize("read", READS)
def test_rows_are_found_that_go_from_memory_to_a_file_meanwhile(store, mid_read, read):
    found, _ = beside(lambda: READS[read](store), store.flush, *mid_read)
    assert found


def test_rows_are_found_while_memory_that_is_full_is_written_out(store, monkeypatch, mid_read):
    from milvus_lite.engine import collection

    monkeypatch.setattr(collection, "MEMTABLE_MEMORY_LIMIT", 1)
    more = row("new", VECTORS[0] * -1)
    found, _ = beside(lambda: READS["search"](store), lambda: store.upsert([more]), *mid_read)
    assert found
    assert store.count() == 21


def test_rows_are_found_while_another_thread_closes_the_database(store, mid_read):
    found, _ = beside(lambda: READS["search"](store), store.close, *mid_read)
    assert found


def test_a_forked_child_finds_rows_that_its_parent_writes_out_meanwhile(store, mid_read):
    stops, go_on = mid_read
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    child = fork.Process(target=lambda: found.put(READS["search"](store)))
    child.start()
    assert stops.wait(30)
    store.flush()
    go_on.set()
    assert found.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("step", ["release_collection", "drop_index", "create_index", "load_collection"])
def test_rows_are_found_at_every_step_of_a_new_index(store, monkeypatch, step):
    monkeypatch.setattr(schema, "ladder", lambda *, is_lite, version: {"FLAT": 0, "IVF_FLAT": 10})
    at_step = stopped(monkeypatch, store.connection._open(30), step, after=True)
    _, found = beside(store.flush, lambda: READS["search"](store), *at_step)
    assert found
    assert store.catalog.find().index_type == "IVF_FLAT"


def test_one_who_looks_the_collection_up_does_not_meet_it_without_its_index(store, monkeypatch):
    monkeypatch.setattr(schema, "ladder", lambda *, is_lite, version: {"FLAT": 0, "IVF_FLAT": 10})
    monkeypatch.setattr(catalog, "BEING_MADE", 0.0)
    at_step = stopped(monkeypatch, store.connection._open(30), "drop_index", after=True)
    made, make = [], store.catalog._make_index
    monkeypatch.setattr(store.catalog, "_make_index", lambda *what: (made.append(what[1]), make(*what)))

    def look_up():
        store.catalog.forget()
        return READS["search"](store)

    _, found = beside(store.flush, look_up, *at_step)
    assert found
    assert made == ["IVF_FLAT"]


def test_one_may_read_what_one_is_writing(tmp_path):
    with one_writer(str(tmp_path)), one_writer(str(tmp_path)), reading(str(tmp_path)):
        pass
    with reading(str(tmp_path)):
        pass


def test_many_may_read_at_once_and_none_while_one_writes(tmp_path):
    database, together = str(tmp_path), threading.Barrier(3, timeout=30)
    inside, seen = [], []

    def read():
        with reading(database):
            together.wait()  # passes only if all three are inside

    with ThreadPoolExecutor(3) as threads:
        for one in [threads.submit(read) for _ in range(3)]:
            one.result()

    def write():
        for _ in range(50):
            with one_writer(database):
                inside.append(1)
                os.sched_yield()
                inside.pop()

    def look():
        for _ in range(50):
            with reading(database):
                seen.append(len(inside))

    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(task) for task in (write, look, write, look)]:
            one.result()
    assert seen == [0] * 100


def test_neither_those_who_read_nor_those_who_write_without_pause_keep_the_others_out(tmp_path):
    database, done = str(tmp_path), threading.Event()

    def without_pause(enter):
        while not done.is_set():
            with enter(database):
                os.sched_yield()

    for others, wanted in ((reading, one_writer), (one_writer, reading)):
        done.clear()
        with ThreadPoolExecutor(4) as threads:
            for _ in range(3):
                threads.submit(without_pause, others)
            for _ in range(20):
                with wanted(database):
                    pass
            done.set()


def test_one_who_is_interrupted_while_waiting_leaves_the_lock_as_it_was(tmp_path, monkeypatch):
    from t2i_pipelines._towhee import locks

    lock = locks.ReadWriteLock()

    def interrupt(*_):
        raise KeyboardInterrupt

    other, leave = threading.Event(), threading.Event()

    def hold():
        with lock.alone():
            other.set()
            leave.wait(30)

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        other.wait(30)
        with monkeypatch.context() as patch:
            patch.setattr(lock._changed, "wait", interrupt)
            for enter in (lock.alone, lock.shared):
                with pytest.raises(KeyboardInterrupt), enter():
                    pass
        leave.set()
        held.result()
    with lock.shared():
        pass
    with lock.alone():
        pass
