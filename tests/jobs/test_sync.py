"""A collection that equals its source: what each input ends as, and what is stored then."""

import inspect
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import paint

from t2i_pipelines import InsertReport, build_insert_pipeline, sync
from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.encoders import load_encoder, register_encoder
from t2i_pipelines.errors import (
    ConfigError,
    ImageDecodeError,
    ModelMismatchError,
    SourceError,
    StoreError,
    StoreUnavailableError,
)
from t2i_pipelines.images import records
from t2i_pipelines.operators.milvus import MilvusInsert
from t2i_pipelines.testing import ColourEncoder
from t2i_pipelines.types import Batch, Space

_watched: list[list[str]] = []
sys.addaudithook(lambda event, args: event == "open" and [paths.append(str(args[0])) for paths in _watched])


@pytest.fixture
def opened(tmp_path):
    """The files of the test's images that are opened from here on."""

    class Opened(list):
        def pictures(self):
            return sorted({Path(path).name for path in self if path.startswith(str(tmp_path / "pictures"))})

    _watched.append(Opened())
    yield _watched[-1]
    _watched.pop()


@pytest.fixture
def stored(settings):
    """``stored()``: what the collection holds, as {file name: (size, mtime, digest, vector)}."""

    def read():
        fields = ["path", "size", "mtime", "digest", "vector"]
        pages = open_collection(uri=settings["uri"]).scan(fields)
        return {
            Path(row["path"]).name: (
                row["size"],
                row["mtime"],
                row["digest"],
                tuple(np.round(row["vector"], 4)),
            )
            for page in pages
            for row in page
        }

    return read


@pytest.fixture
def statuses(settings):
    """``statuses(source)``: sync, and give {file name: status}."""

    def run(source, **more):
        report = InsertReport(keep_rows=True)
        sync(source, report=report, **{**settings, **more})
        return {Path(one.path).name: one.status for one in report.rows}

    return run


def embedded() -> int:
    return load_encoder("colour").images


def overwrite(path: Path, content: bytes, like: os.stat_result) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


def changed(found: dict[str, str]) -> dict[str, str]:
    return {name: status for name, status in found.items() if status != "unchanged"}


def test_the_first_sync_inserts_all_and_the_second_opens_no_file(pictures, settings, stored, opened):
    assert sync(pictures, **settings).counts["inserted"] == 7
    assert len(opened.pictures()) == 7
    opened.clear()
    before = stored()
    report = sync(pictures, **settings)
    assert (report.total, report.counts["unchanged"]) == (7, 7)
    assert opened.pictures() == []
    assert stored() == before


def test_a_changed_file_is_embedded_again_and_only_it_is_opened(pictures, settings, stored, statuses, opened):
    sync(pictures, **settings)
    paint(pictures / "red.png", (0, 200, 0), size=(9, 9))
    seen = embedded()
    opened.clear()
    assert changed(statuses(pictures)) == {"red.png": "updated"}
    assert opened.pictures() == ["red.png"]
    assert embedded() == seen + 1
    assert stored()["red.png"][3] == (0, 1, 0)


def test_a_renamed_file_takes_its_vector_along(pictures, settings, stored, statuses):
    sync(pictures, **settings)
    (pictures / "red.png").rename(pictures / "rot.png")
    seen, before = embedded(), stored()
    assert changed(statuses(pictures)) == {"rot.png": "reused", "red.png": "deleted"}
    assert embedded() == seen
    after = stored()
    assert after["rot.png"] == before.pop("red.png")
    assert after.keys() == {*before, "rot.png"}


def test_a_copied_file_takes_the_vector_over_and_its_origin_stays(pictures, settings, stored, statuses):
    sync(pictures, **settings)
    shutil.copy(pictures / "red.png", pictures / "copy.png")
    seen = embedded()
    assert changed(statuses(pictures)) == {"copy.png": "reused"}
    assert embedded() == seen
    assert stored()["copy.png"][2:] == stored()["red.png"][2:]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_of_two_new_files_with_one_content_one_is_embedded(pictures, stored, statuses, batch_size):
    shutil.copy(pictures / "blue.png", pictures / "zzz.png")
    seen = embedded()
    found = statuses(pictures, batch_size=batch_size)
    assert (found["blue.png"], found["zzz.png"]) == ("inserted", "reused")
    assert embedded() == seen + 7
    assert len(stored()) == 8
    assert stored()["zzz.png"][2:] == stored()["blue.png"][2:]


