"""Folders, globs, tables, tars and images on what fsspec opens. The memory filesystem stands for S3."""

import datetime
import sys
import tracemalloc
import zipfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import paint
from fsspec.implementations.memory import MemoryFileSystem
from test_source_tars import write_tar

from t2i_pipelines.errors import ImageDecodeError, MissingExtraError, SourceError
from t2i_pipelines.images import address, count, is_remote, read, records
from t2i_pipelines.images.remote import file_row


@pytest.fixture
def bucket(memory):
    """Images of some bytes under memory://bucket."""
    for name in (
        "b.png",
        "a.JPG",
        "sub/c.webp",
        "sub/deep/d.png",
        "notes.txt",
        ".hidden.png",
        ".cache/e.png",
    ):
        memory.pipe(f"/bucket/{name}", name.encode())
    return "memory://bucket"


def paths(source) -> list[str]:
    return [record.path for record in records(source)]


def test_a_folder_is_searched_recursively_in_the_order_of_names(bucket):
    wanted = [f"{bucket}/{name}" for name in ("a.JPG", "b.png", "sub/c.webp", "sub/deep/d.png")]
    assert paths(bucket) == paths(bucket + "/") == wanted
    assert paths("memory://") == wanted
    assert count(bucket) is None


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", [".hidden.png", "b.png"]),
        ("*/*.webp", ["sub/c.webp"]),
        ("**/*.png", [".hidden.png", "b.png", "sub/deep/d.png"]),
        ("sub/**/d.png", ["sub/deep/d.png"]),
        ("s?b/*", ["sub/c.webp"]),
        ("[ab].*", ["a.JPG", "b.png"]),
    ],
)
def test_a_glob_may_reach_into_folders(bucket, pattern, found):
    assert paths(f"{bucket}/{pattern}") == [f"{bucket}/{name}" for name in found]


def test_a_record_knows_size_and_time_and_its_path_opens_it_again(bucket, memory):
    for record in records(bucket):
        info = memory.info(record.path)
        assert record.size == len(read(record.path)) == info["size"]
        created = info["created"].replace(tzinfo=None) - datetime.datetime(1970, 1, 1)
        assert record.mtime == created // datetime.timedelta(microseconds=1) * 1000
        with fsspec.open(record.path) as file:
            assert file.read() == read(record.path)
        (again,) = records(record.path)
        assert (again.id, again.size, again.mtime) == (record.id, record.size, record.mtime)


@pytest.mark.parametrize(
    ("told", "mtime"),
    [
        ({"mtime": 1.5}, 1_500_000_000),
        ({"LastModified": datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)}, 86400 * 10**9),
        ({"updated": "1970-01-01T00:00:01.000001Z"}, 1_000_001_000),
        ({"last_modified": "yesterday"}, -1),
        ({"ETag": "abc"}, -1),
        ({"mtime": None, "created": 2}, 2 * 10**9),
    ],
)
def test_times_are_read_as_each_filesystem_writes_them(told, mtime):
    record = file_row("memory://a.png", {"size": 3, **told})
    assert (record.size, record.mtime) == (3, mtime)
    assert file_row("memory://a.png", {"size": None}).size == -1


