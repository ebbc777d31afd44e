"""What Milvus Lite needs from the store: paths, the lock, formats, repair, one writer."""

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from t2i_pipelines import collection as package
from t2i_pipelines.collection import close, lite, open_collection
from t2i_pipelines.errors import (
    ConfigError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
)
from t2i_pipelines.types import Space

SPACE = Space("fake", "a1" * 32, "squash 64", 16)

# What every script of a child process starts with.
PREAMBLE = """
import sys, numpy as np
from t2i_pipelines.collection import open_collection, close
from t2i_pipelines.types import Space
SPACE = Space("fake", "a1" * 32, "squash 64", 16)
def rows(start, count):
    vectors = np.random.default_rng(start).normal(size=(count, 16)).astype(np.float32)
    return [dict(id=str(start + i), vector=v, path=f"{start + i}.jpg", size=1, mtime=2, digest="d")
            for i, v in enumerate(vectors)]
c = open_collection(sys.argv[1])
"""
_scope = {}
exec(PREAMBLE.partition("c = open")[0], _scope)
rows = _scope["rows"]


def child(script, uri, **options):
    """Start a process that has ``c``, the collection at ``uri``."""
    code = PREAMBLE + textwrap.dedent(script)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, str(uri)], text=True, **{**pipes, **options})


def answer(script, uri):
    process = child(script, uri)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture
def path(tmp_path):
    yield tmp_path / "pictures.db"
    close()


@pytest.fixture
def store(path):
    collection = open_collection(path)
    collection.prepare(SPACE)
    return collection


def test_every_spelling_of_a_path_is_one_collection(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    there = tmp_path / "a b ü.db"
    spellings = [there, "a b ü.db", "./x/../a b ü.db", "~/a b ü.db", "link/a b ü.db", f"{there}/"]
    opened = [open_collection(spelling) for spelling in spellings]
    assert all(one is opened[0] for one in opened)
    assert open_collection(there) is not open_collection(there, collection_name="other")


def test_equal_settings_give_the_same_object_in_every_thread(path):
    found, start = [], threading.Barrier(8)

    def look():
        start.wait()
        found.append(open_collection(path, timeout=7))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(collection) for collection in found}) == 1


def test_a_writer_makes_missing_parents(tmp_path):
    collection = open_collection(tmp_path / "not" / "there" / "yet.db")
    collection.prepare(SPACE)
    collection.upsert(rows(0, 3))
    assert collection.count() == 3
    close()


def test_a_reader_creates_nothing_not_even_parents(tmp_path):
    collection = open_collection(tmp_path / "not" / "there.db")
    assert collection.verify(SPACE) is False
    assert collection.search(np.ones((2, 16), np.float32)) == [[], []]
    assert (collection.count(), collection.space(), collection.ledger(["a"])) == (0, None, {})
    collection.flush()
    collection.delete(["a"])
    collection.drop()
    collection.close()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_a_database_to_be_made(path):
    path.mkdir()
    collection = open_collection(path)
    assert collection.verify(SPACE) is False
    assert list(path.iterdir()) == []
    collection.prepare(SPACE)
    assert collection.count() == 0


@pytest.mark.parametrize("method", ["prepare", "verify"])
def test_a_file_of_milvus_lite_2_is_named_and_left_alone(path, method):
    path.write_bytes(b"SQLite format 3\0" + bytes(1000))
    with pytest.raises(StoreFormatError, match=r"pictures\.db is a file.*Milvus Lite 2"):
        getattr(open_collection(path), method)(SPACE)
    assert path.stat().st_size == 1016


@pytest.mark.parametrize("method", ["prepare", "verify"])
def test_a_directory_of_something_else_is_named_and_left_alone(path, method):
    path.mkdir()
    (path / "holiday.jpg").touch()
    with pytest.raises(StoreFormatError, match=r"pictures\.db is a directory but no Milvus Lite"):
        getattr(open_collection(path), method)(SPACE)
    assert [p.name for p in path.iterdir()] == ["holiday.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prepare", "verify"])