def test_a_vanished_file_is_deleted(pictures, settings, stored, statuses):
    sync(pictures, **settings)
    (pictures / "red.png").unlink()
    assert changed(statuses(pictures)) == {"red.png": "deleted"}
    assert len(stored()) == 6
    assert "red.png" not in stored()


def test_a_touched_file_is_read_once_and_its_row_gets_the_new_time(pictures, settings, statuses, opened):
    sync(pictures, **settings)
    os.utime(pictures / "red.png", ns=(1, 1))
    seen = embedded()
    opened.clear()
    assert changed(statuses(pictures)) == {}
    assert opened.pictures() == ["red.png"]
    opened.clear()
    assert changed(statuses(pictures)) == {}
    assert (opened.pictures(), embedded()) == ([], seen)


def test_new_metadata_is_stored_without_embedding(pictures, settings, statuses):
    sync([{"path": pictures / "red.png", "year": 2015}], **settings)
    seen = embedded()
    assert statuses([{"path": pictures / "red.png", "year": 2016}]) == {"red.png": "updated"}
    assert embedded() == seen
    rows = [row for page in open_collection(uri=settings["uri"]).scan(["year"]) for row in page]
    assert [row["year"] for row in rows] == [2016]


def test_a_new_failure_leaves_no_row_and_tells_where_it_failed(pictures, settings, stored):
    (pictures / "bad.png").write_bytes(b"no picture")
    (pictures / "void.png").write_bytes(b"")
    paint(pictures / "gap.png", (0, 0, 0))
    report = sync([*sorted(pictures.iterdir()), pictures / "none.png"], **settings)
    assert [(Path(one.path).name, one.reason.stage) for one in report.failed] == [
        ("none.png", "read"),  # known as soon as the source is read
        ("bad.png", "decode"),
        ("gap.png", "encode"),
        ("void.png", "read"),
    ]
    assert "not an image in a known format" in report.failed[1].reason
    assert len(stored()) == 7


@pytest.mark.parametrize("batch_size", [1, 32])
def test_what_milvus_cannot_hold_fails_at_insert_and_its_copy_is_stored(
    pictures, settings, stored, batch_size
):
    shutil.copy(pictures / "red.png", pictures / "rot.png")
    names = ["red", "green", "blue", "yellow", "magenta", "cyan", "white", "rot"]
    rows = [{"path": pictures / f"{name}.png"} for name in names]
    rows[0]["odd"] = object()
    report = sync(rows, batch_size=batch_size, **settings)
    assert [(Path(one.path).name, one.reason.stage) for one in report.failed] == [("red.png", "insert")]
    assert set(stored()) == {f"{name}.png" for name in names[1:]}
    assert stored()["rot.png"][3] == (1, 0, 0)


@pytest.mark.parametrize("name", ["red.png", "rot.png"])
def test_a_copy_of_two_rows_of_which_one_changes_takes_the_vector_of_the_other(
    pictures, settings, stored, statuses, name
):
    shutil.copy(pictures / "red.png", pictures / "rot.png")
    sync(pictures, **settings)
    seen = embedded()
    shutil.copy(pictures / "red.png", pictures / "copy.png")
    paint(pictures / name, (9, 9, 9))
    assert changed(statuses(pictures)) == {"copy.png": "reused", name: "updated"}
    assert embedded() == seen + 1
    assert stored()["copy.png"][3] == (1, 0, 0)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_copy_of_a_broken_file_fails_for_the_same_reason(pictures, settings, stored, batch_size):
    (pictures / "bad.png").write_bytes(b"no picture")
    (pictures / "bad2.png").write_bytes(b"no picture")
    paint(pictures / "gap.png", (0, 0, 0))
    shutil.copy(pictures / "gap.png", pictures / "gap2.png")
    report = sync(pictures, batch_size=batch_size, **settings)
    assert [(Path(one.path).name, one.reason.stage) for one in report.failed] == [
        ("bad.png", "decode"), ("bad2.png", "decode"), ("gap.png", "encode"), ("gap2.png", "encode"),
    ]  # fmt: skip
    for one in report.failed:
        kind = "read image {}: not an image in a" if "bad" in one.path else "embed image {}: a vector of le"
        assert one.reason.startswith("cannot " + kind.format(one.path))
    assert len(stored()) == 7


