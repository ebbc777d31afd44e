"""Stored images over HTTP, inserts as jobs, and what is counted."""

import io
import json
import re
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import COLOURS, paint
from PIL import Image
from serving import insert, names, problem, search, serving, wait_until

from t2i_pipelines import InsertReport, build_insert_pipeline
from t2i_pipelines.serve import images, jobs


@pytest.fixture
def http(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as client:
        yield client


def id_of(http, name):
    return next(hit["id"] for hit in search(http, text=name, limit=1))


def test_a_folder_is_inserted_as_the_pipeline_inserts_it(http, pictures, settings):
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "film.mp4").write_bytes(b"film")
    report = insert(http, source="pictures")
    assert [(one["kind"], one["count"]) for one in report["skipped"]] == [(".mp4", 1)]
    assert report["status"] == "done"
    assert report["counts"] == {"inserted": len(COLOURS), "failed": 1}
    (failed,) = report["failed"]
    assert (failed["path"], failed["stage"]) == ("pictures/broken.png", "decode")
    assert failed["reason"].startswith("cannot read image pictures/broken.png: ")
    assert str(pictures) not in json.dumps(report)
    again = InsertReport.collect(build_insert_pipeline(**settings)(str(pictures)))
    assert again.counts["unchanged"] == len(COLOURS)
    assert insert(http, source="pictures/red.png")["counts"] == {"unchanged": 1}
    assert insert(http, source="pictures/red.png", refresh=True)["counts"] == {"unchanged": 1}


def test_tables_and_tars_in_a_root_are_inserted(http, pictures):
    (pictures / "table.csv").write_text("path,kind\nred.png,warm\nblue.png,cold\n")
    with tarfile.open(pictures / "some.tar", "w") as tar:
        tar.add(pictures / "green.png", "green.png")
    assert insert(http, source="pictures/table.csv")["counts"] == {"inserted": 2}
    assert insert(http, source="pictures/some.tar")["counts"] == {"inserted": 1}
    assert names(search(http, text="blue", where={"kind": "cold"})) == ["blue"]
    (green,) = search(http, text="green", limit=1)
    assert green["path"] == "tar://green.png::pictures/some.tar"
    assert http.get(green["links"]["thumbnail"]).headers["content-type"] == "image/webp"


def test_a_picture_its_file_and_its_thumbnail(http, pictures):
    paint(pictures / "red.png", "red", (1000, 20))
    insert(http, source="pictures")
    id = id_of(http, "red")
    stored = http.get(f"/v1/images/{id}").json()
    assert (stored["id"], stored["path"]) == (id, "pictures/red.png")
    assert stored["fields"].keys() == {"size", "mtime"}
    file = http.get(stored["links"]["file"])
    assert (file.content, file.headers["content-type"]) == ((pictures / "red.png").read_bytes(), "image/png")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in file.headers["content-security-policy"]
    small = http.get(stored["links"]["thumbnail"])
    with Image.open(io.BytesIO(small.content)) as picture:
        assert (picture.format, max(picture.size)) == ("WEBP", 256)


