"""A server that goes away in the middle of a run, or is frozen, or refuses what is too large."""

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import paint
from stored import SPACE, random_units, row
from two_models import Turned

from t2i_pipelines import build_insert_pipeline, close, harden, insert_steps
from t2i_pipelines._towhee.door import pipe
from t2i_pipelines.collection import aliases, open_collection
from t2i_pipelines.collection import rows as batching
from t2i_pipelines.errors import StoreTimeoutError
from t2i_pipelines.pipelines.build import OUTCOME_COLUMNS

pytest_plugins = ["milvus_backends"]

PICTURES = 120
SERVER = [pytest.mark.milvus, pytest.mark.xdist_group("milvus")]


@pytest.fixture(params=["lite-server", pytest.param("server", marks=SERVER)])
def mortal(request, tmp_path):
    """A server's place, and what kills it and starts it anew on its data."""
    if request.param == "server":
        backend = request.getfixturevalue("milvus_server_backend")
        place = {"uri": backend.uri, "token": backend.token, "collection_name": "mortal"}
        yield place, backend.restart
        backend.revive()  # a restart that failed must not fail the tests that follow
        open_collection(**place).drop()
        return
    port, servers = request.getfixturevalue("dead_port"), request.getfixturevalue("lite_servers")
    running = [servers.start(tmp_path / "data.db", port)]

    def restart():
        servers.stop(running.pop())
        running.append(servers.start(tmp_path / "data.db", port))

    yield {"uri": f"http://127.0.0.1:{port}", "collection_name": "mortal"}, restart
    close(f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_run_loses_no_row_that_was_told_to_be_in(
    mortal, tmp_path, monkeypatch
):
    place, restart = mortal
    monkeypatch.setattr(Turned, "pause", 0.02)
    for number in range(PICTURES):
        paint(tmp_path / "many" / f"{number:03}.png", (number + 5, 250 - number, 100))
    settings = {"model_name": "turned", "batch_size": 4, "timeout": 10.0, **place}
    told, before = set(), set()

    def tell(path, id, status, reason):
        if status == "inserted":
            told.add(id)
        if len(told) == 40:
            before.update(told)
            restart()

    steps = insert_steps(pipe.input("source"), **settings).map(OUTCOME_COLUMNS, (), tell).output()
    ended = None
    try:
        harden(steps)(str(tmp_path / "many"))
    except Exception as err:
        ended = str(err)
    assert len(before) == 40
    assert ended is None or place["uri"] in ended, ended
    collection = open_collection(**place)
    with aliases.newest(collection):
        kept = [row["id"] for page in collection.scan([]) for row in page]
    assert told <= set(kept)
    assert len(kept) == len(set(kept))
    build_insert_pipeline(**settings)(str(tmp_path / "many"))
    stored = [row["path"] for page in collection.scan(["path"]) for row in page]
    assert sorted(Path(path).name for path in stored) == [f"{number:03}.png" for number in range(PICTURES)]


@pytest.fixture
def store(milvus_server_backend):
    collection = milvus_server_backend.open("large", timeout=30)
    collection.prepare(SPACE)
    yield collection
    collection.drop()


@pytest.mark.milvus
@pytest.mark.xdist_group("milvus")
@pytest.mark.slow
def test_what_a_server_finds_too_large_is_sent_in_halves(store, monkeypatch):
    """A server takes 64 MB; this is 75 MB at once."""
    monkeypatch.setattr(batching, "BATCH_BYTES", 1 << 30)
    connection, sent = store.connection, []
    call = connection.call

    def counting(method, *arguments, **more):
        if method == "upsert":
            sent.append(len(more["data"]))
        return call(method, *arguments, **more)

    monkeypatch.setattr(connection, "call", counting)
    store.upsert([row(at, vector, note="x" * 50_000) for at, vector in enumerate(random_units(1500))])
    assert sent == [1500, 750, 750]
    assert store.count() == 1500


def is_stopped(pid):
    """Whether all threads of a process have; one that has not may still answer."""
    states = [
        stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) <= {"T"}


@pytest.mark.milvus
@pytest.mark.xdist_group("milvus")
@pytest.mark.slow
def test_a_frozen_real_server_is_a_timeout_and_then_goes_on(store, milvus_server_backend):
    from milvus_backends import wait_until  # a plugin, not to be imported before it is registered

    store.upsert([row(at, vector) for at, vector in enumerate(random_units(20))])
    assert store.count() == 20
    hasty = milvus_server_backend.open("large", timeout=2)
    assert hasty.count() == 20
    pid = milvus_server_backend.pids[-1]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(pid), "the end of all threads' work")
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError, match="did not answer within 2 s"):
            hasty.count()
        assert time.monotonic() - began < 20
    finally:
        os.kill(pid, signal.SIGCONT)
    assert store.count() == 20
    assert len(store.search(random_units(1), limit=20)[0]) == 20