def test_whichever_of_a_batch_was_read_first_the_first_counts_as_embedded(pictures, settings, stored):
    batch = Batch(records([pictures / "red.png", pictures / "blue.png"]))
    for record in batch:
        record.digest = "0" * 32 + record.digest
    batch[0].twin, batch[1].vector = batch[1], np.array([1, 0, 0], np.float32)
    MilvusInsert(**{**settings, "uri": str(settings["uri"])})(batch)
    assert [record.status for record in batch] == ["inserted", "reused"]
    assert [row[3] for row in stored().values()] == [(1, 0, 0), (1, 0, 0)]


def test_the_first_of_equal_files_is_the_one_that_counts_as_embedded(tmp_path, statuses):
    for n in range(40):
        paint(tmp_path / "photos" / f"{n:02}.png", "red")
    found = statuses(tmp_path / "photos", batch_size=8)
    assert found.pop("00.png") == "inserted"
    assert set(found.values()) == {"reused"}


def test_a_file_that_became_unreadable_keeps_its_row_until_it_is_mended(pictures, settings, stored, statuses):
    sync(pictures, **settings)
    before = stored()
    good = (pictures / "red.png").read_bytes()
    (pictures / "red.png").write_bytes(b"half a pict")
    report = sync(pictures, **settings)
    assert [one.reason for one in report.failed] == [
        f"cannot read image {pictures / 'red.png'}: not an image in a known format; "
        f"what was stored of it before is kept"
    ]
    assert stored() == before
    (pictures / "red.png").write_bytes(good)
    assert changed(statuses(pictures)) == {}, "its bytes are stored already"
    assert stored()["red.png"][2:] == before["red.png"][2:]


def test_a_file_that_a_list_names_and_nobody_finds_keeps_its_row(pictures, settings, stored):
    listed = sorted(pictures.iterdir())
    sync(listed, **settings)
    for path in listed:
        path.unlink()
    report = sync(listed, **settings)
    assert (report.counts["failed"], report.counts["deleted"]) == (7, 0)
    assert report.failed[0].reason.endswith("No such file or directory; what was stored of it before is kept")
    assert len(stored()) == 7


def test_on_error_raise_stops_before_anything_is_deleted(pictures, settings, stored):
    sync(pictures, **settings)
    before = stored()
    (pictures / "red.png").unlink()
    (pictures / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageDecodeError, match=r"bad\.png: not an image"):
        sync(pictures, on_error="raise", **settings)
    with pytest.raises(SourceError, match=r"none\.png: No such file"):
        sync([pictures / "none.png"], on_error="raise", **settings)
    assert stored() == before


@pytest.mark.parametrize("batch_size", [1, 32])
def test_names_that_change_places_take_their_pictures_along(pictures, settings, stored, statuses, batch_size):
    sync(pictures, **settings)
    for old, new in (("red", "x"), ("green", "red"), ("blue", "green"), ("x", "blue")):
        (pictures / f"{old}.png").rename(pictures / f"{new}.png")
    found = changed(statuses(pictures, batch_size=batch_size))
    assert found == {"red.png": "updated", "green.png": "updated", "blue.png": "updated"}
    vectors = {name: row[3] for name, row in stored().items()}
    assert vectors["red.png"] == (0, 1, 0)
    assert vectors["green.png"] == (0, 0, 1)
    assert vectors["blue.png"] == (1, 0, 0)


@pytest.mark.parametrize("is_stored", [False, True])
def test_an_id_that_two_files_share_holds_the_first_of_them(pictures, settings, stored, is_stored):
    red = {"path": pictures / "red.png", "id": "k"}
    if is_stored:
        sync([red], **settings)
    blue = {"path": pictures / "blue.png", "id": "k"}
    report = sync([red, red, blue, {"path": pictures / "green.png"}], batch_size=1, **settings)
    assert report.counts["failed"] == 1
    assert "id 'k' of" in report.failed[0].reason
    assert "blue.png is already that of another row of the source" in report.failed[0].reason
    assert report.counts["inserted"] == (1 if is_stored else 2)
    assert report.counts["unchanged"] == (1 if is_stored else 0)
    assert report.counts["skipped"] == 1
    assert set(stored()) == {"red.png", "green.png"}