def test_a_database_that_another_process_holds_is_named_with_the_way_to_share_it(path, method):
    holder = child("c.prepare(SPACE); print('held', flush=True); sys.stdin.read()", path)
    try:
        assert holder.stdout.readline() == "held\n"
        words = r"pictures\.db is open in another process.*milvus-lite server --data-dir .*pictures"
        with pytest.raises(StoreLockedError, match=words + r"\.db --host 127\.0\.0\.1"):
            getattr(open_collection(path), method)(SPACE)
    finally:
        holder.communicate(timeout=60)
    open_collection(path).prepare(SPACE)  # free again, without building anything anew


@pytest.mark.slow
def test_a_lock_taken_between_the_check_and_the_opening_is_told_apart_too(path, monkeypatch):
    holder = child("c.prepare(SPACE); print('held', flush=True); sys.stdin.read()", path)
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(lite, "uri_for", str)
        with pytest.raises(StoreLockedError, match="open in another process"):
            open_collection(path).verify(SPACE)
    finally:
        holder.communicate(timeout=60)


@pytest.mark.slow
def test_close_releases_the_lock_for_another_process(store, path):
    store.upsert(rows(0, 20))
    assert "StoreLockedError" in child("c.count()", path).communicate(timeout=60)[1]
    close(path)
    assert answer("print(c.count(), c.verify(SPACE))", path) == "20 True"
    assert store.count() == 20  # and opens again here


@pytest.mark.slow
def test_the_last_collection_of_a_path_releases_it(store, path):
    second = open_collection(path, collection_name="second")
    second.prepare(SPACE)
    second.close()
    assert "StoreLockedError" in child("c.count()", path).communicate(timeout=60)[1]
    store.close()
    assert answer("print(c.count())", path) == "0"


@pytest.mark.slow
def test_close_of_one_path_leaves_others_open(store, path, tmp_path):
    open_collection(tmp_path / "other.db").prepare(SPACE)
    close(tmp_path / "other.db")
    assert "StoreLockedError" in child("c.count()", path).communicate(timeout=60)[1]


def test_rows_are_there_after_reopening_and_can_be_searched_at_once(store, path):
    stored = rows(0, 50)
    store.upsert(stored)
    store.flush()
    close()
    (hits,) = open_collection(path).search(stored[7]["vector"][None], limit=1)
    assert hits[0].id == "7"