def test_an_image_that_a_client_has_is_304_until_it_changes(http, pictures):
    insert(http, source="pictures")
    for part in ("file", "thumbnail"):
        url = f"/v1/images/{id_of(http, 'red')}/{part}"
        first = http.get(url)
        assert first.headers["cache-control"] == "private, no-cache"
        known = {"If-None-Match": first.headers["etag"]}
        again = http.get(url, headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert http.head(url, headers=known).status_code == 304
        assert http.get(url, headers={"If-None-Match": '"another"'}).content == first.content
        paint(pictures / "red.png", "red", (30 if part == "file" else 40, 30))
        insert(http, source="pictures", refresh=True)
        changed = http.get(url, headers=known)
        assert changed.status_code == 200
        assert changed.headers["etag"] != first.headers["etag"]


def test_a_part_of_a_file_can_be_asked_for(http, pictures):
    insert(http, source="pictures")
    url, whole = f"/v1/images/{id_of(http, 'red')}/file", (pictures / "red.png").read_bytes()
    part = http.get(url, headers={"Range": "bytes=2-9"})
    assert (part.status_code, part.content) == (206, whole[2:10])
    assert part.headers["content-range"] == f"bytes 2-9/{len(whole)}"
    assert http.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert http.get(url, headers={"Range": "bytes=2-9", "If-Range": '"another"'}).content == whole


def test_what_was_checked_is_what_is_sent(http, pictures, tmp_path, monkeypatch):
    """A file's name may lead elsewhere by the time its bytes are sent."""
    insert(http, source="pictures")
    id, whole = id_of(http, "red"), (pictures / "red.png").read_bytes()
    find = http.app.state.service.images.file
    (tmp_path / "secret").write_bytes(b"s" * len(whole))

    def then_changed(id):
        found = find(id)
        (pictures / "red.png").unlink()
        (pictures / "red.png").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(http.app.state.service.images, "file", then_changed)
    assert http.get(f"/v1/images/{id}/file").content == whole
    monkeypatch.undo()
    assert problem(http.get(f"/v1/images/{id}/file"), 404, "image_not_shown")


def test_no_answer_leaves_a_file_open(http, pictures):
    insert(http, source="pictures")
    url = f"/v1/images/{id_of(http, 'red')}/file"
    tag = http.get(url).headers["etag"]
    before = len(list(Path("/dev/fd").iterdir()))
    for headers in ({}, {"If-None-Match": tag}, {"Range": "bytes=0-3"}, {"Range": "bytes=9999999-"}):
        for _ in range(5):
            http.get(url, headers=headers)
            http.head(url, headers=headers)
    assert len(list(Path("/dev/fd").iterdir())) <= before


def test_an_image_in_a_tar_has_a_tag_too(http, pictures):
    with tarfile.open(pictures / "some.tar", "w") as tar:
        tar.add(pictures / "green.png", "green.png")
    insert(http, source="pictures/some.tar")
    url = f"/v1/images/{id_of(http, 'green')}/file"
    first = http.get(url)
    assert first.content == (pictures / "green.png").read_bytes()
    assert http.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_head_gives_what_get_gives_without_a_body(http, pictures):
    insert(http, source="pictures")
    image = f"/v1/images/{id_of(http, 'red')}"
    job = http.post("/v1/insert", json={"source": "pictures"}).headers["location"]
    for path in (
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
        image,
        f"{image}/file",
        f"{image}/thumbnail",
        job,
    ):
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert path == job or head.headers["content-length"] == get.headers["content-length"]
    assert http.head("/metrics").headers["content-type"] == http.get("/metrics").headers["content-type"]
    assert (http.head("/v1/images/none").status_code, http.head("/v1/search").status_code) == (404, 405)
    assert measured(http)['t2i_requests_total{method="HEAD",route="/healthz",status="200"}'] == 1


def test_what_is_deleted_is_found_no_more_and_its_file_stays(http, pictures):
    insert(http, source="pictures")
    id = id_of(http, "red")
    assert http.delete(f"/v1/images/{id}").status_code == 204
    assert id not in [hit["id"] for hit in search(http, text="red")]
    assert (pictures / "red.png").exists()
    for answer in (
        http.delete(f"/v1/images/{id}"),
        http.get(f"/v1/images/{id}"),
        http.get(f"/v1/images/{id}/file"),
    ):
        assert problem(answer, 404, "image_not_found") == f"no image has the id {id!r}"


def test_ids_of_all_kinds_have_links_that_lead_there(tmp_path, pictures, settings):
    ids = ["a b/c", "ä?#%", "thumbnail"]
    build_insert_pipeline(**settings)([{"path": str(pictures / "red.png"), "id": id} for id in ids])
    with serving(tmp_path, roots=[pictures]) as http:
        for hit in search(http, text="red"):
            assert http.get(hit["links"]["image"]).json()["id"] == hit["id"]
            assert http.get(hit["links"]["thumbnail"]).status_code == 200


def test_a_file_that_is_gone_or_no_picture_any_more_is_not_shown(http, pictures):
    insert(http, source="pictures")
    red, blue = id_of(http, "red"), id_of(http, "blue")
    (pictures / "red.png").unlink()
    (pictures / "blue.png").write_text("root:x:0:0:")
    for id in (red, blue):
        for part in ("file", "thumbnail"):
            assert "cannot be shown" in problem(http.get(f"/v1/images/{id}/{part}"), 404, "image_not_shown")
    assert http.get(f"/v1/images/{red}").status_code == 200


def test_a_source_that_holds_nothing_is_a_failed_job_with_its_code(http, pictures):
    (pictures / "empty").mkdir()
    report = insert(http, source="pictures/empty")
    assert report["status"] == "failed"
    assert report["error"]["code"] == "invalid_source"
    assert report["error"]["detail"].startswith("no image in folder 'pictures/empty'")


def test_what_cannot_be_a_source_is_refused_at_once(http):
    assert "give either source or urls" in problem(http.post("/v1/insert", json={}), 422, "invalid_request")
    assert "no file or folder 'pictures/nothing'" in problem(
        http.post("/v1/insert", json={"source": "pictures/nothing"}), 422, "invalid_query"
    )
    assert problem(
        http.post("/v1/insert", content=b"{", headers={"content-type": "application/json"}),
        422,
        "invalid_request",
    )
    assert "no job has the id" in problem(http.get("/v1/jobs/none"), 404, "job_not_found")


@pytest.fixture
def held(monkeypatch):
    """Inserts wait until this is set."""
    go = threading.Event()
    insert = jobs.Jobs._insert
    monkeypatch.setattr(jobs.Jobs, "_insert", lambda self, job: (go.wait(60), insert(self, job)))
    yield go
    go.set()


def test_too_many_inserts_are_429_and_those_accepted_are_finished(tmp_path, pictures, held):
    with serving(tmp_path, roots=[pictures], max_jobs=2) as http:
        ids = [
            http.post("/v1/insert", json={"source": f"pictures/{name}.png"}).json()["id"]
            for name in ("red", "blue")
        ]
        answer = http.post("/v1/insert", json={"source": "pictures"})
        assert "2 inserts are waiting or running, of at most 2" in problem(answer, 429, "too_busy")
        assert int(answer.headers["retry-after"]) >= 1
        held.set()
    # the end of the service has waited for them
    with serving(tmp_path, roots=[pictures]) as http:
        assert sorted(names(search(http, text="red"))) == ["blue", "red"]
        assert problem(http.get(f"/v1/jobs/{ids[0]}"), 404, "job_not_found")


def test_an_end_that_is_not_waited_for_says_so(tmp_path, pictures, held, caplog):
    with serving(tmp_path, roots=[pictures], drain=0.1) as http:
        service = http.app.state.service
        http.post("/v1/insert", json={"source": "pictures"})
    assert service.unfinished == 1
    assert "1 inserts were not finished within 0.1 s" in caplog.text


def test_ended_jobs_and_many_failures_are_forgotten(http, pictures, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT", 2)
    for n in range(5):
        (pictures / f"{n}.png").write_bytes(b"x")
    first = insert(http, source="pictures")
    assert (first["counts"]["failed"], len(first["failed"])) == (5, 2)
    for _ in range(4):
        insert(http, source="pictures/red.png")
    assert problem(http.get(f"/v1/jobs/{first['id']}"), 404, "job_not_found")


def test_a_service_that_only_reads_neither_inserts_nor_deletes(tmp_path, pictures, settings):
    build_insert_pipeline(**settings)(str(pictures))
    with serving(tmp_path, roots=[pictures], read_only=True) as http:
        assert problem(http.post("/v1/insert", json={"source": "pictures"}), 403, "read_only")
        assert problem(http.delete(f"/v1/images/{id_of(http, 'red')}"), 403, "read_only")
        assert id_of(http, "red")


def measured(http):
    lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_prometheus_is_told_what_happened(http):
    before = measured(http)
    insert(http, source="pictures")
    for _ in range(4):
        (hit, *_) = search(http, text="red, which nobody else has asked for like this")
    id = hit["id"]
    for _ in range(2):
        http.get(f"/v1/images/{id}/thumbnail")
    http.post("/v1/search", json={"text": ""})
    now = measured(http)

    def more(name):
        return now[name] - before.get(name, 0)

    assert more('t2i_requests_total{method="POST",route="/v1/search",status="200"}') == 4
    assert more('t2i_requests_total{method="POST",route="/v1/search",status="422"}') == 1
    assert more('t2i_failures_total{code="invalid_query"}') == 1
    assert more('t2i_insert_images_total{status="inserted"}') == len(COLOURS)
    assert more('t2i_cache_hits_total{cache="texts"}') == 3
    assert more('t2i_cache_misses_total{cache="texts"}') == 1
    assert (
        more('t2i_cache_hits_total{cache="thumbnails"}'),
        more('t2i_cache_misses_total{cache="thumbnails"}'),
    ) == (1, 1)
    for stage in ("queue", "encode", "search"):
        assert more(f't2i_stage_seconds_count{{stage="{stage}"}}') == 4
    assert now['t2i_stage_seconds_count{stage="thumbnail"}'] == 2
    assert more("t2i_batch_size_count") == 4
    assert now["t2i_queue_length"] == 0
    assert now["t2i_requests_in_flight"] == 1  # this one
    assert now["t2i_jobs"] == 0
    assert more('t2i_request_seconds_count{route="/v1/images/{id:path}/thumbnail"}') == 2


def test_it_is_there_before_it_is_ready(tmp_path, monkeypatch):
    from t2i_pipelines.errors import StoreUnavailableError
    from t2i_pipelines.serve import service

    def gone(*_, **__):
        raise StoreUnavailableError("nobody answers")

    monkeypatch.setattr(service, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr(service.Searcher, "find", gone)
    with serving(tmp_path, ready=False) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        answer = http.get("/readyz")
        assert problem(answer, 503, "not_ready")
        monkeypatch.undo()
        wait_until(lambda: http.get("/readyz").status_code == 200, "getting ready", 60)


def test_a_database_that_hangs_is_asked_once_whoever_asks(tmp_path, monkeypatch):
    from t2i_pipelines.serve import service

    monkeypatch.setattr(service, "LOOK_AGAIN", 0.2)
    monkeypatch.setattr(service, "ANSWERS_WITHIN", 0.2)
    asked, go = [], threading.Event()
    with serving(tmp_path) as http:
        monkeypatch.setattr(http.app.state.service, "_count", lambda: (asked.append(1), go.wait(60)))
        wait_until(lambda: http.get("/readyz").status_code == 503, "the look", 60)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(http.get, ["/readyz"] * 40))
        assert {answer.status_code for answer in answers} == {503}
        assert asked == [1]
        go.set()
        wait_until(lambda: http.get("/readyz").status_code == 200, "getting ready again", 60)


def test_both_answers_about_the_database_are_believed_for_a_while(tmp_path, monkeypatch):
    from t2i_pipelines.errors import StoreUnavailableError
    from t2i_pipelines.serve import service

    now = [1000.0]
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asked, gone = [], []

    def count():
        asked.append(1)
        if gone:
            raise StoreUnavailableError("nobody answers")

    with serving(tmp_path) as http:
        monkeypatch.setattr(http.app.state.service, "_count", count)
        for is_gone in (True, False):
            now[0] += 60
            gone[:], asked[:] = [1] * is_gone, []
            assert [http.get("/readyz").status_code for _ in range(3)] == [503 if is_gone else 200] * 3
            assert asked == [1]


def test_the_docs_come_from_here_alone(http):
    page = http.get("/docs")
    assert page.status_code == 200
    outside = [
        url for url in re.findall(r"(?:src|href)=[\"']([^\"']+)", page.text) if not url.startswith("/")
    ]
    assert outside == []
    for url in re.findall(r"(?:src|href)=[\"'](/[^\"']+)", page.text):
        assert http.get(url).status_code == 200


def test_thumbnails_are_decoded_one_per_core_at_a_time(http, pictures, monkeypatch):
    insert(http, source="pictures")
    ids = [hit["id"] for hit in search(http, text="red", limit=10)]
    decode, lock, now, most = images.decode, threading.Lock(), 0, 0

    def counted(*given):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            threading.Event().wait(0.05)
            return decode(*given)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(images, "decode", counted)
    monkeypatch.setattr(http.app.state.service.images, "_decoders", threading.Semaphore(2))
    with ThreadPoolExecutor(len(ids)) as threads:
        found = list(threads.map(lambda id: http.get(f"/v1/images/{id}/thumbnail").status_code, ids))
    assert (set(found), most) == ({200}, 2)