def test_ids_of_any_text_are_kept_found_and_deleted(pictures, settings, stored, statuses):
    odd = ['qu"ote', "back\\slash", "line\nbreak", "é 猫", "00" * 16, "AB" * 16, "zz" * 16]
    rows = [{"path": path, "id": id} for path, id in zip(sorted(pictures.iterdir()), odd, strict=True)]
    assert set(statuses(rows).values()) == {"inserted"}
    assert set(statuses(rows).values()) == {"unchanged"}
    found = changed(statuses(rows[3:], force=True))
    assert found == {Path(row["path"]).name: "deleted" for row in rows[:3]}
    collection = open_collection(uri=settings["uri"])
    assert sorted(row["id"] for page in collection.scan([]) for row in page) == sorted(odd[3:])


def test_a_source_that_can_be_read_only_once_is_read_only_once(pictures, settings, statuses):
    sync(pictures, **settings)
    (pictures / "red.png").rename(pictures / "rot.png")
    assert changed(statuses(iter(sorted(pictures.iterdir())))) == {"rot.png": "reused", "red.png": "deleted"}


def test_metadata_that_cannot_be_pickled_fails_alone(pictures, settings, stored):
    rows = [{"path": path} for path in sorted(pictures.iterdir())]
    rows[2]["odd"] = lambda: None
    report = sync(rows, **settings)
    assert [Path(one.path).name for one in report.failed] == [rows[2]["path"].name]
    assert len(stored()) == 6


@pytest.mark.parametrize("now", [None, {"digest": f"{7:032x}:{7:016x}", "vector": [0, 1, 0]}])
def test_a_stored_row_that_somebody_else_changes_meanwhile_costs_one_more_run(
    pictures, settings, stored, statuses, monkeypatch, now
):
    sync(pictures, **settings)
    shutil.copy(pictures / "red.png", pictures / "rot.png")

    def rows(self, ids, fields):
        return {id: now for id in ids} if now and "vector" in fields else {}

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Collection, "rows", rows)
        report = sync(pictures, **settings)
    assert [one.reason.stage for one in report.failed] == ["insert"]
    assert "with the same bytes is gone, another writer changed it; run it again" in report.failed[0].reason
    assert changed(statuses(pictures)) == {"rot.png": "reused"}


def test_rows_that_were_inserted_by_the_pipeline_are_known(pictures, settings, opened):
    build_insert_pipeline(**settings)(pictures)
    opened.clear()
    assert sync(pictures, **settings).counts["unchanged"] == 7
    assert opened.pictures() == []


def test_progress_and_report_get_every_outcome(pictures, settings):
    sync(pictures, **settings)
    (pictures / "red.png").unlink()
    paint(pictures / "new.png", (9, 9, 9))
    told, report = [], InsertReport(keep_rows=True)
    assert sync(pictures, progress=told.append, report=report, **settings) is report
    assert told == report.rows
    assert len(told) == 8
    assert [one.status for one in told[-2:]] == ["inserted", "deleted"], "deletions come last"


def test_another_model_is_refused_before_the_source_is_read(pictures, settings):
    class Other(ColourEncoder):
        space = Space("other", "other weights", "none", 3)

    register_encoder("other", lambda checkpoint, device, *_: Other())
    sync(pictures, **settings)
    with pytest.raises(ModelMismatchError, match=r"holds vectors of 'colour'"):
        sync(pictures / "none", **{**settings, "model_name": "other"})


def test_wrong_settings_and_missing_services_are_named(pictures, settings):
    with pytest.raises(ConfigError, match="unknown setting limt .did you mean limit"):
        sync(pictures, limt=5, **settings)
    with pytest.raises(StoreUnavailableError, match=r"http://127\.0\.0\.1:1"):
        sync(pictures, uri="http://127.0.0.1:1", model_name="colour", timeout=5)
    with pytest.raises(SourceError, match="no such folder or file"):
        sync(pictures / "none", **settings)


def test_a_store_that_fails_on_the_way_is_raised_and_nothing_is_deleted(
    pictures, settings, stored, monkeypatch
):
    sync(pictures, **settings)
    (pictures / "red.png").unlink()
    paint(pictures / "new.png", (9, 9, 9))

    def refuse(self, rows):
        raise StoreError("the disk is full")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Collection, "upsert", refuse)
        with pytest.raises(StoreError, match="the disk is full"):
            sync(pictures, **settings)
    assert "red.png" in stored()


def test_help_shows_each_setting():
    shown = inspect.signature(sync).parameters
    assert list(shown)[:5] == ["source", "force", "dry_run", "report", "progress"]
    assert set(list(shown)[5:]) == set(SettingsArgs.__annotations__)
