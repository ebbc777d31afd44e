"""When rows are written out, and what a process that is killed while it does so leaves behind."""

import pytest
from pymilvus import MilvusClient, MilvusException
from test_collection_lite import SPACE, child, path, rows, store  # noqa: F401 - fixtures

from t2i_pipelines import collection as package
from t2i_pipelines.collection import close, collection, connection, open_collection
from t2i_pipelines.errors import StoreLockedError, StoreTimeoutError

pytest_plugins = ["milvus_backends"]

KILLED = """
    import os
    from milvus_lite.engine import flush
    from milvus_lite.storage import manifest, wal

    def end(*_):
        os._exit(9)

    def then_end(function):
        return lambda *arguments: (function(*arguments), end())

    c.prepare(SPACE)
    c.upsert(rows(0, 100))
    c.flush()
    c.upsert(rows(100, 100))
    c.delete(["7"])
"""
MOMENTS = {
    "before the data": "flush.write_data_file = end",
    "after the data": "flush.write_data_file = then_end(flush.write_data_file)",
    "before the manifest": "os.replace = end",
    "after the manifest": "wal.WAL.close_and_delete = end",
    "after half of the log": "os.remove = then_end(os.remove)",
    "after the log": "flush._cleanup_old_wals = end",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_flush_that_is_killed_at_any_moment_leaves_each_row_once(path, moment):  # noqa: F811
    process = child(KILLED + f"    {MOMENTS[moment]}\n    c.flush()\n", path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 9, err
    for _ in range(2):
        found = open_collection(path)
        ids = [row["id"] for page in found.scan(["path"]) for row in page]
        assert sorted(map(int, ids)) == [n for n in range(200) if n != 7]
        assert found.count() == 199
        found.flush()
        close()


def test_logs_of_a_database_that_another_process_holds_are_left_alone(path):  # noqa: F811
    script = "c.prepare(SPACE); c.upsert(rows(0, 9)); c.flush(); print('held', flush=True); sys.stdin.read()"
    holder = child(script, path)
    assert holder.stdout.readline() == "held\n", holder.stderr.read()
    (manifest,) = path.glob("collections/*/manifest.json")
    old = manifest.parent / "wal" / "wal_data_000000.arrow"
    old.write_bytes(b"")
    with pytest.raises(StoreLockedError):
        open_collection(path).count()
    assert old.exists()
    holder.communicate(timeout=60)
    assert open_collection(path).count() == 9
    assert not old.exists()


def test_a_log_that_cannot_be_deleted_is_named(store, path, monkeypatch):  # noqa: F811
    store.upsert(rows(0, 9))
    store.flush()
    close()
    (manifest,) = path.glob("collections/*/manifest.json")
    (manifest.parent / "wal" / "wal_data_000000.arrow").write_bytes(b"")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "unlink", refuse)
    with pytest.raises(package.lite.StoreError, match=r"cannot delete .*wal_data_000000.arrow: Permission"):
        store.count()


@pytest.fixture
def flushes(monkeypatch):
    """The number of rows at each flush."""
    seen = []
    write = collection.Collection.write

    def counted(self, method, **arguments):
        if method == "flush":
            seen.append(self.count())
        return write(self, method, **arguments)

    monkeypatch.setattr(collection.Collection, "write", counted)
    monkeypatch.setattr(connection, "FLUSH_BYTES", 100 * 4 * SPACE.dim)
    return seen


def test_rows_are_written_out_before_they_fill_the_memory(store, flushes):  # noqa: F811
    for start in range(0, 250, 10):
        store.upsert(rows(start, 10))
    assert flushes == [100, 200]
    store.finish()
    store.finish()
    assert flushes == [100, 200, 250]
    assert store.count() == 250


@pytest.mark.slow
def test_a_server_looks_after_its_own_memory(lite_server_backend, flushes):
    served = lite_server_backend.open("served")
    served.prepare(SPACE)
    served.upsert(rows(0, 250))
    assert flushes == []
    served.finish()
    assert flushes == [250]


@pytest.fixture
def interrupted(lite_server_backend, monkeypatch):
    """A collection on a server whose first flush never ends, as after a restart, and the calls it got."""
    calls = []
    collection = lite_server_backend.open("interrupted")
    collection.drop()
    collection.prepare(SPACE)
    collection.upsert(rows(0, 3))
    flush = MilvusClient.flush

    def first_never_ends(client, name, timeout, **more):
        calls.append(timeout)
        if len(calls) == 1:
            raise MilvusException(1, f"wait for flush timeout, collection: {name}")
        flush(client, name, timeout=timeout, **more)

    monkeypatch.setattr(MilvusClient, "flush", first_never_ends)
    monkeypatch.setattr(connection.Connection, "is_lite", lambda *_: False)
    yield collection, calls
    monkeypatch.undo()
    collection.drop()


def test_a_flush_that_a_restart_interrupted_is_asked_for_again(interrupted):
    collection, calls = interrupted
    collection.finish()
    assert calls == [connection.FLUSH_AGAIN] * 2
    collection.finish()
    assert len(calls) == 2, "all is flushed"


def test_a_flush_that_takes_too_long_is_an_error(interrupted, monkeypatch):
    monkeypatch.setattr(collection.Collection, "patience", -1.0)
    with pytest.raises(StoreTimeoutError, match=r"did not answer within 60 s \(flush in collection"):
        interrupted[0].flush()
