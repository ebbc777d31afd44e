"""WebDataset tars: images with what lies beside them, read from start to end, and found again."""

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import fsspec
import pytest
from conftest import paint
from web import serving

from t2i_pipelines.errors import ImageDecodeError, SourceError
from t2i_pipelines.images import address, count, read, records
from t2i_pipelines.images import files as tar_files
from t2i_pipelines.operators.read import ReadSource

MTIME = 1_420_000_000


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), MTIME
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def red(tmp_path) -> bytes:
    return paint(tmp_path / "red.png", "red").read_bytes()


@pytest.fixture
def blue(tmp_path) -> bytes:
    return paint(tmp_path / "blue.png", "blue").read_bytes()


@pytest.fixture
def files(red, blue) -> dict[str, bytes]:
    return {
        "in/000.json": json.dumps({"year": 2015, "caption": "a red ball"}).encode(),
        "in/000.png": red,
        "in/000.cls": b"7\n",
        "in/001.PNG": blue,
        "in/001.txt": "ein blauer Ball, größer\n".encode(),
        "in/001.npy": b"\0\1",
    }


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.TGZ", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz")],
)
def test_pictures_come_with_their_bytes_and_with_what_lies_beside_them(tmp_path, files, name, mode):
    tar = write_tar(tmp_path / name, files, mode)
    first, second = records(tar)
    assert (first.path, second.path) == (f"tar://in/000.png::{tar}", f"tar://in/001.PNG::{tar}")
    assert first.metadata == {"year": 2015, "caption": "a red ball", "cls": 7}
    assert second.metadata == {"txt": "ein blauer Ball, größer"}
    assert (first.content, second.content) == (files["in/000.png"], files["in/001.PNG"])
    assert (first.size, first.mtime) == (len(files["in/000.png"]), MTIME * 10**9)
    assert count(tar) is None


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_a_path_opens_the_picture_again_here_and_in_fsspec(tmp_path, files, name, mode):
    for record in records(write_tar(tmp_path / name, files, mode)):
        assert read(record.path) == record.content
        with fsspec.open(record.path) as file:
            assert file.read() == record.content
        (again,) = records(record.path)
        assert (again.path, again.id) == (record.path, record.id)


