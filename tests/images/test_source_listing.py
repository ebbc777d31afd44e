"""What a listing takes, what it skips and counts, and what becomes a failed record."""

import decimal
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from conftest import memory_uri, paint
from PIL import Image as Pillow
from typer.testing import CliRunner

from t2i_pipelines import InsertReport, build_insert_pipeline, sync
from t2i_pipelines.cli import app
from t2i_pipelines.errors import ConfigError, ImageDecodeError, SourceError
from t2i_pipelines.images import count, image_suffixes, read, records
from t2i_pipelines.images.decode import FORMATS
from t2i_pipelines.types import Skipped


def listed(source, **options) -> tuple[list[str], dict[str, int]]:
    """Paths below the folder, and kind -> count of what was skipped."""
    skipped = Skipped()
    paths = [os.path.relpath(one.path, source) for one in records(source, skipped=skipped, **options)]
    return paths, {kind: number for (kind, _), number in skipped.snapshot()}


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", sorted({*FORMATS, "MPO"}))
def test_a_folder_takes_every_format_that_is_decoded(name):
    suffixes = {one for one, format in Pillow.registered_extensions().items() if format == name}
    assert suffixes
    assert suffixes <= image_suffixes()


def test_an_image_of_a_phone_counts_in_a_folder_and_in_a_tar_whatever_the_case_of_its_suffix(tmp_path):
    for name in ("a.HEIC", "b.hif", "c.J2K", "d.apng"):
        (tmp_path / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.HEIC", "001.HEIC")
    assert listed(tmp_path)[0] == ["a.HEIC", "b.hif", "c.J2K", "d.apng"]
    assert [record.path for record in records(tmp_path / "t.tar")] == [f"tar://001.HEIC::{tmp_path}/t.tar"]


def test_what_looks_like_a_photo_or_a_video_is_counted_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.record.image_suffixes", lambda: frozenset({".png"}))
    paint(tmp_path / "a.png", "red")
    for name in ("b.heic", "c.HEIC", "d.mp4", "e.CR2", "f.txt", "g.json", "noname", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"x")
    report = InsertReport.collect(
        build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour")(tmp_path)
    )
    assert report.skipped.summary() == (
        "5 skipped: 2 .heic (pip install 't2i-pipelines[heif]'), 1 .mp4 (video), "
        "1 .cr2 (camera RAW, export as JPEG), 1 without suffix (list such files by name to read them)"
    )
    assert report.skipped.summary() in str(report)
    assert report.as_dict()["skipped"][1] == {"kind": ".mp4", "reason": "video", "count": 1}


def test_a_folder_of_videos_says_what_was_skipped(tmp_path):
    (tmp_path / "a.mov").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"no image in folder .*; 1 skipped: 1 \.mov \(video\)"):
        records(tmp_path)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.mov", "a.mov")
    with pytest.raises(SourceError, match=r"no image in the tar .*; 1 skipped: 1 \.mov \(video\)"):
        records(tmp_path / "t.tar")


def test_thumbnails_and_bins_are_skipped_and_can_be_named(tmp_path):
    for name in (
        "a.png",
        "@eaDir/a.png/THUMB.png",
        "x/#recycle/b.png",
        "$RECYCLE.BIN/c.png",
        "My.photoslibrary/originals/d.png",
        "My.photoslibrary/resources/derivatives/e.png",
        "Catalog Previews.lrdata/f.png",
    ):
        paint(tmp_path / name, "red")
    paths, skipped = listed(tmp_path)
    assert paths == ["a.png", "My.photoslibrary/originals/d.png"]
    assert set(skipped) == {"@eaDir/", "#recycle/", "$RECYCLE.BIN/", "resources/", "Catalog Previews.lrdata/"}
    assert count(tmp_path) == 2
    assert listed(tmp_path / "@eaDir")[0] == ["a.png/THUMB.png"]
    matched = [one.path for one in records(f"{tmp_path}/**/*.png")]
    assert sorted(os.path.relpath(one, tmp_path) for one in matched) == sorted(paths)


def test_exclude_leaves_out_names_and_paths_in_folders_globs_and_tars(tmp_path):
    for name in ("a.png", "drafts/b.png", "2019/c.png", "2019/keep/d.png", "2020/drafts.png"):
        paint(tmp_path / name, "red")
    assert listed(tmp_path, exclude=["drafts"]) == (
        ["a.png", "2019/c.png", "2019/keep/d.png", "2020/drafts.png"],
        {"drafts": 1},
    )
    assert listed(tmp_path, exclude=["2019/*.png", "a.*"])[0] == ["2020/drafts.png", "drafts/b.png"]
    assert count(tmp_path, exclude=["drafts*"]) == 3
    assert [one.path for one in records(f"{tmp_path}/*.png", exclude=["b*"])] == [f"{tmp_path}/a.png"]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
        tar.add(tmp_path / "a.png", "b.png")
    assert len(list(records(tmp_path / "t.tar", exclude=["b*"]))) == 1


