"""Texts that are kept with a collection, on every engine."""

import numpy as np

from t2i_pipelines.collection import close, open_collection
from t2i_pipelines.errors import CollectionNotFoundError
from t2i_pipelines.types import Space

pytest_plugins = ["milvus_backends"]

SPACE = Space("model", "weights", "preprocessing", 4)
LONG = "{" + "Zürich \"'\\ 北京 " * 800 + "}"


def rows(count):
    for number in range(count):
        yield {
            "id": f"row{number}",
            "vector": np.eye(4, dtype=np.float32)[number % 4],
            "path": f"/{number}.jpg",
            "size": 1,
            "mtime": 1,
            "digest": "",
        }


def test_a_note_is_kept_beside_the_rows(milvus_backend):
    collection = milvus_backend.open("notes")
    collection.drop()
    assert (collection.read_note("mark"), collection.entry()) == (None, None)
    collection.write_note("mark", "there is no collection yet")
    collection.prepare(SPACE)
    collection.upsert(list(rows(6)))
    assert collection.read_note("mark") is None
    collection.write_note("mark", "first")
    collection.write_note("other", "2")
    collection.write_note("mark", LONG)
    assert (collection.read_note("mark"), collection.read_note("other")) == (LONG, "2")
    assert (collection.count(), collection.space()) == (6, SPACE)
    assert [row["id"] for page in collection.scan([]) for row in page] == [f"row{n}" for n in range(6)]

    was = collection.entry()
    assert collection.is_unchanged(was, collection.entry())
    close()
    assert collection.read_note("mark") == LONG
    collection.drop()
    assert collection.entry() is None
    collection.prepare(SPACE)
    assert collection.read_note("mark") is None
    over_http = milvus_backend.name == "lite-server"
    assert collection.is_unchanged(was, collection.entry()) is over_http, "which knows no time of creation"


def test_a_collection_that_is_dropped_from_elsewhere_at_this_moment_has_no_note(tmp_path, monkeypatch):
    collection = open_collection(tmp_path / "milvus.db")
    collection.prepare(SPACE)
    collection.write_note("mark", "there")

    def gone(*arguments, **named):
        raise CollectionNotFoundError("dropped")

    monkeypatch.setattr(collection, "_call", gone)
    assert collection.read_note("mark") is None


def test_asking_for_a_note_creates_nothing(tmp_path):
    assert open_collection(tmp_path / "none.db").read_note("mark") is None
    assert list(tmp_path.iterdir()) == []
