"""Sync deletes little at a time, deletes last, and tells before what it would do."""

import pytest
from conftest import paint

from t2i_pipelines import InsertReport, sync
from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import DeletionRefusedError, SourceError, StoreError


@pytest.fixture
def folder(tmp_path):
    """Ten images, each of its own grey."""
    for n in range(10):
        paint(tmp_path / "photos" / f"{n}.png", (10 * n + 9,) * 3)
    return tmp_path / "photos"


def rows(settings) -> dict[str, tuple]:
    pages = open_collection(uri=settings["uri"]).scan(["path", "size", "mtime", "digest"])
    return {row["id"]: tuple(row.items()) for page in pages for row in page}


def remove(folder, *names) -> None:
    for n in names:
        (folder / f"{n}.png").unlink()


def test_a_fifth_of_the_rows_is_deleted_without_a_word(folder, settings):
    sync(folder, **settings)
    remove(folder, 1, 2)
    assert sync(folder, **settings).counts["deleted"] == 2
    assert len(rows(settings)) == 8


def test_more_than_a_fifth_is_refused_before_anything_is_changed(folder, settings):
    sync(folder, **settings)
    before = rows(settings)
    remove(folder, 1, 2, 3)
    paint(folder / "new.png", "red")
    paint(folder / "4.png", "blue")
    words = (
        "the source lacks 3 of the 10 stored images, more than a fifth, so nothing is changed; "
        "is a disk not mounted.*force=True, or --force"
    )
    with pytest.raises(DeletionRefusedError, match=words):
        sync(folder, **settings)
    assert rows(settings) == before
    report = sync(folder, force=True, **settings)
    assert {status: count for status, count in report.counts.items() if count} == {
        "inserted": 1, "updated": 1, "unchanged": 6, "deleted": 3,
    }  # fmt: skip
    assert len(rows(settings)) == 8


def test_an_empty_folder_empties_no_collection_even_by_force(folder, settings):
    sync(folder, **settings)
    remove(folder, *range(10))
    for force in (False, True):
        with pytest.raises(SourceError, match="no image in folder"):
            sync(folder, force=force, **settings)
    assert len(rows(settings)) == 10


def test_a_folder_that_was_renamed_is_no_loss_and_embeds_nothing(folder, settings):
    sync(folder, **settings)
    seen = load_encoder("colour").images
    report = sync(folder.rename(folder.with_name("pictures")), **settings)
    assert (report.counts["reused"], report.counts["deleted"]) == (10, 10)
    assert load_encoder("colour").images == seen
    assert len(rows(settings)) == 10


def test_rows_that_moved_do_not_count_and_lost_ones_do(folder, settings):
    sync(folder, **settings)
    for n in range(5):
        (folder / f"{n}.png").rename(folder / f"was{n}.png")
    remove(folder, 7, 8, 9)
    with pytest.raises(DeletionRefusedError, match="lacks 3 of the 10"):
        sync(folder, **settings)
    paint(folder / "9.png", (99,) * 3)
    report = sync(folder, **settings)
    assert (report.counts["reused"], report.counts["deleted"], report.counts["unchanged"]) == (5, 7, 3)


def test_as_many_new_files_as_were_lost_hide_no_loss(folder, settings):
    sync(folder, **settings)
    for n in range(5):
        remove(folder, n)
        paint(folder / f"new{n}.png", (10 * n + 8,) * 3)
    with pytest.raises(DeletionRefusedError, match="lacks 5 of the 10"):
        sync(folder, **settings)


def test_a_dry_run_tells_what_the_run_will_do_and_changes_nothing(folder, on_disk):
    plan = sync(folder, dry_run=True, **on_disk)
    assert (plan.counts["inserted"], plan.dry_run) == (10, True)
    assert not on_disk["uri"].exists()
    sync(folder, **on_disk)
    before, seen = rows(on_disk), load_encoder("colour").images
    (folder / "1.png").rename(folder / "one.png")
    (folder / "copy.png").write_bytes((folder / "2.png").read_bytes())
    paint(folder / "3.png", "red")
    paint(folder / "new.png", "blue")
    (folder / "twin.png").write_bytes((folder / "new.png").read_bytes())
    (folder / "void.png").write_bytes(b"")
    (folder / "4.png").touch()
    kept = {"plan": InsertReport(keep_rows=True), "done": InsertReport(keep_rows=True)}
    sync(folder, dry_run=True, report=kept["plan"], **on_disk)
    assert rows(on_disk) == before
    assert load_encoder("colour").images == seen
    sync(folder, report=kept["done"], **on_disk)
    assert kept["plan"].rows == kept["done"].rows
    assert {status: count for status, count in kept["done"].counts.items() if count} == {
        "inserted": 1, "updated": 1, "reused": 3, "unchanged": 8, "deleted": 1, "failed": 1,
    }  # fmt: skip
    assert "nothing was changed, this is what would be" in str(kept["plan"])
    assert "nothing was changed" not in str(kept["done"])


def test_a_dry_run_says_that_the_run_would_be_refused(folder, settings):
    sync(folder, **settings)
    remove(folder, 1, 2, 3)
    plan = sync(folder, dry_run=True, **settings)
    assert plan.counts["deleted"] == 3
    assert plan.note.startswith("the source lacks 3 of the 10 stored images")
    assert plan.note in str(plan)
    assert sync(folder, dry_run=True, force=True, **settings).note == ""
    assert len(rows(settings)) == 10


def test_a_source_with_a_row_that_tells_nothing_deletes_nothing_unless_forced(folder, settings):
    sync(folder, **settings)
    listed = [*sorted(folder.iterdir())[1:], {"caption": "no path"}]
    for dry_run in (True, False):
        report = sync(listed, dry_run=dry_run, **settings)
        assert (report.counts["failed"], report.counts["deleted"]) == (1, 0)
        assert report.note.startswith("1 stored images were not found in the source, but 1 of its rows")
    assert len(rows(settings)) == 10
    assert sync([*sorted(folder.iterdir()), {}], **settings).note == ""
    report = sync(listed, force=True, **settings)
    assert (report.counts["deleted"], report.note) == (1, "")


def test_deleting_comes_last_so_that_a_run_cut_off_there_is_ended_by_the_next(folder, settings, monkeypatch):
    sync(folder, **settings)
    seen = load_encoder("colour").images
    (folder / "1.png").rename(folder / "one.png")
    paint(folder / "new.png", "red")

    def cut_off(self, ids):
        raise StoreError("cut off")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Collection, "delete", cut_off)
        with pytest.raises(StoreError, match="cut off"):
            sync(folder, **settings)
    assert len(rows(settings)) == 12
    report = sync(folder, **settings)
    assert {status: count for status, count in report.counts.items() if count} == {
        "unchanged": 11, "deleted": 1,
    }  # fmt: skip
    assert load_encoder("colour").images == seen + 1
