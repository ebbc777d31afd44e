"""Texts that are kept with a collection, on every engine."""

import numpy as np

from t2i_pipelines.collection import close, open_collection
from t2i_pipelines.collection.notes import is_same, read_note, state, write_note
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
    assert (read_note(collection, "mark"), state(collection)) == (None, None)
    write_note(collection, "mark", "there is no collection yet")
    collection.prepare(SPACE)
    collection.upsert(list(rows(6)))
    assert read_note(collection, "mark") is None
    write_note(collection, "mark", "first")
    write_note(collection, "other", "2")
    write_note(collection, "mark", LONG)
    assert (read_note(collection, "mark"), read_note(collection, "other")) == (LONG, "2")
    assert (collection.count(), collection.space()) == (6, SPACE)
    assert [row["id"] for page in collection.scan([]) for row in page] == [f"row{n}" for n in range(6)]

    was = state(collection)
    assert is_same(collection, was, state(collection))
    close()
    assert read_note(collection, "mark") == LONG
    collection.drop()
    assert state(collection) is None
    collection.prepare(SPACE)
    assert read_note(collection, "mark") is None
    over_http = milvus_backend.name == "lite-server"
    assert is_same(collection, was, state(collection)) is over_http, "which knows no time of creation"


def test_a_collection_that_is_dropped_from_elsewhere_at_this_moment_has_no_note(tmp_path, monkeypatch):
    collection = open_collection(tmp_path / "milvus.db")
    collection.prepare(SPACE)
    write_note(collection, "mark", "there")

    def gone(*arguments, **named):
        raise CollectionNotFoundError("dropped")

    monkeypatch.setattr(collection, "_call", gone)
    assert read_note(collection, "mark") is None


def test_asking_for_a_note_creates_nothing(tmp_path):
    assert read_note(open_collection(tmp_path / "none.db"), "mark") is None
    assert list(tmp_path.iterdir()) == []