def test_a_half_written_index_file_is_repaired_with_one_warning_and_no_row_lost(store, path, caplog):
    stored = rows(0, 500)
    store.upsert(stored)
    store.flush()
    close()
    (sidecar,) = path.glob("collections/*/partitions/*/indexes/*.idx")
    sidecar.write_bytes(sidecar.read_bytes()[: sidecar.stat().st_size // 2])
    with caplog.at_level(logging.INFO):
        found = store.search(np.stack([r["vector"] for r in stored]), limit=1)
    assert [hits[0].id for hits in found] == [r["id"] for r in stored]
    assert store.count() == 500
    loud = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud == ["t2i_pipelines.collection"]
    assert "index files were deleted and are built again" in caplog.text


def test_a_repair_touches_no_other_collection(store, path):
    other = open_collection(path, collection_name="other")
    other.prepare(SPACE)
    for collection in (store, other):
        collection.upsert(rows(0, 200))
        collection.flush()
    close()
    (sidecar,) = path.glob("collections/image_collection/partitions/*/indexes/*.idx")
    (untouched,) = path.glob("collections/other/partitions/*/indexes/*.idx")
    sidecar.write_bytes(b"")
    before = untouched.stat()
    assert store.count() == 200
    assert untouched.stat().st_mtime_ns == before.st_mtime_ns


def test_damage_that_no_repair_cures_is_an_error_of_ours(store, path):
    store.upsert(rows(0, 200))
    store.flush()
    close()
    (data,) = path.glob("collections/*/partitions/*/data/*.parquet")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"pictures\.db failed: .*Parquet"):
        store.search(np.ones((1, 16), np.float32))


@pytest.mark.parametrize("index_type", sorted(lite.INDEX_TYPES))
def test_each_allowed_index_type_can_be_opened_again(path, index_type):
    collection = open_collection(path, index_type=index_type.lower())
    collection.prepare(SPACE)
    stored = rows(0, 300)
    collection.upsert(stored)
    collection.flush()
    close()
    found = collection.search(np.stack([r["vector"] for r in stored[:20]]), limit=1)
    assert [hits[0].id for hits in found] == [r["id"] for r in stored[:20]]


@pytest.mark.parametrize("index_type", ["IVF_PQ", "SCANN", "DISKANN", "HNSW_PQ", "GPU_CAGRA", "FOO"])
def test_an_index_type_that_could_not_be_opened_again_is_refused(path, index_type):
    with pytest.raises(ConfigError, match=f"one of AUTO, AUTOINDEX, FLAT, .*got '{index_type}'"):
        open_collection(path, index_type=index_type)
    assert open_collection("http://localhost:19530", index_type=index_type)


@pytest.mark.slow
def test_concurrent_writers_that_flush_lose_nothing(store):
    errors = []

    def write(number):
        try:
            for batch in range(15):
                store.upsert(rows(number * 10_000 + batch * 100, 100))
                if batch % 3 == 2:
                    store.flush()
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.count() == 8 * 15 * 100
    close()
    assert store.count() == 8 * 15 * 100


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["", "c.flush()"])
def test_no_acknowledged_row_is_lost_or_doubled_by_kill_minus_nine(path, flush):
    script = f"""
    c.prepare(SPACE)
    for start in range(0, 10**9, 50):
        c.upsert(rows(start, 50))
        {flush}
        print(start + 50, flush=True)
    """
    writer = child(script, path)
    acknowledged = 0
    while acknowledged < 1500:
        acknowledged = int(writer.stdout.readline() or pytest.fail(writer.stderr.read()))
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = int((writer.communicate(timeout=60)[0].split() or [acknowledged])[-1])
    collection = open_collection(path)
    ids = [str(i) for i in range(acknowledged + 50)]
    stored = collection.ledger(ids)
    assert not set(ids[:acknowledged]) - set(stored)
    assert collection.count() == len(stored)
    collection.prepare(SPACE)
    collection.upsert(rows(0, 50))  # run again: nothing is double
    assert collection.count() == len(stored)
    (hits,) = collection.search(rows(0, 50)[0]["vector"][None], limit=3)
    assert [h.id for h in hits].count("0") == 1


@pytest.mark.slow
def test_a_forked_child_uses_its_parents_database_and_leaves_it_whole(path):
    script = """
    import os
    c.prepare(SPACE)
    c.upsert(rows(0, 50))
    if (child := os.fork()) == 0:
        assert c.count() == 50
        c.upsert(rows(50, 50))
        c.flush()
        close()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    c.upsert(rows(100, 50))
    print(c.count(), len(c.search(np.ones((1, 16), np.float32), limit=200)[0]))
    """
    assert answer(script, path) == "150 150"
    assert open_collection(path).count() == 150


@pytest.mark.slow
def test_a_lock_that_a_thread_holds_at_a_fork_is_free_in_the_child(store, path):
    script = """
    import os, threading
    c.prepare(SPACE)
    held, go = threading.Event(), threading.Event()
    def hold():
        with c.connection.loading, c.connection._lock:
            held.set(); go.wait()
    threading.Thread(target=hold).start()
    held.wait()
    if (child := os.fork()) == 0:
        c.upsert(rows(0, 5))
        os._exit(c.count())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    go.set()
    print(status)
    """
    close()
    assert answer(script, path) == "5"


