"""A collection is looked up once for several calls, and whole or not at all while another makes it."""

import threading

import numpy as np
import pytest

from t2i_pipelines import build_insert_pipeline, build_search_pipeline
from t2i_pipelines.collection import catalog, open_collection
from t2i_pipelines.collection.catalog import Catalog
from t2i_pipelines.collection.connection import Address
from t2i_pipelines.types import Space

SPACE = Space("colour", "weights", "none", 3)


@pytest.mark.parametrize("attempt", range(3))
def test_a_reader_never_meets_a_collection_that_is_half_made(tmp_path, attempt):
    collection = open_collection(uri=tmp_path / f"{attempt}.db")
    failures: list[Exception] = []
    seen = threading.Event()

    def look() -> None:
        try:
            while not collection.verify(SPACE):
                pass
        except Exception as err:
            failures.append(err)
        seen.set()

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    collection.prepare(SPACE)
    assert seen.wait(30)
    for reader in readers:
        reader.join()
    assert failures == []


@pytest.fixture
def asked(monkeypatch):
    """The collections that were looked up, by name, once for each time."""
    names: list[str] = []
    ready = Catalog.ready

    def noted(self):
        names.append(self.name)
        return ready(self)

    monkeypatch.setattr(Catalog, "ready", noted)
    return names


def test_an_insert_looks_the_collection_up_once_a_step(tmp_path, pictures, asked):
    settings = {"uri": tmp_path / "a.db", "model_name": "colour"}
    insert, search = build_insert_pipeline(**settings), build_search_pipeline(**settings)
    assert [row[2] for row in insert([pictures / "red.png"]).to_list()] == ["inserted"]
    assert asked == ["image_collection"] * 2, "to skip what is stored, and to insert"
    for image, status in (("blue", "inserted"), ("blue", "unchanged")):
        asked.clear()
        assert [row[2] for row in insert([pictures / f"{image}.png"]).to_list()] == [status]
        assert len(asked) <= 2
    search("red").get()
    asked.clear()
    assert len(search("red").get()[1]) == 2
    assert len(asked) == 1


def test_a_block_looks_once_but_for_what_changes_within(tmp_path, monkeypatch, asked):
    collection = open_collection(uri=tmp_path / "a.db")
    other = open_collection(uri=tmp_path / "a.db", timeout=31)
    with collection.looked_up():
        assert not collection.verify(SPACE)
        assert collection.count() == 0
        assert asked == ["image_collection"]
        other.prepare(SPACE)
        assert collection.verify(SPACE)
        collection.drop()
        assert not collection.verify(SPACE)
    other.prepare(SPACE)
    with collection.looked_up(), collection.looked_up():
        asked.clear()
        assert collection.entry() == collection.entry()
        assert asked == []
        monkeypatch.setattr(catalog, "RECHECK", 0.0)
        monkeypatch.setattr(Address, "is_shared", True)
        assert collection.entry() is not None
        assert asked == ["image_collection"], "a server is asked again: another process may change the index"
    asked.clear()
    assert collection.entry() is not None
    assert asked == ["image_collection"]


def test_a_collection_that_another_makes_first_is_taken(tmp_path, monkeypatch):
    collection = open_collection(uri=tmp_path / "a.db")
    other = open_collection(uri=tmp_path / "a.db", timeout=31)

    def make(connection, *_):
        monkeypatch.undo()
        other.prepare(SPACE)
        connection.entries.clear()  # as if in another process

    monkeypatch.setattr(catalog, "check", make)
    with collection.looked_up():
        collection.prepare(SPACE)
        vector = np.array([1, 0, 0], np.float32)
        collection.upsert([{"id": "a", "vector": vector, "path": "a", "size": 1, "mtime": 1, "digest": ""}])
        assert collection.count() == 1
