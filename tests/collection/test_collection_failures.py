"""Every error of pymilvus and gRPC becomes one of ours that names the culprit and the way out."""

import dataclasses
import logging
import os
import signal
import threading
import time

import grpc
import numpy as np
import pytest
from pymilvus.exceptions import MilvusException, ParamError

from t2i_pipelines.collection import close, open_collection
from t2i_pipelines.collection.failures import (
    NotLoadedError,
    RefusedError,
    TooLargeError,
    quiet,
    translate,
)
from t2i_pipelines.collection.search import from_answer
from t2i_pipelines.errors import (
    CollectionNotFoundError,
    ConfigError,
    ModelMismatchError,
    StoreAuthError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from t2i_pipelines.types import Space

pytest_plugins = ["milvus_backends"]

SPACE = Space("fake", "a1" * 32, "squash 64", 16)
QUERY = np.ones((1, 16), np.float32)


def rows(count, **more):
    vectors = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    return [
        {"id": str(i), "vector": v, "path": "p", "size": 1, "mtime": 2, "digest": "d", **more}
        for i, v in enumerate(vectors)
    ]


class FakeRpcError(grpc.RpcError):
    def __init__(self, status):
        self._status = status

    def code(self):
        return self._status

    def details(self):
        return "the details"


def caused(err, cause):
    err.__cause__ = cause
    return err


STATUS = grpc.StatusCode
CASES = [
    (FakeRpcError(STATUS.DEADLINE_EXCEEDED), StoreTimeoutError, "within 3 s .*timeout= allows more"),
    (FakeRpcError(STATUS.UNAVAILABLE), StoreUnavailableError, "no Milvus server answers at http://h"),
    (FakeRpcError(STATUS.UNAUTHENTICATED), StoreAuthError, "http://h refuses the token"),
    (FakeRpcError(STATUS.PERMISSION_DENIED), StoreAuthError, "refuses the token .*details"),
    (FakeRpcError(STATUS.RESOURCE_EXHAUSTED), TooLargeError, "over the server's limit: the details"),
    (FakeRpcError(STATUS.UNIMPLEMENTED), StoreError, "counting at http://h failed: the details"),
    (MilvusException(2, "Fail connecting"), StoreUnavailableError, "Fail connecting"),
    (
        caused(MilvusException(2, "Fail connecting"), FakeRpcError(STATUS.UNAUTHENTICATED)),
        StoreAuthError,
        r"refuses the token.*Fail connecting \(the details\)",
    ),
    (
        caused(MilvusException(2, "Fail connecting"), FakeRpcError(STATUS.DEADLINE_EXCEEDED)),
        StoreTimeoutError,
        "did not answer within 3 s",
    ),
    (MilvusException(STATUS.UNAVAILABLE, "Retry run out"), StoreUnavailableError, "Retry run out"),
    (MilvusException(1, "[f] Retry timeout: 3s"), StoreTimeoutError, "did not answer"),
    (MilvusException(1, "wait for flush timeout, collection: c"), StoreTimeoutError, "did not answer"),
    (MilvusException(100, "no such"), CollectionNotFoundError, "no such"),
    (MilvusException(101, "not loaded"), NotLoadedError, "not loaded"),
    (MilvusException(800, "database not found"), ConfigError, "last part of the uri names the data"),
    (MilvusException(1100, "invalid"), RefusedError, "invalid"),
    (MilvusException(65535, "cannot parse expression: x"), RefusedError, "cannot parse"),
    (MilvusException(65535, "anything"), StoreError, "anything"),
    (ParamError(message="a parameter"), StoreError, "a parameter"),
    (ValueError("Cannot invoke RPC on closed channel!"), StoreError, "closed channel"),
]


@pytest.mark.parametrize(("err", "kind", "words"), CASES, ids=lambda value: str(value)[:40])
def test_an_error_is_translated_by_its_code_and_causes(err, kind, words):
    translated = translate(err, doing="counting", where="http://h", timeout=3)
    assert type(translated) is kind
    with pytest.raises(kind, match=words):
        raise translated


def test_a_chain_that_bites_its_tail_ends():
    err = MilvusException(7, "odd")
    err.__cause__ = err
    assert type(translate(err, doing="d", where="w", timeout=1)) is StoreError


def test_a_dead_port_is_named_at_once(dead_port):
    uri = f"http://root:secret@127.0.0.1:{dead_port}"
    start = time.monotonic()
    for attempt in range(2):
        with pytest.raises(StoreUnavailableError, match=r"answers at http://127\.0\.0\.1") as caught:
            open_collection(uri, timeout=5).search(QUERY)
        assert "secret" not in str(caught.value), attempt
    assert time.monotonic() - start < 6


@pytest.fixture
def server(tmp_path, dead_port, lite_servers):
    """A ``milvus-lite server`` to be mistreated: its port, its data, its process."""
    data = tmp_path / "data.db"
    yield dead_port, data, lite_servers.start(data, dead_port)
    close(f"http://127.0.0.1:{dead_port}")


@pytest.mark.slow
def test_a_frozen_server_is_a_timeout_and_then_goes_on(server):
    port, _, process = server
    store = open_collection(f"http://127.0.0.1:{port}", timeout=2)
    store.prepare(SPACE)
    store.upsert(rows(5))
    assert store.count() == 5
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # until all of its threads have stopped, it may still answer
    start = time.monotonic()
    with pytest.raises(StoreTimeoutError, match=r"127\.0\.0\.1:\d+ did not answer within 2 s"):
        store.search(QUERY)
    fresh = open_collection(f"http://localhost:{port}", timeout=1)
    with pytest.raises(StoreTimeoutError, match=r"within 1 s \(connecting"):
        fresh.search(QUERY)
    assert time.monotonic() - start < 10
    os.kill(process.pid, signal.SIGCONT)
    assert len(store.search(QUERY)[0]) == 5
    fresh.close()


def test_the_same_collection_goes_on_after_its_server_was_started_anew(server, lite_servers):
    port, data, process = server
    store = open_collection(f"http://127.0.0.1:{port}", timeout=10)
    store.prepare(SPACE)
    store.upsert(rows(50))
    lite_servers.stop(process)
    with pytest.raises(StoreUnavailableError, match=f"answers at http://127.0.0.1:{port}"):
        store.search(QUERY)
    with pytest.raises(StoreUnavailableError, match=f"answers at http://127.0.0.1:{port}"):
        store.upsert(rows(50))
    lite_servers.start(data, port)
    assert store.count() == 50
    store.upsert(rows(60))
    assert len(store.search(QUERY, limit=100)[0]) == 60


def test_a_message_over_the_servers_limit_is_split_and_nothing_is_lost(server, monkeypatch):
    port, _, _ = server
    store = open_collection(f"http://127.0.0.1:{port}")
    store.prepare(SPACE)
    call, sizes = store.connection.call, []

    def small_server(method, *args, **kwargs):
        if method in ("insert", "upsert"):
            sizes.append(len(kwargs["data"]))
            if len(kwargs["data"]) > 30:
                raise TooLargeError("over the server's limit")
        return call(method, *args, **kwargs)

    monkeypatch.setattr(store.connection, "call", small_server)
    store.upsert(rows(100))
    assert sizes == [100, 50, 25, 25, 50, 25, 25]
    assert store.count() == 100


def test_a_single_row_over_the_servers_limit_is_an_error(server, monkeypatch):
    port, _, _ = server
    store = open_collection(f"http://127.0.0.1:{port}")
    store.prepare(SPACE)

    def no_server(method, *args, **kwargs):
        raise TooLargeError("over the server's limit")

    monkeypatch.setattr(store.connection, "call", no_server)
    with pytest.raises(StoreError, match="over the server's limit"):
        store.upsert(rows(3))


@pytest.mark.milvus
@pytest.mark.xdist_group("milvus")
@pytest.mark.parametrize("token", ["", "root:wrong", "nobody:Milvus"])
def test_a_wrong_token_is_told_apart_from_a_server_that_is_down(milvus_server_backend, token):
    store = open_collection(milvus_server_backend.uri, token=token)
    with pytest.raises(StoreAuthError, match=r"127\.0\.0\.1:\d+ refuses the token") as caught:
        store.count()
    assert not token or token not in str(caught.value)


def test_other_loggers_and_other_threads_are_not_hushed(caplog):
    def log():
        logging.getLogger("pymilvus.decorators").error("from another thread")

    with quiet():
        logging.getLogger("pymilvus.decorators").error("hushed")
        logging.getLogger("somebody").error("heard")
        thread = threading.Thread(target=log)
        thread.start()
        thread.join()
    logging.getLogger("pymilvus.decorators").error("heard again")
    assert [r.getMessage() for r in caplog.records] == [
        "heard",
        "from another thread",
        "heard again",
    ]
    assert not logging.getLogger("pymilvus.decorators").filters


def test_an_error_carries_its_origin(dead_port):
    with pytest.raises(StoreUnavailableError) as caught:
        open_collection(f"http://127.0.0.1:{dead_port}", timeout=3).count()
    assert isinstance(caught.value.__cause__, MilvusException)


def test_a_collection_that_others_made_anew_for_another_model_is_noticed(server, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.collection.catalog.RECHECK", 0.0)
    port, _, _ = server
    ours = open_collection(f"http://127.0.0.1:{port}")
    ours.prepare(SPACE)
    ours.upsert(rows(5))
    others = open_collection(f"http://localhost:{port}")  # as another process would
    others.drop()
    others.prepare(dataclasses.replace(SPACE, weights="b2"))
    with pytest.raises(ModelMismatchError, match="cannot be compared"):
        ours.search(QUERY)
    others.drop()
    others.close()


def test_a_score_that_rounding_put_beyond_one_is_one():
    answer = [[{"id": "a", "distance": 1.0000001, "entity": {"path": "p"}}]]
    answer[0].append({"id": "b", "distance": -1.0000001, "entity": {"path": "p"}})
    assert [hit.score for hit in from_answer(answer, 1, ())[0]] == [1.0, -1.0]