def test_a_picture_is_read_out_of_a_tar_without_reading_the_tar(tmp_path, red, blue, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", {"a.png": red, "b.png": blue})
    assert read(f"tar://b.png::{tar}") == blue
    monkeypatch.setattr(tarfile, "open", None)  # the listing is known
    assert read(f"tar://a.png::{tar}") == red
    monkeypatch.undo()
    write_tar(tar, {"a.png": blue, "more.png": red})
    assert read(f"tar://a.png::{tar}") == blue


def test_names_are_split_as_webdataset_splits_them(tmp_path, red):
    tar = write_tar(
        tmp_path / "a.tar",
        {
            "v1.0/a.seg.png": red,
            "v1.0/a.caption.txt": b"x",
            "./b.jpg": red,
            "none": b"",
            ".hidden.png": red,
            "b.cls": b"x y",
            "c.png.bak": red,
            "d.index": b"-3",
            "d.png": red,
            "e.json": b"[1, 2]",
            "e.png": red,
        },
    )
    found = {record.path.partition("::")[0]: record.metadata for record in records(tar)}
    assert found == {
        "tar://v1.0/a.seg.png": {"caption_txt": "x"},
        "tar://./b.jpg": {},
        "tar://d.png": {"index": -3},
        "tar://e.png": {"json": [1, 2]},
    }


def test_an_id_beside_a_picture_is_its_key_and_reserved_names_make_way(tmp_path, red):
    beside = {"id": 17, "path": "was/here.png", "size": 5, "tag": "x", "nothing": None}
    tar = write_tar(tmp_path / "a.tar", {"a.png": red, "a.json": json.dumps(beside).encode()})
    (record,) = records(tar)
    assert (record.id, record.path) == ("17", f"tar://a.png::{tar}")
    assert record.metadata == {"json_path": "was/here.png", "json_size": 5, "tag": "x"}


def test_many_shards_are_one_source(tmp_path, red, blue):
    for n, content in enumerate([red, blue, red]):
        write_tar(tmp_path / f"shard-{n:03}.tar", {f"{n}.png": content})
    wanted = [f"tar://{n}.png::{tmp_path}/shard-{n:03}.tar" for n in range(3)]
    for source in (
        f"{tmp_path}/shard-{{000..002}}.tar",
        f"{tmp_path}/shard-*.tar",
        sorted(tmp_path.glob("*.tar")),
    ):
        assert [record.path for record in records(source)] == wanted
    assert count(f"{tmp_path}/shard-{{000..002}}.tar") is None
    with pytest.raises(SourceError, match=r"1 of 2 files are missing, the first is '.*/shard-003\.tar'"):
        records(f"{tmp_path}/shard-{{002,003}}.tar")


def test_a_bad_shard_is_one_failed_row(tmp_path, red):
    for n in range(3):
        write_tar(tmp_path / f"{n}.tar", {f"{n}.png": red})
    (tmp_path / "1.tar").write_bytes(b"no tar" * 200)
    first, bad, last = records(f"{tmp_path}/{{0..2}}.tar")
    assert (first.status, bad.status, last.status) == (None, "failed", None)
    assert bad.reason.startswith(f"cannot read the tar '{tmp_path}/1.tar': ")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_breaks_off_says_so_in_its_last_row(tmp_path, mode):
    noise = paint(tmp_path / "a.bmp", "red", (100, 100)).read_bytes()
    tar = write_tar(tmp_path / "a.tar", {f"{n}.bmp": noise for n in range(20)}, mode)
    content = tar.read_bytes()
    tar.write_bytes(content[: len(content) * 3 // 4])
    *good, last = records(tar)
    assert {record.status for record in good} == {None}
    assert len(good) > 5
    assert (last.path, last.status) == (str(tar), "failed")
    assert last.reason.startswith(f"the tar {tar} breaks off: ")
    if mode == "w":
        assert read(good[0].path) == noise


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot read the tar '.*a\.tar': "),
        (b"no tar" * 500, r"cannot read the tar '.*a\.tar': "),
        (gzip.compress(b"no tar" * 500, mtime=0), r"cannot read the tar '.*a\.tar': "),
        ({"a.txt": b"x"}, r"no image in the tar '.*a\.tar'"),
    ],
)
def test_a_tar_without_pictures_is_an_error_before_any_work(tmp_path, content, message):
    if isinstance(content, dict):
        write_tar(tmp_path / "a.tar", content)
    else:
        (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        records(tmp_path / "a.tar")


def test_what_is_wrong_with_one_sample_is_its_outcome(tmp_path, red, monkeypatch):
    monkeypatch.setattr(address, "MAX_BYTES", 1000)
    monkeypatch.setattr("t2i_pipelines.images.webdataset.SIDECAR_BYTES", 1000)
    tar = write_tar(
        tmp_path / "a.tar",
        {
            "a.png": b"x" * 1001,
            "b.png": red,
            "b.json": b"{",
            "c.png": red,
            "c.txt": b"\xff",
            "d.png": red,
            "d.txt": b"x" * 1001,
            "e::f.png": red,
            "g.png": red,
        },
    )
    *bad, good = records(tar)
    assert good.status is None
    reasons = [record.reason.removeprefix(f"cannot read image {record.path}: ") for record in bad]
    assert reasons[0] == (
        "larger than the 1,000 bytes that an image from the web, a bucket or a tar may have; "
        "insert it from a local folder"
    )
    assert reasons[1].startswith("b.json beside it is not JSON: Expecting property name")
    assert reasons[2].startswith("c.txt beside it is not UTF-8: ")
    assert reasons[3] == "d.txt beside it is larger than 1,000 bytes"
    assert reasons[4] == "a name with `::` has no address; rename it"
    assert bad[0].id
    for mode in ("w", "w:gz"):
        write_tar(tar, {"a.png": b"x" * 1001}, mode)
        with pytest.raises(ImageDecodeError, match=r"a\.png::.*a\.tar: larger than the 1,000 bytes"):
            read(bad[0].path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tar://gone.png::{tar}", "the tar has no such file"),
        ("tar://a.png::{tar}.gone", "No such file or directory"),
        ("tar://a.png", "'tar://a.png' is not of the form tar://member::archive"),
    ],
)
def test_a_picture_that_is_not_in_the_tar_is_named(tmp_path, red, address, message):
    for mode in ("w", "w:gz"):
        address = address.format(tar=write_tar(tmp_path / "a.tar", {"a.png": red}, mode))
        with pytest.raises(ImageDecodeError, match=f"^cannot read image {address}: {message}"):
            read(address)


def test_a_tar_on_the_web_is_a_source(tmp_path, files):
    with serving() as web:
        web.pages["/a.tar.gz"] = write_tar(tmp_path / "a.tar.gz", files, "w:gz").read_bytes()
        first, second = records(f"{web.url}/a.tar.gz?x=1")
        assert first.path == f"tar://in/000.png::{web.url}/a.tar.gz?x=1"
        assert second.content == files["in/001.PNG"]
        assert read(second.path) == second.content
        with pytest.raises(SourceError, match=r"cannot read 'http://.*/gone\.tar': status 404 Not Found"):
            records(f"{web.url}/gone.tar")
        gone, good, _ = records([f"{web.url}/gone.tar", f"{web.url}/a.tar.gz"])
        assert (gone.status, good.status) == ("failed", None)


def test_links_and_folders_in_a_tar_are_no_pictures(tmp_path, red):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (
            ("d.png", tarfile.DIRTYPE),
            ("l.png", tarfile.SYMTYPE),
            ("h.png", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("a.png")
        member.size = len(red)
        tar.addfile(member, io.BytesIO(red))
    assert [record.path for record in records(tmp_path / "a.tar")] == [f"tar://a.png::{tmp_path}/a.tar"]
    with pytest.raises(ImageDecodeError, match="the tar has no such file"):
        read(f"tar://l.png::{tmp_path}/a.tar")


def test_batches_end_where_their_files_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.types.CONTENT_BYTES", 2500)
    tar = write_tar(tmp_path / "a.tar", {f"{n}.png": b"x" * 1000 for n in range(7)})
    batches = list(ReadSource(batch_size=5)(tar))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [batch.last for batch in batches] == [False, False, True]


def test_a_tar_is_never_held_in_memory(tmp_path):
    content = bytes(100_000)
    tar = write_tar(tmp_path / "a.tar", {f"{n:05}.png": content for n in range(200)})  # 20 MB
    next(records(tar))  # imports
    tracemalloc.start()
    assert sum(len(record.content or b"") for record in records(tar)) == 20_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_what_is_kept_of_a_tars_names_does_not_grow(tmp_path):
    """A TarFile remembers every member: half a kilobyte each."""
    tar = write_tar(tmp_path / "a.tar", {f"{n:05}.png": b"x" for n in range(5000)})
    tar_files._listing.cache_clear()
    next(records(tar))
    tracemalloc.start()
    assert sum(1 for _ in records(tar)) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_500_000
