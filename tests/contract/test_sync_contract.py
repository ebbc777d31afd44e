"""What a scan and a sync promise, on every engine."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint

from t2i_pipelines import InsertReport, sync
from t2i_pipelines.collection import search as scanning
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import DeletionRefusedError, StoreError

pytest_plugins = ["milvus_backends"]

NAME = "synced"


@pytest.fixture(scope="module")
def made(milvus_backend):
    """One collection for the whole module: making one takes a server three seconds."""
    collection = milvus_backend.open(NAME)
    collection.drop()
    collection.prepare(load_encoder("colour").space)
    yield collection
    collection.drop()
    collection.close()


@pytest.fixture
def store(made):
    """The collection, empty."""
    made.write("delete", filter='id != ""')
    assert made.count() == 0
    return made


@pytest.fixture
def settings(milvus_backend, store):
    place = {"uri": milvus_backend.uri, "token": milvus_backend.token, "collection_name": NAME}
    return {**place, "model_name": "colour"}


@pytest.fixture
def photos(tmp_path):
    for name in COLOURS:
        paint(tmp_path / "photos" / f"{name}.png", name)
    return tmp_path / "photos"


def rows(ids, **more):
    vector = np.array([1, 0, 0], np.float32)
    fixed = {"vector": vector, "path": "p", "size": 1, "mtime": 2**60, "digest": "d", **more}
    return [{"id": id, **fixed} for id in ids]


def statuses(source, settings, **more):
    report = sync(source, report=InsertReport(keep_rows=True), **settings, **more)
    return {Path(one.path).name: one.status for one in report.rows if one.status != "unchanged"}


def contents(store):
    pages = store.scan(["path", "size", "mtime", "digest", "vector"])
    return {
        row["path"]: (row["digest"], np.round(row["vector"], 4).tolist()) for page in pages for row in page
    }


ODD = [
    "a",
    'qu"ote',
    "apo'strophe",
    "back\\slash",
    "line\nbreak",
    "é 猫",
    '"] or id != ""',
    "{x}",
    "\U0001f600",
    "\uffee",
]


def test_a_page_may_end_with_any_id(store, monkeypatch):
    store.upsert(rows(ODD))
    monkeypatch.setattr(scanning, "LITE_PAGE", 1)
    monkeypatch.setattr(scanning, "MAX_LIMIT", 1)
    assert [row["id"] for page in store.scan([]) for row in page] == sorted(ODD)


def test_a_scan_gives_every_row_once_in_the_order_of_ids(store, monkeypatch):
    ids = ODD + [f"{n:05}" for n in range(950)]
    store.upsert(rows(ids[:500]))
    store.flush()
    store.upsert(rows(ids[400:]))
    store.delete(ids[900:])
    for limit in (100, 250_000):
        monkeypatch.setattr(scanning, "LITE_PAGE", limit)
        monkeypatch.setattr(scanning, "MAX_LIMIT", min(limit, 16384))
        found = [row for page in store.scan(["mtime"]) for row in page]
        assert [row["id"] for row in found] == sorted(ids[:900])
        assert {row["mtime"] for row in found} == {2**60}
        assert set(found[0]) == {"id", "mtime"}


@pytest.mark.parametrize(("pages", "is_lite"), [(["cb"], True), (["ac", "b"], False)])
def test_a_scan_refuses_rows_out_of_order(pages, is_lite):
    answers = [[{"id": id} for id in page] for page in pages]
    with pytest.raises(StoreError, match="gives rows out of order when asked for those with id > "):
        list(scanning.pages(lambda *_, **__: answers.pop(0), [], is_lite, [{}]))


def test_a_scan_of_nothing_is_empty_and_makes_nothing(store, milvus_backend):
    assert list(store.scan(["size"])) == []
    ghost = milvus_backend.open("ghost")
    assert list(ghost.scan(["size"])) == []
    assert ghost.space() is None


def test_rows_are_given_by_id_with_the_fields_asked_for(store):
    store.upsert(rows(["a", "b"], year=2015))
    assert store.rows(["a", "nobody"], ["path", "year"]) == {"a": {"id": "a", "path": "p", "year": 2015}}
    assert np.asarray(store.rows(["b"], ["vector"])["b"]["vector"]).tolist() == [1, 0, 0]


def test_what_was_stored_is_flushed_once(store, monkeypatch):
    flushed = []
    store.finish()
    monkeypatch.setattr(type(store), "flush", lambda self: flushed.append(self.count()))
    store.finish()
    assert flushed == []
    store.upsert(rows(["a"]))
    store.finish()
    store.finish()
    assert flushed == [1]


def test_the_collection_follows_its_folder(photos, settings, store):
    assert set(statuses(photos, settings).values()) == {"inserted"}
    seen = load_encoder("colour").images
    assert statuses(photos, settings) == {}
    (photos / "red.png").rename(photos / "rot.png")
    shutil.copy(photos / "blue.png", photos / "copy.png")
    paint(photos / "green.png", (0, 0, 200))
    paint(photos / "grey.png", (90, 90, 90))
    (photos / "bad.png").write_bytes(b"no picture")
    planned = statuses(photos, settings, dry_run=True)
    expected = {
        "rot.png": "reused", "red.png": "deleted", "copy.png": "reused", "green.png": "updated",
        "grey.png": "inserted", "bad.png": "failed",
    }  # fmt: skip
    assert planned == {**expected, "bad.png": "inserted"}, "a dry run decodes nothing"
    assert statuses(photos, settings) == expected
    assert load_encoder("colour").images == seen + 2
    assert statuses(photos, settings) == {"bad.png": "failed"}
    assert store.count() == 9
    by_name = {Path(path).name: vector for path, (_, vector) in contents(store).items()}
    assert by_name["rot.png"] == [1, 0, 0]
    assert by_name["copy.png"] == by_name["green.png"] == [0, 0, 1]
    assert set(by_name) == {path.name for path in photos.iterdir()} - {"bad.png"}


def test_too_many_deletions_are_refused_and_done_by_force(photos, settings, store):
    sync(photos, **settings)
    before = contents(store)
    for name in ("red", "green"):
        (photos / f"{name}.png").unlink()
    with pytest.raises(DeletionRefusedError, match="lacks 2 of the 7"):
        sync(photos, **settings)
    assert contents(store) == before
    assert statuses(photos, settings, force=True) == {"red.png": "deleted", "green.png": "deleted"}
    assert contents(store).keys() == before.keys() - {str(photos / "red.png"), str(photos / "green.png")}
    assert statuses(photos, settings) == {}


def test_a_touched_file_is_refreshed_and_keeps_its_vector(photos, settings, store):
    sync(photos, **settings)
    before = contents(store)
    (photos / "red.png").touch()
    assert statuses(photos, settings) == {}
    assert contents(store) == before
    (ledger,) = store.ledger(
        [row["id"] for page in store.scan(["path"]) for row in page if "red" in row["path"]]
    ).values()
    assert ledger.mtime == (photos / "red.png").stat().st_mtime_ns
