"""Images that come with the request: kept once, found, shown, and refused where that cannot be."""

import errno
import io
import json
import re
import tempfile
import threading
from pathlib import Path

import pillow_heif
import pytest
from conftest import COLOURS, paint, paint_colours
from PIL import Image as Pillow
from serving import insert, problem, search, serving, wait_for

from t2i_pipelines.collection import Collection
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.images.files import digest
from t2i_pipelines.serve import ServeOptions, jobs, uploads


@pytest.fixture
def pictures(tmp_path):
    return paint_colours(tmp_path / "pictures")


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def http(tmp_path, kept):
    with serving(tmp_path, uploads=kept) as client:
        yield client


def send(http, *files, fields=None, headers=None):
    """The answer to an upload of (name, bytes)."""
    parts = [("image", file) for file in files]
    data = None if fields is None else {"fields": fields if isinstance(fields, str) else json.dumps(fields)}
    return http.post("/v1/insert", files=parts, data=data, headers=headers)


def uploaded(http, *files, **more):
    """The report of an upload that was accepted and has ended."""
    answer = send(http, *files, **more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return wait_for(http, answer.json()["id"])


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_uploaded_image_is_found_and_shown(http, pictures, kept):
    content = (pictures / "red.png").read_bytes()
    report = uploaded(http, ("C:\\photos\\my red.png", content), fields={"album": "colours", "year": 2024})
    assert (report["status"], report["counts"], report["source"]) == ("done", {"inserted": 1}, None)
    (hit,) = search(http, text="red", output_fields=["album", "year", "filename"])
    assert hit["fields"] == {"album": "colours", "year": 2024, "filename": "my red.png"}
    name = digest(content)
    assert hit["path"] == f"kept/{name[:2]}/{name}.png"
    assert http.get(hit["links"]["file"]).content == content
    assert http.get(hit["links"]["thumbnail"]).headers["content-type"] == "image/webp"
    assert files_in(kept) == [f"{name[:2]}/{name}.png"]


def test_the_same_bytes_are_kept_once_also_after_a_restart(tmp_path, pictures, kept):
    file = ("red.png", (pictures / "red.png").read_bytes())
    with serving(tmp_path, uploads=kept) as http:
        uploaded(http, file)
        before = files_in(kept)
        assert uploaded(http, file)["counts"] == {"unchanged": 1}
    with serving(tmp_path, uploads=f"kept={kept}") as http:
        assert uploaded(http, file)["counts"] == {"unchanged": 1}
        (hit,) = search(http, text="red")
        assert http.get(hit["links"]["file"]).content == file[1]
        # a folder of uploads is a root as any other
        assert insert(http, source="kept")["status"] == "done"
        assert len(search(http, text="red")) == 1
    assert files_in(kept) == before


def test_many_files_have_an_object_of_fields_each(http, pictures):
    files = [(f"{name}.png", (pictures / f"{name}.png").read_bytes()) for name in COLOURS]
    fields = [{"id": f"{name}-1", "number": number} for number, name in enumerate(COLOURS)]
    assert uploaded(http, *files, fields=fields)["counts"] == {"inserted": len(COLOURS)}
    hits = search(http, text="red", output_fields=["number", "filename"])
    found = {hit["id"]: hit["fields"] for hit in hits}
    assert found == {
        f"{name}-1": {"number": number, "filename": f"{name}.png"} for number, name in enumerate(COLOURS)
    }


def test_every_file_has_one_outcome_and_what_is_no_image_is_not_kept(http, pictures, kept):
    red = (pictures / "red.png").read_bytes()
    report = uploaded(
        http,
        ("good.png", red), ("again.png", red), ("words.txt", b"not an image"), (" ", b""),
        ("half.png", (pictures / "blue.png").read_bytes()[:60]),
    )  # fmt: skip
    assert report["counts"] == {"inserted": 1, "skipped": 1, "failed": 3}
    assert [one["filename"] for one in report["failed"]] == ["words.txt", None, "half.png"]
    reasons = [one["reason"] for one in report["failed"]]
    assert reasons[0] == "cannot read image words.txt: not an image in a known format"
    assert reasons[1] == "cannot read image file 4 of the request: the file is empty"
    assert report["failed"][2]["stage"] == "decode"
    assert len(files_in(kept)) == 1
    assert [one.name for one in (kept / ".incoming").iterdir()] == []


def test_a_failure_removes_no_file_that_was_there_before(http, pictures, kept, monkeypatch):
    file = ("red.png", (pictures / "red.png").read_bytes())
    uploaded(http, file)
    before = files_in(kept)
    monkeypatch.setattr(Collection, "upsert", refuses)
    assert uploaded(http, file, fields={"year": 2024})["counts"] == {"failed": 1}
    assert files_in(kept) == before


def refuses(self, rows):
    raise ConfigError("no")


@pytest.mark.parametrize("ids", [["x" * 5000, "fine"], ["fine", "x" * 5000]], ids=["first", "last"])
def test_a_failure_removes_no_file_that_another_image_of_the_upload_has(http, pictures, kept, ids):
    file = ("red.png", (pictures / "red.png").read_bytes())
    report = uploaded(http, file, file, fields=[{"id": id} for id in ids])
    assert report["counts"] == {"inserted": 1, "failed": 1}
    assert http.get("/v1/images/fine/file").content == file[1]


def test_a_file_that_failed_twice_is_not_kept(http, pictures, kept):
    half = ("half.png", (pictures / "red.png").read_bytes()[:60])
    report = uploaded(http, half, half, half, fields=[{"id": "a"}, {"id": "b"}, {"id": "b"}])
    assert report["counts"] == {"failed": 2, "skipped": 1}
    assert files_in(kept) == []


def test_a_decoder_that_breaks_fails_the_file_alone(http, pictures, kept, monkeypatch):
    identify = uploads.identify

    def breaks(content, max_pixels):
        if content == b"bad":
            raise ZeroDivisionError("division by zero")
        return identify(content, max_pixels)

    monkeypatch.setattr(uploads, "identify", breaks)
    report = uploaded(http, ("bad.png", b"bad"), ("red.png", (pictures / "red.png").read_bytes()))
    assert report["counts"] == {"inserted": 1, "failed": 1}
    assert "cannot read image bad.png: " in report["failed"][0]["reason"]
    assert "division by zero" in report["failed"][0]["reason"]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("heif", "image/heif"), ("jp2", "image/jp2"), ("qoi", "image/qoi"), ("jpeg", "image/jpeg")],
)
def test_whatever_is_kept_is_shown_and_has_a_suffix_that_sources_know(http, pictures, kept, suffix, kind):
    red, content = Pillow.open(pictures / "red.png"), io.BytesIO()
    if suffix == "heif":
        pillow_heif.from_pillow(red).save(content)
    else:
        red.save(content, {"jp2": "JPEG2000"}.get(suffix, suffix))
    assert uploaded(http, ("IMG_0001", content.getvalue()))["counts"] == {"inserted": 1}
    (hit,) = search(http, text="red")
    assert hit["path"].endswith(f".{suffix}")
    file = http.get(hit["links"]["file"])
    assert (file.content, file.headers["content-type"]) == (content.getvalue(), kind)
    assert http.get(hit["links"]["thumbnail"]).status_code == 200
    assert insert(http, source="kept")["counts"] == {"updated": 1}