@pytest.mark.parametrize("pattern", ["*/*.png", "*/*/*.png", "**/*.png", "**/z/*.png"])
def test_wildcards_match_no_folder_that_a_listing_skips(tmp_path, pattern):
    for name in ("z/a.png", "@eaDir/a.png", "k/@eaDir/a.png", "k/z/a.png", "drafts/z.png", "drafts/z/a.png"):
        paint(tmp_path / name, "red")
    found = [one.path for one in records(f"{tmp_path}/{pattern}", exclude=["drafts"])]
    assert found
    assert not [one for one in found if "@eaDir" in one or "drafts" in one]


def test_a_glob_that_names_a_folder_of_thumbnails_reads_it(tmp_path, memory):
    image = paint(tmp_path / "k" / "@eaDir" / "a.png", "red").read_bytes()
    memory.pipe("/bucket/k/@eaDir/a.png", image)
    for base in (tmp_path, "memory://bucket"):
        (found,) = records(f"{base}/**/@eaDir/*.png")
        assert found.path.endswith("k/@eaDir/a.png")


def test_exclude_holds_for_a_folder_that_the_glob_names(tmp_path):
    paint(tmp_path / "a" / "drafts" / "b.png", "red")
    with pytest.raises(SourceError, match=r"no file matches .*; 1 skipped: 1 drafts \(excluded folder\)"):
        records(f"{tmp_path}/*/drafts/*.png", exclude=["drafts"])


def test_exclude_is_compared_with_the_path_below_the_first_wildcard(tmp_path, memory):
    for name in ("2019/a.png", "2020/a.png"):
        memory.pipe(f"/p/{name}", paint(tmp_path / "p" / name, "red").read_bytes())
    for base in (f"{tmp_path}/p", "memory://p"):
        (found,) = records(f"{base}/**/*.png", exclude=["2019/*"])
        assert found.path.endswith("2020/a.png")


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("drafts", ["a/b.png"]),
        ("drafts/", ["a/b.png"]),
        ("**/drafts", ["a/b.png"]),
        ("/drafts", ["a/b.png", "a/drafts/c.png"]),
        ("./drafts/", ["a/b.png", "a/drafts/c.png"]),
        ("drafts/**", ["a/b.png", "a/drafts/c.png"]),
        ("a/drafts", ["a/b.png", "drafts/d.png"]),
        ("**/a/*.png", ["drafts/d.png"]),
        ("b.png/", ["a/b.png", "a/drafts/c.png", "drafts/d.png"]),
    ],
)
def test_exclude_is_spelled_as_in_a_gitignore(tmp_path, pattern, kept):
    for name in ("a/b.png", "a/drafts/c.png", "drafts/d.png"):
        paint(tmp_path / name, "red")
    assert sorted(listed(tmp_path, exclude=[pattern])[0]) == kept


def test_a_tar_is_listed_as_a_folder(tmp_path):
    image = paint(tmp_path / "a.png", "red").read_bytes()
    names = (
        "p/a.png",
        "p/@eaDir/b.png",
        "p/@eaDir/x/c.png",
        "./p/drafts/d.png",
        "./p/e.png",
        "p/drafts/f.png",
    )
    skipped = Skipped()
    tar = tar_of(tmp_path / "t.tar", dict.fromkeys(names, image))
    found = [one.path.partition("::")[0] for one in records(tar, exclude=["drafts"], skipped=skipped)]
    assert found == ["tar://p/a.png", "tar://./p/e.png"]
    assert skipped.counts["@eaDir/", "thumbnails or bin"] == 1


def test_of_a_photo_library_that_is_the_source_only_the_originals_are_read(tmp_path, memory):
    for name in ("originals/a.png", "resources/derivatives/b.png"):
        image = paint(tmp_path / "My.photoslibrary" / name, "red").read_bytes()
        memory.pipe(f"/bucket/My.photoslibrary/{name}", image)
    for base in (tmp_path, "memory://bucket"):
        for source in (f"{base}/My.photoslibrary", f"{base}/My.photoslibrary/**/*.png"):
            (found,) = records(source)
            assert found.path.endswith("originals/a.png")