def test_importing_the_store_does_not_import_milvus():
    code = "import sys, t2i_pipelines.collection as c; c.open_collection('x.db'); " + (
        "print(sorted({'pymilvus', 'milvus_lite', 'grpc'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert not Path("x.db").exists()


@pytest.mark.slow
def test_nothing_is_written_to_the_screen_not_even_by_errors_that_are_raised(path):
    script = """
    from t2i_pipelines.errors import T2IError
    c.prepare(SPACE)
    c.upsert(rows(0, 50))
    c.flush()
    missed = 0
    for filter in ("year >", "foo bar"):
        try:
            c.search(np.ones((1, 16), np.float32), filter=filter)
        except T2IError:
            missed += 1
    assert missed == 2
    try:
        open_collection("http://127.0.0.1:1").count()
    except T2IError:
        c.drop()
    """
    process = child(script, path)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_an_idle_database_is_not_asked_whether_it_is_still_there(path, monkeypatch):
    """Lite's server hangs up on a client that asks often, and gRPC writes that to the screen."""
    import grpc

    channels, opened = [], grpc.insecure_channel

    def open_channel(target, options=(), **more):
        channels.append(dict(options))
        return opened(target, options=options, **more)

    monkeypatch.setattr(grpc, "insecure_channel", open_channel)
    open_collection(path).prepare(SPACE)
    assert channels
    for options in channels:
        assert options["grpc.keepalive_time_ms"] > 24 * 3600 * 1000


def test_many_threads_may_prepare_at_once(path):
    opened = [open_collection(path, timeout=10 + n % 2) for n in range(8)]
    errors, start = [], threading.Barrier(8)

    def prepare(collection):
        start.wait()
        try:
            collection.prepare(SPACE)
            collection.upsert(rows(0, 10))
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=prepare, args=(c,)) for c in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert opened[0].count() == 10


def test_closing_under_running_searches_gives_hits_or_an_error_of_ours(store):
    store.upsert(rows(0, 50))
    done, odd = threading.Event(), []

    def search():
        while not done.is_set():
            try:
                (hits,) = store.search(np.ones((1, 16), np.float32), limit=5)
                if len(hits) != 5:
                    odd.append(hits)
            except StoreError:
                pass
            except Exception as err:
                odd.append(err)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        close()
        assert store.count() == 50
    done.set()
    for thread in threads:
        thread.join()
    assert odd == []


def test_a_normal_run_logs_no_warning_and_no_error(path, caplog):
    with caplog.at_level(logging.DEBUG):
        collection = open_collection(path)
        collection.prepare(SPACE)
        collection.upsert(rows(0, 50))
        collection.flush()
        collection.search(np.ones((1, 16), np.float32))
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_collections_that_were_closed_are_forgotten(tmp_path):
    held = open_collection(tmp_path / "held.db")
    for number in range(3):
        collection = open_collection(tmp_path / f"{number}.db")
        collection.prepare(SPACE)
    close()
    del collection
    gc.collect()
    opened = {str(key[0]) for key in list(package._opened)}
    assert {uri for uri in opened if uri.startswith(str(tmp_path))} == {str(tmp_path / "held.db")}
    assert open_collection(tmp_path / "held.db") is held
    open_collection(tmp_path / "0.db").upsert([])  # open now, though nothing refers to it
    assert str(tmp_path / "0.db") in {str(key[0]) for key in list(package._opened)}


@pytest.mark.parametrize(
    "filter",
    [
        f'n[0] == 1 and id like "{"%" * 60}!"',
        f'n[0] == 1 and k like "{"%a" * 90}%!"',
        "k * 9999999999 == 1",
        "k + k == n[0]",
    ],
)
def test_no_filter_takes_all_the_time_or_all_the_memory(path, filter):
    collection = open_collection(path)
    collection.prepare(SPACE)
    collection.upsert([{**row, "k": "a" * 3000, "n": [1]} for row in rows(0, 3)])
    assert collection.count(filter=filter) == 0
    assert collection.count(filter='n[0] * 2 + 1 == 3 and k like "a%_a%aa"') == 3
