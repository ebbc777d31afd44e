"""What a source may be, and what is said when it is not."""

import glob
import os
import tracemalloc
from pathlib import Path

import pytest
from conftest import paint

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import count, distinct_records, folder, listed, records, scratch
from t2i_pipelines.types import Skipped


def names(source) -> list[str]:
    return [Path(record.path).name for record in records(source)]


def test_a_folder_is_searched_recursively_in_the_order_of_names(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        paint(tmp_path / name, "red")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    paint(tmp_path / ".cache" / "d.png", "red")
    assert names(tmp_path) == ["a.JPG", "b.png", "c.webp"]
    assert names(str(tmp_path)) == names(tmp_path)
    assert count(tmp_path) == 3


def test_a_glob_may_reach_into_folders(tmp_path):
    for name in ("a.png", "sub/b.png", "sub/c.jpg"):
        paint(tmp_path / name, "red")
    assert names(f"{tmp_path}/**/*.png") == ["a.png", "b.png"]


TREE = (
    "a.png",
    "b.txt",
    "[x].png",
    ".hid.png",
    "one/a.png",
    "one/two/a.png",
    "one/two/c.jpg",
    ".dot/a.png",
    "two/d.png",
)


@pytest.mark.parametrize(
    "pattern",
    [
        "*", "*.png", "**", "**/*", "**/*.png", "**/a.png", "*/*", "*/*/*", "one/**", "one/**/*.jpg",
        "**/two/*", "o?e/a.png", "[ot]*/*.png", "[[]x].png", ".*", ".*/*", "**/**/a.png", "**/one/**",
        "one/*/../a.png", "./*.png", "gone/*", "a.png/*", "one//a.*",
    ],
)  # fmt: skip
@pytest.mark.parametrize("relative", [False, True])
def test_a_glob_matches_what_pythons_own_does(tmp_path, monkeypatch, pattern, relative):
    for name in TREE:
        paint(tmp_path / name, "red") if name.endswith("png") else (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    pattern = pattern if relative else f"{glob.escape(str(tmp_path))}/{pattern}"
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - what ours is compared with
    wanted = {os.path.normpath(tmp_path / one) for one in matches if Path(one).is_file()}
    if wanted:
        found = [record.path for record in records(pattern)]
        assert (set(found), len(found)) == (wanted, len(wanted))
    else:
        with pytest.raises(SourceError, match="no file matches the glob"):
            records(pattern)


def test_one_picture_is_a_source(pictures):
    assert names(pictures / "red.png") == ["red.png"]


def test_paths_in_a_csv_are_relative_to_it_and_other_columns_become_metadata(tmp_path, monkeypatch):
    paint(tmp_path / "in" / "a.png", "red")
    (tmp_path / "in" / "list.csv").write_text("path,year,id\na.png,2015,k1\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    (record,) = records("in/list.csv")
    assert record.path == str(tmp_path / "in" / "a.png")
    assert (record.id, record.metadata, record.status) == ("k1", {"year": 2015}, None)


def test_a_list_may_hold_paths_and_rows(pictures):
    listed = [str(pictures / "red.png"), pictures / "blue.png", {"path": pictures / "green.png", "tag": "g"}]
    found = list(records(listed))
    assert [Path(record.path).stem for record in found] == ["red", "blue", "green"]
    assert found[2].metadata == {"tag": "g"}


def test_a_source_is_read_only_as_far_as_it_is_asked_for(pictures):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield pictures / "red.png"

    rows = records(endless())
    next(rows)
    assert len(asked) == 1


def test_ids_are_the_same_at_every_run_and_from_every_folder(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    (relative,) = records(["pictures/red.png"])
    monkeypatch.chdir(pictures)
    (nearer,) = records(["red.png"])
    monkeypatch.chdir("/")
    (absolute,) = records([pictures / "red.png"])
    (roundabout,) = records([f"{pictures}/../pictures/./red.png"])
    assert relative.id == nearer.id == absolute.id == roundabout.id
    assert len(relative.id) == 32


def test_every_path_has_an_id_of_its_own(pictures):
    assert len({record.id for record in records(pictures)}) == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "no such folder or file: .*missing"),
        (lambda folder: folder / "empty", "no image in folder .*empty"),
        (lambda folder: f"{folder}/*.xyz", r"no file matches the glob .*\*\.xyz"),
        (
            lambda folder: folder / "no_path.csv",
            r"no_path\.csv' has no column `path` or `url`; its columns are file, year",
        ),
        (
            lambda folder: folder / "void.csv",
            r"void\.csv' has no column `path` or `url`; its columns are none",
        ),
        (lambda folder: folder / "latin.csv", r"latin\.csv' is not a table in UTF-8"),
        (lambda folder: folder / "header.csv", "the source is empty"),
        (lambda folder: [], "the source is empty"),
        (lambda folder: "", "the source is an empty string"),
        (lambda folder: 7, "a source is a folder, .*; got int 7"),
        (lambda folder: b"x", "a source is a folder, .*; got bytes"),
    ],
)
def test_a_source_with_nothing_to_read_is_an_error_before_any_work(tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_path.csv").write_text("file,year\na.png,2015\n")
    (tmp_path / "void.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes("päth\n".encode("latin-1"))
    (tmp_path / "header.csv").write_text("path\n")
    with pytest.raises(SourceError, match=message):
        records(make(tmp_path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("/no/such.png", "cannot read image /no/such.png: No such file or directory"),
        ({"file": "a.png"}, "row without a `path` or `url`: {'file': 'a.png'}"),
        ({"path": None}, "row without a `path`"),
        ({"path": 5}, "row without a `path`"),
        (3.5, "neither a path nor a row with a `path`: 3.5"),
        ({"path": "/a.png", "vector": 1}, "/a.png: column vector is reserved; rename it in the source"),
        (os.fsdecode(b"/tmp/\xff.png"), "the name is not valid UTF-8"),
    ],
)
def test_a_bad_row_is_that_rows_outcome(pictures, row, reason):
    bad, good = records([row, pictures / "red.png"])
    assert bad.status == "failed"
    assert reason in bad.reason
    assert good.status is None


def test_a_csv_line_with_too_many_cells_is_that_lines_outcome(tmp_path):
    paint(tmp_path / "a.png", "red")
    (tmp_path / "list.csv").write_text("path,year\na.png,2015,surplus\na.png,2016\n")
    bad, good = records(tmp_path / "list.csv")
    assert (bad.status, good.status) == ("failed", None)
    assert f"line 2 of {tmp_path / 'list.csv'} has more cells than its header" in bad.reason


def test_a_tree_is_walked_in_the_memory_of_one_folder(tmp_path):
    for number in range(1200):
        folder = tmp_path / str(number % 30) / str(number)
        folder.mkdir(parents=True)
        (folder / "a.png").touch()
        (folder / "b.png").touch()
    next(records(tmp_path))
    tracemalloc.start()
    assert count(tmp_path) == sum(1 for _ in records(tmp_path)) == 2400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("wanted", ["", "/**/*.png"])
def test_what_is_counted_and_then_read_is_listed_once(tmp_path, monkeypatch, wanted):
    for name in ("b.png", "a.png", "sub/c.png", "sub/drafts/d.png", "sub/e.mp4"):
        paint(tmp_path / name, "red") if name.endswith("png") else (tmp_path / name).touch()
    entries, seen = folder._entries, []
    monkeypatch.setattr(folder, "_entries", lambda path: (seen.append(path), entries(path))[1])
    once = listed(f"{tmp_path}{wanted}", exclude=["drafts"])
    assert tmp_path / "sub" not in map(Path, seen), "all but the first image is listed later"
    assert count(once) == 3
    (tmp_path / "later.png").touch()
    skipped = Skipped()
    for _ in range(2):
        assert [Path(one.path).name for one in distinct_records(once, skipped=skipped)] == [
            "a.png",
            "b.png",
            "c.png",
        ]
    once_seen = seen.copy()
    seen.clear()
    assert len(list(records(f"{tmp_path}{wanted}", exclude=["drafts"]))) == 4
    assert once_seen == seen
    assert skipped.counts["drafts", "excluded folder"] == 2
    assert repr(once) == repr(f"{tmp_path}{wanted}")


def test_a_listing_that_waits_is_kept_in_little_memory(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(scratch, "IN_MEMORY", 10_000)
    monkeypatch.setattr(folder, "folder_rows", lambda *_: (f"{tmp_path}/{at}.png" for at in range(20_500)))
    tracemalloc.start()
    once = listed(tmp_path)
    assert len(once) == sum(1 for _ in once.rows(Skipped())) == 20_500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600_000
    assert len(once) == 20_500


def test_what_is_not_there_is_refused_before_it_is_counted(tmp_path):
    (tmp_path / "list.csv").write_text("name\na.png\n")
    for wrong, message in [
        (tmp_path / "nowhere", "no such folder or file"),
        (f"{tmp_path}/*.png", "no file matches the glob"),
        (tmp_path / "list.csv", "path"),
    ]:
        with pytest.raises(SourceError, match=message):
            listed(wrong)
    rows = iter(["a.png"])
    assert listed(rows) is rows
    assert next(rows) == "a.png"
    assert listed("http://127.0.0.1:1/a.csv") == "http://127.0.0.1:1/a.csv"


@pytest.mark.parametrize(
    ("source", "rows"),
    [(["a.png", "b.png"], 2), (("a.png",), 1), (iter(["a.png"]), None)],
)
def test_a_list_is_counted_and_an_iterator_is_left_alone(source, rows):
    assert count(source) == rows


def test_one_url_is_counted_without_a_request():
    assert count("http://127.0.0.1:1/a.png") == 1
    assert count("http://127.0.0.1:1/a.csv") is None