def test_exclude_must_be_a_list_of_globs():
    with pytest.raises(
        ConfigError, match=r"exclude must be a list of globs such as \['drafts'\], got 'drafts'"
    ):
        build_insert_pipeline(exclude="drafts", model_name="colour")


def test_the_command_takes_exclude_and_tells_what_was_skipped(tmp_path):
    paint(tmp_path / "p" / "a.png", "red")
    paint(tmp_path / "p" / "b.png", "blue")
    (tmp_path / "p" / "c.mp4").write_bytes(b"x")
    for command in ("insert", "sync"):
        arguments = [
            command,
            str(tmp_path / "p"),
            "--exclude",
            "b.*",
            "--uri",
            str(tmp_path / f"{command}.db"),
        ]
        done = CliRunner().invoke(app, [*arguments, "--model-name", "colour"])
        assert "1 image: 1 inserted" in done.output
        assert "2 skipped: 1 b.* (excluded), 1 .mp4 (video)" in done.output


def test_links_to_folders_are_followed_once(tmp_path):
    paint(tmp_path / "elsewhere" / "x.png", "red")
    source = tmp_path / "source"
    paint(source / "y.png", "red")
    paint(source / "album" / "z.png", "red")
    link(source / "2020", tmp_path / "elsewhere")
    link(source / "again", tmp_path / "elsewhere")
    link(source / "album" / "all", source)
    link(source / "up", tmp_path)
    link(source / "self", source / "self")
    paths, skipped = listed(source)
    assert paths == ["y.png", "album/z.png", "2020/x.png"]
    assert skipped == {"again/": 1, "up/": 1, "album/all/": 1, "without suffix": 1}


def test_a_link_above_a_folder_that_is_read_already_hides_none_of_its_other_files(tmp_path):
    paint(tmp_path / "x" / "y" / "1.png", "red")
    paint(tmp_path / "x" / "2.png", "red")
    paint(tmp_path / "source" / "0.png", "red")
    link(tmp_path / "source" / "a", tmp_path / "x" / "y")
    link(tmp_path / "source" / "b", tmp_path / "x")
    assert listed(tmp_path / "source")[0] == ["0.png", "a/1.png", "b/2.png"]


def test_a_glob_follows_no_link_into_a_folder_that_it_is_in(tmp_path):
    paint(tmp_path / "a.png", "red")
    paint(tmp_path / "album" / "b.png", "red")
    link(tmp_path / "album" / "by-date", tmp_path)
    link(tmp_path / "album" / "by-place", tmp_path)
    assert sorted(one.path for one in records(f"{tmp_path}/**/*.png")) == [
        f"{tmp_path}/a.png",
        f"{tmp_path}/album/b.png",
    ]


def test_a_link_to_itself_is_one_failed_record_and_hides_no_other_file(tmp_path):
    paint(tmp_path / "a.png", "red")
    link(tmp_path / "loop.png", "loop.png")
    for source in (tmp_path, f"{tmp_path}/*.png"):
        good, bad = records(source)
        assert (good.status, bad.status) == (None, "failed")
        assert "Too many levels of symbolic links" in bad.reason


def refuse_to_list(monkeypatch, folder):
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == folder:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)


def test_a_folder_that_cannot_be_listed_is_one_failed_record_and_sync_deletes_nothing(tmp_path, monkeypatch):
    settings = {"uri": memory_uri(tmp_path), "model_name": "colour"}
    for number in range(10):
        paint(tmp_path / "p" / f"{number}.png", (25 * number + 5, 9, 99))
    paint(tmp_path / "p" / "locked" / "a.png", "red")
    assert sync(tmp_path / "p", **settings).counts["inserted"] == 11
    refuse_to_list(monkeypatch, "locked")
    for source in (tmp_path / "p", f"{tmp_path}/p/**/*.png"):
        report = sync(source, **settings)
        assert (report.counts["unchanged"], report.counts["failed"], report.counts["deleted"]) == (10, 1, 0)
        (failure,) = report.failed
        assert failure.reason == (
            f"cannot list folder {tmp_path}/p/locked: Permission denied; what is in it is not read"
        )
        assert "nothing is deleted" in report.note


def test_a_source_that_cannot_be_listed_at_all_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    refuse_to_list(monkeypatch, "locked")
    with pytest.raises(SourceError, match=r"cannot list folder .*locked.*: Permission denied"):
        records(tmp_path / "locked")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone")])
