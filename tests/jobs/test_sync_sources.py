"""Sync with what is not a folder: ids of the source's own, tars, URLs, tables."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from conftest import paint

from t2i_pipelines import InsertReport, sync
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.images import records
from t2i_pipelines.images.scratch import Spill


@pytest.fixture
def statuses(settings):
    """``statuses(source)``: sync, and give {file name: status} of all that is not unchanged."""

    def run(source, **more):
        report = sync(source, report=InsertReport(keep_rows=True), **settings, **more)
        assert report.total == report.counts.total() - report.counts["deleted"]
        return {one.path.rpartition("/")[2]: one.status for one in report.rows if one.status != "unchanged"}

    return run


def paths(settings) -> set[str]:
    pages = open_collection(uri=settings["uri"]).scan(["path"])
    return {row["path"] for page in pages for row in page}


def bitmap(folder: Path, colour: str) -> bytes:
    """An image of one colour; those of all colours are as large."""
    return paint(folder / "one.bmp", colour).read_bytes()


def pack(file: Path, pictures: dict[str, str], mode: str = "w") -> Path:
    """A tar with one image of each colour, all of one time and size."""
    with tarfile.open(file, mode) as tar:
        for name, colour in pictures.items():
            content = bitmap(file.parent, colour)
            member = tarfile.TarInfo(f"{name}.bmp")
            member.size, member.mtime = len(content), 0
            tar.addfile(member, io.BytesIO(content))
    return file


def test_a_file_that_moved_under_an_id_of_its_own_is_found_where_it_is_now(pictures, settings, statuses):
    statuses([{"path": pictures / "red.png", "id": "k"}])
    seen = load_encoder("colour").images
    (pictures / "red.png").rename(pictures / "rot.png")
    assert statuses([{"path": pictures / "rot.png", "id": "k"}]) == {"rot.png": "updated"}
    assert paths(settings) == {str(pictures / "rot.png")}
    assert load_encoder("colour").images == seen
    assert statuses([{"path": pictures / "rot.png", "id": "k"}]) == {}


def test_a_row_that_is_refused_keeps_what_is_stored_of_its_path(pictures, settings, statuses):
    rows = [{"path": path} for path in sorted(pictures.iterdir())]
    sync(rows, **settings)
    rows[0]["digest"] = "a column that is reserved"
    assert statuses(rows) == {rows[0]["path"].name: "failed"}
    (pictures / "green.png").unlink()
    del rows[2]
    assert statuses(rows) == {rows[0]["path"].name: "failed", "green.png": "deleted"}


def test_a_name_that_is_no_text_stops_no_deletion(pictures, settings, statuses):
    sync(pictures, **settings)
    Path(os.fsdecode(os.fsencode(pictures) + b"/\xff.png")).touch()
    (pictures / "red.png").unlink()
    assert statuses(pictures) == {"\ufffd.png": "failed", "red.png": "deleted"}


def test_a_csv_follows_its_lines(pictures, settings, statuses):
    names = sorted(path.name for path in pictures.iterdir())
    table = pictures / "list.csv"
    table.write_text("\n".join(["path,year", *(f"{name},2015" for name in names)]))
    assert set(statuses(table).values()) == {"inserted"}
    table.write_text("\n".join(["path,year", f"{names[0]},2016", *(f"{name},2015" for name in names[2:])]))
    assert statuses(table) == {names[0]: "updated", names[1]: "deleted"}


@pytest.mark.parametrize(("name", "mode"), [("shard.tar", "w"), ("shard.tar.gz", "w:gz")])
def test_a_tar_is_followed_even_where_size_and_time_stay_the_same(tmp_path, settings, name, mode):
    colours = ["red", "green", "blue", "yellow", "magenta", "cyan"]
    shard = pack(tmp_path / name, {str(n): colour for n, colour in enumerate(colours)}, mode)
    assert set(_by_path(shard, settings).values()) == {"inserted"}
    assert _by_path(shard, settings) == {}
    seen = load_encoder("colour").images
    now = {"0": "green", "1": "green", "2": "blue", "3": "yellow", "4": "magenta", "new": "white"}
    pack(shard, now, mode)
    expected = {"0.bmp": "updated", "new.bmp": "inserted", "5.bmp": "deleted"}
    for dry_run in (True, False):
        found = _by_path(shard, {**settings, "dry_run": dry_run})
        assert found == {f"tar://{member}::{shard}": status for member, status in expected.items()}
    assert load_encoder("colour").images == seen + 1
    assert _by_path(shard, settings) == {}


def _by_path(source, settings) -> dict[str, str]:
    report = sync(source, report=InsertReport(keep_rows=True), **settings)
    return {one.path: one.status for one in report.rows if one.status != "unchanged"}


def test_the_bytes_of_a_plain_tar_wait_in_the_tar_and_those_of_a_packed_one_aside(
    tmp_path, settings, monkeypatch
):
    waited = []
    add = Spill.add
    monkeypatch.setattr(Spill, "add", lambda self, some: (waited.extend(some), add(self, some))[1])
    shard = pack(tmp_path / "shard.tar", {"a": "red", "b": "green"})
    packed = pack(tmp_path / "packed.tar.gz", {"c": "blue", "d": "cyan"}, "w:gz")
    assert sync([*records(shard), *records(packed)], **settings).counts["inserted"] == 4
    assert [record.content is None for record in waited] == [True, True, False, False]


def test_a_tar_that_breaks_off_deletes_nothing(tmp_path, settings):
    shard = pack(tmp_path / "shard.tar", {str(n): "red" for n in range(10)})
    sync(shard, **settings)
    shard.write_bytes(shard.read_bytes()[:9000])
    report = sync(shard, **settings)
    assert (report.counts["failed"], report.counts["deleted"]) == (1, 0)
    assert "breaks off" in report.failed[0].reason
    assert "so nothing is deleted" in report.note
    assert len(paths(settings)) == 10


def test_refresh_reads_every_file_and_embeds_only_what_changed(tmp_path, settings, statuses):
    folder = tmp_path / "photos"
    for colour in ("red", "green", "blue"):
        paint(folder / f"{colour}.bmp", colour)
    sync(folder, **settings)
    was = (folder / "red.bmp").stat()
    (folder / "red.bmp").write_bytes(bitmap(tmp_path, "cyan"))
    os.utime(folder / "red.bmp", ns=(was.st_atime_ns, was.st_mtime_ns))
    assert statuses(folder) == {}
    seen = load_encoder("colour").images
    assert statuses(folder, refresh=True, dry_run=True) == {"red.bmp": "updated"}
    assert statuses(folder, refresh=True) == {"red.bmp": "updated"}
    assert load_encoder("colour").images == seen + 1