def test_a_format_that_cannot_be_shown_is_refused(http, kept):
    image = paint(kept.parent / "red.png", "red")
    Pillow.open(image).save(kept.parent / "red.tga")
    report = uploaded(http, ("red.tga", (kept.parent / "red.tga").read_bytes()))
    assert report["failed"][0]["reason"].endswith("TGA has no signature to tell it by; send it as PNG")
    assert files_in(kept) == []


NAMES = {
    "../../etc/passwd": "passwd",
    "C:\\windows\\x.png": "x.png",
    "..": "..",
    "a\u202egnp.exe": "agnp.exe",
    "x" * 300: "x" * 255,
    "a\u0301.png": "\u00e1.png",
    "\ud800.png": ".png",
    "tab\there\0": "tabhere",
    "": "",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_of_a_clients_name_the_last_part_is_kept_as_far_as_it_can_be_printed(name):
    assert uploads.cleaned(name) == NAMES[name]


def test_a_clients_name_is_never_a_path(http, pictures, kept):
    files = [
        (name, (pictures / f"{colour}.png").read_bytes())
        for name, colour in (("../../passwd", "red"), ("/etc/cron.d/x.png", "blue"), ("..", "green"))
    ]
    assert uploaded(http, *files)["counts"] == {"inserted": 3}
    hits = search(http, text="red", output_fields=["filename"])
    assert {hit["fields"]["filename"] for hit in hits} == {"passwd", "x.png", ".."}
    assert len(files_in(kept)) == 3
    assert all(re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{32}\.png", file) for file in files_in(kept))
    outside = [file for file in files_in(kept.parent) if not file.startswith(("kept/", "pictures/"))]
    assert outside == []


def test_without_a_folder_uploads_are_refused(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as http:
        detail = problem(send(http, ("a.png", b"x")), 403, "uploads_not_allowed")
        assert "--uploads FOLDER" in detail


def test_a_service_that_only_reads_takes_no_upload(tmp_path, kept):
    with serving(tmp_path, uploads=kept, read_only=True) as http:
        problem(send(http, ("a.png", b"x")), 403, "read_only")
    assert files_in(kept) == []


WRONG = [
    ("{", "must be a JSON object"),
    ("[" * 9_000, "must be a JSON object"),
    ('{"year": NaN}', "must be a JSON object"),
    ('"x"', "must be a JSON object"),
    ("[1]", "must be a JSON object"),
    ('["\\ud800"]', "must be a JSON object"),
    ("[{}, {}]", "a list of 2, and there are 1 files"),
    ('{"path": "/etc/passwd"}', "the column path is reserved"),
    ('{"vector": [1]}', "the column vector is reserved"),
    (json.dumps({"x" * 256: 1}), "must be a JSON object"),
    (json.dumps({f"c{n}": 1 for n in range(65)}), "must be a JSON object"),
    (json.dumps({"text": "x" * 70_000}), "may have 65,536 bytes"),
]


def test_fields_that_do_not_fit_are_refused_and_nothing_is_kept(http, kept):
    for fields, said in WRONG:
        assert said in problem(send(http, ("a.png", b"x"), fields=fields), 422, "invalid_request")
    many = json.dumps({"a": ["x"] * 100_000})
    assert "at most 100,000" in problem(send(http, ("a.png", b"x"), fields=many), 422, "query_too_long")
    parts = {"image": b"x", "fields": ("f.json", b" " * (uploads.FIELDS_BYTES + 1))}
    assert "1,048,576 bytes" in problem(http.post("/v1/insert", files=parts), 413, "too_large")
    assert files_in(kept) == []


def test_forms_that_are_not_as_they_should_be_are_refused(http, kept, monkeypatch):
    assert "there is no file" in problem(
        http.post("/v1/insert", files={"fields": (None, "{}")}), 422, "invalid_request"
    )
    assert "image is text" in problem(
        http.post("/v1/insert", files={"image": (None, "x")}), 422, "invalid_request"
    )
    assert "cannot have 'other'" in problem(
        http.post("/v1/insert", files={"other": b"x"}), 422, "invalid_request"
    )
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = http.post("/v1/insert", content=b"nothing", headers={"content-type": kind})
        assert "form cannot be read" in problem(answer, 400, "bad_request")
    two = [("a.png", b"x"), ("b.png", b"x")]
    assert "an id is of one image" in problem(send(http, *two, fields={"id": "a"}), 422, "invalid_request")
    monkeypatch.setattr(uploads, "FILES", 1)
    assert problem(send(http, *two), 422, "too_many_files") == "a request may have 1 files"
    assert "not 'text/plain'" in problem(
        http.post("/v1/insert", content=b"x", headers={"content-type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    assert files_in(kept) == []


def test_fields_may_come_as_a_file(http, pictures):
    parts = {"image": (pictures / "red.png").read_bytes(), "fields": ("f.json", b'{"year": 7}')}
    job = http.post("/v1/insert", files=parts).json()["id"]
    assert wait_for(http, job)["counts"] == {"inserted": 1}
    (hit,) = search(http, text="red", output_fields=["year"])
    assert hit["fields"] == {"year": 7}


def test_metadata_that_cannot_be_stored_fails_its_image_alone(http, pictures, kept):
    files = [(f"{name}.png", (pictures / f"{name}.png").read_bytes()) for name in ("red", "blue")]
    report = uploaded(http, *files, fields=[{"id": "x" * 5000}, {"year": 1}])
    assert report["counts"] == {"inserted": 1, "failed": 1}
    assert report["failed"][0]["filename"] == "red.png"
    assert len(files_in(kept)) == 1


def test_an_upload_may_be_as_large_as_a_request(tmp_path, kept, pictures):
    red = (pictures / "red.png").read_bytes()
    with serving(tmp_path, uploads=kept, max_body=9 << 20) as http:  # more than an insert as JSON
        report = uploaded(http, ("red.png", red + bytes((8 << 20) + 1000)))
        assert report["counts"] == {"inserted": 1}
        answer = send(http, ("red.png", red + bytes(9 << 20)))
        assert problem(answer, 413, "too_large") == "a request may have 9,437,184 bytes at most"


def test_a_full_disk_is_507_and_leaves_nothing(http, kept, pictures, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads.Path, "write_bytes", full)
    answer = send(http, ("red.png", (pictures / "red.png").read_bytes()))
    assert "no room for uploads" in problem(answer, 507, "storage_full")
    assert files_in(kept) == []
    monkeypatch.undo()
    assert uploaded(http, ("red.png", (pictures / "red.png").read_bytes()))["status"] == "done"


def test_fields_of_half_a_character_are_400(http, pictures):
    red = (pictures / "red.png").read_bytes()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="fields"\r\n\r\n+2AA-\r\n'
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % red
    )
    headers = {"content-type": "multipart/form-data; boundary=x; charset=utf-7"}
    answer = http.post("/v1/insert", content=body, headers=headers)
    assert "surrogates not allowed" in problem(answer, 400, "bad_request")


def test_a_disk_without_room_for_temporary_files_is_507(http, kept, pictures, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    red = (pictures / "red.png").read_bytes()
    answer = send(http, ("red.png", red + bytes(2 << 20)))
    assert "no room for uploads" in problem(answer, 507, "storage_full")
    assert files_in(kept) == []
    assert uploaded(http, ("red.png", red))["status"] == "done"


@pytest.mark.parametrize("at", ["replace", "fsync"])
def test_a_disk_that_is_full_later_fails_the_file(http, kept, pictures, monkeypatch, at):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads.os if at == "fsync" else uploads.Path, at, full)
    (failed,) = uploaded(http, ("red.png", (pictures / "red.png").read_bytes()))["failed"]
    assert failed["reason"] == "cannot read image red.png: No space left on device"
    assert files_in(kept) == []


def test_an_image_is_on_the_disk_before_it_has_its_name(http, kept, pictures, monkeypatch):
    done, fsync, replace = [], uploads.os.fsync, Path.replace

    def synced(handle):
        done.append(("sync", Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(uploads.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append(("name", to)), replace(self, to)))
    id = uploaded(http, ("red.png", (pictures / "red.png").read_bytes()))["id"]
    (path,) = [kept / file for file in files_in(kept)]
    assert done == [
        ("sync", kept), ("sync", kept / ".incoming" / id / "0"), ("name", path), ("sync", path.parent)
    ]  # fmt: skip


def test_uploads_that_wait_are_bounded_and_a_cancelled_one_leaves_nothing(
    tmp_path, kept, pictures, monkeypatch
):
    go, insert_now = threading.Event(), jobs.Jobs._insert
    monkeypatch.setattr(jobs.Jobs, "_insert", lambda self, job: (go.wait(60), insert_now(self, job)))
    file = ("red.png", (pictures / "red.png").read_bytes())
    with serving(tmp_path, uploads=kept, max_jobs=2) as http:
        ids = [send(http, file).json()["id"] for _ in range(2)]
        problem(send(http, file), 429, "too_busy")
        problem(send(http, file, headers={"Idempotency-Key": "k"}), 429, "too_busy")
        assert files_in(kept) == sorted(f".incoming/{id}/0" for id in ids)
        assert http.delete(f"/v1/jobs/{ids[1]}").json()["status"] == "cancelled"
        assert files_in(kept) == [f".incoming/{ids[0]}/0"]
        go.set()
        assert wait_for(http, ids[0])["counts"] == {"inserted": 1}


def test_the_same_upload_under_one_key_is_one_job(http, kept, pictures):
    red, blue = [(f"{name}.png", (pictures / f"{name}.png").read_bytes()) for name in ("red", "blue")]
    key = {"Idempotency-Key": "one"}
    first = uploaded(http, red, headers=key)
    again = send(http, red, headers=key)  # under another boundary
    assert (again.status_code, again.json()) == (202, first)
    for other in ((blue,), (("x.png", red[1]),), (red, blue)):
        problem(send(http, *other, headers=key), 422, "idempotency_mismatch")
    problem(send(http, red, headers=key, fields={"a": 1}), 422, "idempotency_mismatch")
    assert len(files_in(kept)) == 1


def test_staged_files_of_a_process_that_was_killed_are_removed(tmp_path, kept, monkeypatch):
    old, new = (kept / ".incoming" / name for name in ("old", "new"))
    for staged in (old, new):
        staged.mkdir(parents=True)
        (staged / "0").write_bytes(b"x")
    long_ago = old.stat().st_mtime - uploads.LEFT_SECONDS - 1
    uploads.os.utime(old, (long_ago, long_ago))
    with serving(tmp_path, uploads=kept):
        assert files_in(kept) == [".incoming/new/0"]


def test_the_folder_of_uploads_is_checked_with_the_roots(tmp_path, pictures):
    assert ServeOptions(uploads=tmp_path / "not there").uploads_folder == tmp_path / "not there"
    with pytest.raises(ConfigError, match="two roots are called 'pictures'"):
        ServeOptions(roots=[pictures], uploads=f"pictures={tmp_path}")
    for name in ("uploads", "state"):
        with pytest.raises(ConfigError, match=f"{name} must be a folder, got ''"):
            ServeOptions(**{name: ""})
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ConfigError, match=r"uploads must be a folder, got '.*/file'"),
        serving(tmp_path, uploads=tmp_path / "file"),
    ):
        pass
    assert Path(tmp_path / "file").read_text() == "x"