def test_a_folder_of_a_bucket_that_cannot_be_listed_fails_alone(tmp_path, memory, monkeypatch, error):
    image = paint(tmp_path / "a.png", "red").read_bytes()
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        memory.pipe(f"/bucket/{name}", image)
    ls = type(memory).ls

    def refusing(self, path, **options):
        if path.endswith("/b"):
            raise error
        return ls(self, path, **options)

    monkeypatch.setattr(type(memory), "ls", refusing)
    for source in ("memory://bucket", "memory://bucket/**/*.png"):
        first, bad, last = sorted(records(source), key=lambda one: one.path)
        assert (first.status, bad.status, last.status, bad.id) == (None, "failed", None, "")
        assert bad.reason.startswith("cannot list folder memory://bucket/b: ")


def test_sync_keeps_a_file_of_a_kind_that_cannot_be_read_any_more(tmp_path, monkeypatch):
    settings = {"uri": memory_uri(tmp_path), "model_name": "colour"}
    for number in range(9):
        paint(tmp_path / "p" / f"{number}.png", (25 * number + 5, 9, 99))
    for name in ("there.heic", "gone.heic"):
        content = paint(tmp_path / f"{name}.png", "red").read_bytes()
        (tmp_path / "p" / name).write_bytes(content)
    assert sync(tmp_path / "p", **settings).counts["failed"] == 0
    (tmp_path / "p" / "gone.heic").unlink()
    monkeypatch.setattr("t2i_pipelines.images.record.image_suffixes", lambda: frozenset({".png"}))
    report = sync(tmp_path / "p", **settings)
    assert (report.counts["unchanged"], report.counts["deleted"]) == (9, 1)
    assert report.note == (
        "1 stored image is of a kind that the source skips now, and is kept; "
        "force=True, or --force, deletes it"
    )
    assert sync(tmp_path / "p", force=True, **settings).counts["deleted"] == 1


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    link(tmp_path / "zero.png", "/dev/zero")
    paint(tmp_path / "good.png", "red")
    rows = build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour")(tmp_path).to_list()
    reasons = {Path(path).name: str(reason) for path, _, _, reason in rows}
    assert reasons["good.png"] == ""
    assert reasons["pipe.png"].endswith("pipe.png: not a regular file but a named pipe")
    assert reasons["zero.png"].endswith("zero.png: not a regular file but a device")
    code = f"from t2i_pipelines.images import read; read({str(tmp_path / 'pipe.png')!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], timeout=60, capture_output=True, check=False
    )
    assert b"not a regular file but a named pipe" in done.stderr


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv", "p.jsonl", "p.parquet", "p.tar", "p.tar.gz"])
def test_a_table_or_a_tar_that_is_a_pipe_is_one_failed_record(tmp_path, name):
    pipe = tmp_path / name
    os.mkfifo(pipe)
    end = threading.Timer(20, pipe.write_bytes, [b""])  # whoever reads the pipe comes to an end, and fails
    end.daemon = True
    end.start()
    for source in ([str(pipe)], f"{tmp_path}/*{pipe.suffix}"):
        (record,) = records(source)
        assert "not a regular file but a named pipe" in record.reason
    with pytest.raises(ImageDecodeError, match="not a regular file but a named pipe"):
        read(f"tar://a.png::{pipe}")
    end.cancel()


def test_a_path_that_no_file_can_have_is_an_error_of_ours():
    with pytest.raises(ImageDecodeError, match="cannot read image .*: embedded null byte"):
        read("/a\0b.png")


def test_a_file_larger_than_max_bytes_fails_alone_and_says_which_option(tmp_path):
    paint(tmp_path / "a.png", "red")
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 600 << 20)
    rows = build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour")(tmp_path).to_list()
    assert [status for _, _, status, _ in rows] == ["inserted", "failed"]
    assert rows[1][3].endswith(
        "huge.png: 629,145,600 bytes are more than max_bytes=536,870,912; "
        "raise max_bytes (--max-bytes) if you trust the file"
    )
    size = (tmp_path / "a.png").stat().st_size
    assert len(read(tmp_path / "a.png", size)) == size
    small = build_insert_pipeline(uri=tmp_path / "y.db", model_name="colour", max_bytes=size - 1)
    assert {status for _, _, status, _ in small(tmp_path).to_list()} == {"failed"}


def test_a_file_that_does_not_fit_the_memory_fails_alone(tmp_path, monkeypatch):
    paint(tmp_path / "a.png", "red")

    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("t2i_pipelines.operators.image_decode.decode", exhausted)
    ((_, _, status, reason),) = build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour")(
        tmp_path
    ).to_list()
    assert (status, str(reason)) == ("failed", f"cannot read image {tmp_path}/a.png: not enough memory")


