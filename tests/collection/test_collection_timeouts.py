"""A search that failed never looks like one that found nothing."""

from types import SimpleNamespace

import grpc
import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2
from stored import SPACE, random_units, row

from t2i_pipelines.collection import open_collection
from t2i_pipelines.errors import StoreError, StoreTimeoutError, StoreUnavailableError

VECTORS = random_units(5)


class Status(grpc.RpcError):
    """As gRPC raises it."""

    def __init__(self, name):
        self.name = name

    def code(self):
        return grpc.StatusCode[self.name]

    def details(self):
        return f"details of {self.name}"


def answered(code, reason):
    """An answer that tells of an error, as Milvus gives it."""
    status = common_pb2.Status(code=code, reason=reason, error_code=1)
    return lambda kind: kind(status=status)


FAILURES = {
    "DEADLINE_EXCEEDED": (Status("DEADLINE_EXCEEDED"), StoreTimeoutError),
    "UNAVAILABLE": (Status("UNAVAILABLE"), StoreUnavailableError),
    "CANCELLED": (Status("CANCELLED"), StoreTimeoutError),  # tried again for as long as timeout= allows
    "UNKNOWN": (Status("UNKNOWN"), StoreTimeoutError),
    "INTERNAL": (Status("INTERNAL"), StoreTimeoutError),
    "ABORTED": (Status("ABORTED"), StoreTimeoutError),
    "no channel in time": (grpc.FutureTimeoutError(), StoreTimeoutError),
    "no socket in time": (TimeoutError("timed out"), StoreTimeoutError),
    "a part of the server in time": (answered(1, "context deadline exceeded"), StoreTimeoutError),
    "a wait of the server": (answered(65535, "fail to search: Deadline Exceeded"), StoreTimeoutError),
    "unexpected": (answered(1, "segment 7 is not there"), StoreError),
    "no answer": (lambda kind: None, StoreError),
}
ANSWERS = {
    "Search": milvus_pb2.SearchResults,
    "Query": milvus_pb2.QueryResults,
    "DescribeCollection": milvus_pb2.DescribeCollectionResponse,
    "DescribeIndex": milvus_pb2.DescribeIndexResponse,
}
CALLS = {
    "Search": lambda store: store.search(VECTORS, limit=5),
    "Query": lambda store: [store.count()],
    "DescribeCollection": lambda store: (store.catalog.forget(), store.search(VECTORS)),
    "DescribeIndex": lambda store: (store.catalog.forget(), store.search(VECTORS)),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    collection = open_collection(tmp_path_factory.mktemp("timeouts") / "t.db", timeout=0.3)
    collection.prepare(SPACE)
    collection.upsert([row(at, vector) for at, vector in enumerate(VECTORS)])
    yield collection
    collection.close()


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_fails_is_an_error_and_not_an_empty_answer(store, monkeypatch, failure, method):
    found, kind = FAILURES[failure]
    handler = store.connection._open(30)._get_connection()

    def fail(*_, **__):
        if isinstance(found, Exception):
            raise found
        return found(ANSWERS[method])

    real = handler._stub
    with monkeypatch.context() as patch:
        stub = SimpleNamespace(**{**vars(real), method: fail})
        patch.setattr(handler, "_stub", stub)
        patch.setattr(handler, "_on_rpc_error", lambda _: False)
        with pytest.raises(kind) as caught:
            CALLS[method](store)
    assert type(caught.value) is kind
    assert len(store.search(VECTORS, limit=5)[0]) == 5