def test_tables_and_tars_may_be_remote(memory, tmp_path):
    red = paint(tmp_path / "red.png", "red").read_bytes()
    memory.pipe("/bucket/red.png", red)
    memory.pipe("/bucket/rows.csv", b"path,year\nred.png,2015\n/tmp/x.png,1\nmemory://bucket/red.png,2\n")
    beside, local, full = records("memory://bucket/rows.csv")
    assert (beside.path, beside.metadata) == ("memory://bucket/red.png", {"year": 2015})
    assert (beside.size, beside.mtime, beside.status) == (-1, -1, None)
    assert (local.path, full.path) == ("/tmp/x.png", "memory://bucket/red.png")
    assert count("memory://bucket/rows.csv") is None

    pq.write_table(pa.table({"path": ["red.png"] * 3}), tmp_path / "a.parquet")
    memory.pipe("/bucket/a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert paths("memory://bucket/a.parquet") == ["memory://bucket/red.png"] * 3
    assert count("memory://bucket/a.parquet") == 3
    assert count("memory://bucket/*.parquet") is None

    for n, mode in enumerate(("w", "w:gz")):
        tar = write_tar(tmp_path / "a.tar", {"in/red.png": red, "in/red.cls": b"7"}, mode)
        memory.pipe(f"/bucket/{n}.tar", tar.read_bytes())
    for source in ("memory://bucket/{0..1}.tar", "memory://bucket/*.tar"):
        found = list(records(source))
        assert [record.path for record in found] == [
            f"tar://in/red.png::memory://bucket/{n}.tar" for n in (0, 1)
        ]
        assert [record.metadata for record in found] == [{"cls": 7}] * 2
        assert [read(record.path) for record in found] == [red, red]
    with pytest.raises(SourceError, match=r"1 of 3 files are missing, the first is 'memory://bucket/2\.tar'"):
        records("memory://bucket/{0..2}.tar")


def test_filesystems_may_be_chained(bucket, tmp_path):
    assert paths(f"simplecache::{bucket}/b.png") == [f"simplecache::{bucket}/b.png"]
    assert read(f"simplecache::{bucket}/b.png") == b"b.png"
    tar = write_tar(tmp_path / "a.zip", {})
    with zipfile.ZipFile(tar, "w") as packed:
        packed.writestr("in/a.png", b"1")
        packed.writestr("in/b.txt", b"2")
    assert paths(f"zip://in::{tar}") == [f"zip://in/a.png::{tar}"]
    assert paths(f"zip://*/*.png::{tar}") == [f"zip://in/a.png::{tar}"]
    assert read(f"zip://in/a.png::{tar}") == b"1"


def test_file_urls_are_local_paths(tmp_path):
    path = paint(tmp_path / "a b%.png", "red")
    url = path.as_uri()
    assert url.endswith("/a%20b%25.png")
    ((by_url,), (by_path,)) = records([url]), records([path])
    assert (by_url.path, by_url.id, by_url.mtime) == (str(path), by_path.id, by_path.mtime)
    assert paths(tmp_path.as_uri()) == [str(path)]
    assert read(url) == path.read_bytes()
    with pytest.raises(SourceError, match="'file://nas/a.png' is a file of the machine 'nas'"):
        records("file://nas/a.png")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("memory://gone", SourceError, "no such folder or file: 'memory://gone'"),
        ("memory://bucket/*.xyz", SourceError, r"no file matches the glob 'memory://bucket/\*\.xyz'"),
        ("memory://bucket/.cache/none", SourceError, "no such folder or file"),
        ("nope://bucket", SourceError, r"no protocol 'nope' is known; use a path, http\(s\)://, or one that"),
        ("http://", SourceError, "'http://' names no host"),
        (
            "s3://bucket",
            MissingExtraError,
            r"cannot open s3://: .*s3fs.*; run: pip install 't2i-pipelines\[s3\]'",
        ),
        (
            "gs://bucket",
            MissingExtraError,
            r"cannot open gs://: .*gcsfs.*; run: pip install 't2i-pipelines\[gs\]'",
        ),
    ],
)
def test_a_source_that_is_out_of_reach_is_an_error_before_any_work(
    bucket, source, error, message, monkeypatch
):
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(error, match=message):
        records(source)


def test_a_bucket_without_pictures_is_said(memory):
    memory.pipe("/bucket/notes.txt", b"x")
    with pytest.raises(SourceError, match="no image in folder 'memory://bucket'"):
        records("memory://bucket")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nope://a.png", "cannot read image nope://a.png: no protocol 'nope' is known"),
        ("https:///a.png", "cannot read image https:///a.png: 'https:///a.png' names no host"),
        (
            "tar://a.png",
            "cannot read image tar://a.png: 'tar://a.png' is not of the form tar://member::archive",
        ),
    ],
)
def test_a_row_with_an_address_that_cannot_be_is_that_rows_outcome(row, reason):
    bad, good = records([row, "memory://a.png"])
    assert (bad.status, good.status) == ("failed", None)
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("/a.png", False), ("a::b.png", False), ("file:///a.png", False), ("tar://a.png::/b.tar", False),
        ("tar://a.png", False), ("tar://a.png::s3://b.tar", True), ("s3://a.png", True),
        ("HTTP://h/a.png", True), ("simplecache::s3://a.png", True),
    ],
)  # fmt: skip
def test_what_is_waited_for_is_told_by_the_address(address, remote):
    assert is_remote(address) is remote


def test_a_server_that_refuses_is_named(bucket, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden: AccessDenied")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(
        ImageDecodeError, match=f"^cannot read image {bucket}/b.png: Forbidden: AccessDenied$"
    ):
        read(f"{bucket}/b.png")
    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    with pytest.raises(SourceError, match=f"cannot list '{bucket}': Forbidden: AccessDenied"):
        records(bucket)
    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    with pytest.raises(SourceError, match=f"cannot read '{bucket}': Forbidden: AccessDenied"):
        records(bucket)


def test_a_remote_picture_is_missing_or_too_large(bucket, monkeypatch):
    with pytest.raises(ImageDecodeError, match=r"^cannot read image memory://gone\.png: No such file"):
        read("memory://gone.png")
    monkeypatch.setattr(address, "MAX_BYTES", 4)
    with pytest.raises(ImageDecodeError, match="larger than the 4 bytes that an image from the web"):
        read(f"{bucket}/b.png")


def test_one_folder_is_held_in_memory_and_no_more(memory, monkeypatch):
    """A tree of 200 folders with 100 images each, made up while it is walked."""

    def ls(self, path, detail=True, **_):
        depth = path.strip("/").count("/")
        names = [f"{path}/{n:03}" for n in range(200)] if depth == 0 else []
        files = [f"{path}/{n:03}.png" for n in range(100)] if depth else []
        return [{"name": one, "size": 0, "type": "directory"} for one in names] + [
            {"name": one, "size": 5, "type": "file"} for one in files
        ]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path: {"name": path, "type": "directory"})
    next(records("memory://bucket"))
    tracemalloc.start()
    assert sum(1 for _ in records("memory://bucket")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