class Strange(dict):
    """A row whose values cannot be looked at."""

    def get(self, *_):
        raise LookupError("no such luck")


class Lost:
    """A path of a library that cannot say it any more."""

    def __fspath__(self):
        raise LookupError("no such luck")


class Number:
    """A path that is none."""

    def __fspath__(self):
        return 5


def deep():
    found: object = 1
    for _ in range(5000):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "/x/\ud800.png"}, "the name is not valid UTF-8"),
        ({"path": "GOOD", "id": "\ud800"}, "'id' holds half a character"),
        ({"path": "GOOD", "\ud800": 1}, r"'\\ud800' holds half a character"),
        ({"path": "GOOD", "v": {1: 2, "1": 3}}, "two of its keys are the same as text"),
        ({"path": "GOOD", "v": 10**5000}, "cannot understand the row <dict>"),
        ({"path": "GOOD", "v": decimal.Decimal("sNaN")}, "cannot understand the row"),
        ({"path": "GOOD", "v": deep()}, "cannot understand the row <dict>"),
        ({"path": "GOOD", "v": {"\ud800": 1}}, "is not valid Unicode"),
        (Strange(path="GOOD"), "no such luck"),
        (Lost(), "no such luck"),
        (Number(), "expected Number.__fspath__"),
        ({"path": Lost()}, "no such luck"),
        ("http://[img]https://example.org/a.jpg[/img]", "is not a valid URL"),
        ("http://[::1/x.jpg", "is not a valid URL"),
        ("https://ex\u2100mple.org/a.jpg", "is not a valid URL"),
        ("https://example.org:99999/a.jpg", "is not a valid URL: Port out of range"),
        ("file://[x/a.jpg", "is not a valid URL"),
        ("tar://a.jpg::http://[x/y.tar", "is not a valid URL"),
        ("http://[x/rows.csv", "is not a valid URL"),
        ("tar:a.jpg::://x.png", "no protocol 'tar'|cannot"),
    ],
)
def test_a_row_that_cannot_be_understood_fails_alone(tmp_path, row, reason):
    good = [str(paint(tmp_path / f"{name}.png", name)) for name in ("red", "blue", "green")]
    if isinstance(row, dict) and row.setdefault("path", "") == "GOOD":
        row["path"] = good[1]
    insert = build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour")
    rows = insert([good[0], row, good[2]]).to_list()
    assert [status for _, _, status, _ in rows] == ["inserted", "failed", "inserted"]
    assert re.search(reason, str(rows[1][3]))


def test_keys_of_two_types_in_a_nested_value_are_stored_as_text(tmp_path):
    path = str(paint(tmp_path / "a.png", "red"))
    (record,) = records([{"path": path, "v": {"a": 1, 2: 3}}])
    assert (record.status, record.metadata) == (None, {"v": {"a": 1, "2": 3}})


def test_half_a_character_in_json_lines_fails_one_row(tmp_path):
    paint(tmp_path / "a.png", "red")
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps({"path": name}) + "\n" for name in ("a.png", "\ud800.png", "a.png")))
    assert [record.status for record in records(table)] == [None, "failed", None]


def tar_of(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_images_of_a_tar_whose_names_have_dots_keep_their_own_metadata(tmp_path):
    image = paint(tmp_path / "a.png", "red").read_bytes()
    files = {}
    for year in ("2019", "2020", "2021"):
        files |= {f"IMG.{year}.png": image, f"IMG.{year}.json": json.dumps({"year": int(year)}).encode()}
    files |= {"b.png": image, "b.seg.png": image, "b.json": b'{"of": "b"}', "b.note.txt": b"hi"}
    found = {
        one.path.partition("::")[0][6:]: one.metadata for one in records(tar_of(tmp_path / "t.tar", files))
    }
    assert found == {
        "IMG.2019.png": {"year": 2019},
        "IMG.2020.png": {"year": 2020},
        "IMG.2021.png": {"year": 2021},
        "b.png": {"of": "b", "note_txt": "hi"},
        "b.seg.png": {"of": "b"},
    }


def test_a_sample_of_many_images_is_handed_on_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.webdataset.SAMPLE_BYTES", 1000)
    image = paint(tmp_path / "a.png", "red").read_bytes() + bytes(400)
    files = {}
    for number in range(20):
        files |= {f"IMG.{number}.png": image, f"IMG.{number}.cls": str(number).encode()}
    found = list(records(tar_of(tmp_path / "t.tar", files)))
    assert [one.metadata for one in found] == [{"cls": number} for number in range(20)]
