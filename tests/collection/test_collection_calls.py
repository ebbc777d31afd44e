"""Every call to Milvus has a time limit."""

import ast
import math
from pathlib import Path

import pytest
from stored import SPACE, random_units, row

import t2i_pipelines.collection
from t2i_pipelines.collection import aliases
from t2i_pipelines.config.search import SearchOptions

pytest_plugins = ["milvus_backends"]

PACKAGE = Path(t2i_pipelines.collection.__file__).parent
TIMEOUT = 47.0


class Watched:
    """A ``MilvusClient`` that notes how long each of its calls may take."""

    def __init__(self, client, calls):
        self._client, self._calls = client, calls

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if not callable(method) or name.startswith("_") or name == "close":
            return method

        def call(*arguments, **more):
            self._calls.append((name, more.get("timeout")))
            return method(*arguments, **more)

        return call


@pytest.fixture
def calls(milvus_backend):
    """What the collection ``watched`` asks of Milvus: names, and seconds that each may take."""
    collection = milvus_backend.open("watched", timeout=TIMEOUT)
    connection, made = collection.connection, []
    connection._open(TIMEOUT)
    client = connection._client
    connection._client = Watched(client, made)
    yield collection, made
    connection._client = client
    collection.drop()


def test_every_call_may_take_a_limited_time(calls):
    collection, made = calls
    assert collection.space() is None
    collection.prepare(SPACE)
    vectors = random_units(30)
    collection.upsert([row(at, vector, year=at) for at, vector in enumerate(vectors)])
    collection.search(vectors[:3], limit=5, where={"year": (">", 3)}, collapse=0.9)
    list(collection.iterate(vectors[0], SearchOptions(output_fields=["year"])))
    collection.duplicates()
    collection.ledger(["1"])
    list(collection.scan(["path"]))
    collection.write_note("note", "text")
    assert collection.read_note("note") == "text"
    collection.delete(["1"])
    collection.flush()
    collection.catalog.forget()
    collection._call("release_collection")
    assert collection.count() == 29
    aliases.entry_of(collection)
    collection.drop()
    used = {name for name, _ in made}
    assert used >= {
        "describe_collection", "create_collection", "list_indexes", "load_collection", "search", "query",
        "delete", "flush", "alter_collection_properties", "drop_collection",
    }  # fmt: skip
    assert used & {"insert", "upsert"}
    without = [name for name, seconds in made if not isinstance(seconds, int | float)]
    assert without == []
    assert all(0 < seconds <= 900 and math.isfinite(seconds) for _, seconds in made)
    assert {seconds for name, seconds in made if name == "search"} == {TIMEOUT}


def test_nothing_is_asked_of_milvus_past_the_connection():
    """Which gives each call its limit; only what asks nothing may be called otherwise."""
    asks_nothing = {"create_schema", "prepare_index_params", "add_field", "close"}
    found = {}
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = ast.unparse(node.func.value)
                if of in ("client", "self._client", "MilvusClient") and node.func.attr not in asks_nothing:
                    found[f"{file.name}: {node.func.attr}"] = {one.arg for one in node.keywords}
    assert found == {"connection.py: get_server_version": {"timeout"}}
