"""Jobs can be listed and cancelled, survive a restart, and are begun once for a key."""

import contextlib
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from conftest import paint_colours
from serving import insert, names, problem, search, serving, wait_for, wait_until

from t2i_pipelines.errors import ConfigError, StoreUnavailableError
from t2i_pipelines.serve import ServeOptions, jobs, service
from t2i_pipelines.serve.schemas import JobReport


@pytest.fixture
def pictures(tmp_path):
    return paint_colours(tmp_path / "pictures")


@pytest.fixture
def here(tmp_path, pictures):
    """The options of a service that keeps its jobs."""
    return {"roots": [pictures], "state": tmp_path / "state"}


@pytest.fixture
def held(monkeypatch):
    """Inserts wait until this is set."""
    go, insert_now = threading.Event(), jobs.Jobs._insert
    monkeypatch.setattr(jobs.Jobs, "_insert", lambda self, job: (go.wait(60), insert_now(self, job)))
    yield go
    go.set()


def begin(http, source="pictures", **headers):
    """The id of a job that was accepted."""
    answer = http.post(
        "/v1/insert",
        json={"source": source},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def listed(http, **asked):
    return [(one["id"], one["status"]) for one in http.get("/v1/jobs", params=asked).json()["jobs"]]


def test_jobs_are_listed_newest_first(tmp_path, here, held):
    with serving(tmp_path, **here) as http:
        assert listed(http) == []
        first, second, third = (begin(http, f"pictures/{name}.png") for name in ("red", "blue", "green"))
        wait_until(lambda: (first, "running") in listed(http), "the first", 60)
        assert listed(http) == [(third, "waiting"), (second, "waiting"), (first, "running")]
        assert listed(http, status="waiting", limit=1) == [(third, "waiting")]
        held.set()
        wait_for(http, third)
        assert listed(http, status="done") == [(third, "done"), (second, "done"), (first, "done")]
        assert listed(http, status="failed") == []
        (job, *_) = http.get("/v1/jobs").json()["jobs"]
        assert (job["source"], job["counts"]) == ("pictures/green.png", {"inserted": 1})
        assert "failed" not in job
        for wrong in ({"status": "x"}, {"limit": 0}, {"limit": 101}, {"limit": "x"}):
            problem(http.get("/v1/jobs", params=wrong), 422, "invalid_request")


def test_a_list_of_jobs_reads_no_failures(tmp_path, here, monkeypatch):
    with serving(tmp_path, **here) as http:
        wait_for(http, begin(http, "pictures/red.png"))
        monkeypatch.setattr(jobs, "JobReport", None)  # which has up to 1,000 of them
        assert [status for _, status in listed(http)] == ["done"]


def test_a_job_that_waits_is_cancelled_at_once(tmp_path, here, held):
    with serving(tmp_path, **here) as http:
        first, second = begin(http, "pictures/red.png"), begin(http, "pictures/blue.png")
        answer = http.delete(f"/v1/jobs/{second}")
        assert (answer.status_code, answer.json()["status"], answer.json()["counts"]) == (
            202,
            "cancelled",
            {},
        )
        assert answer.json()["finished"]
        assert http.get(f"/v1/jobs/{second}").json() == answer.json()
        assert "it is cancelled" in problem(http.delete(f"/v1/jobs/{second}"), 409, "job_ended")
        held.set()
        assert wait_for(http, first)["status"] == "done"
        assert "it is done" in problem(http.delete(f"/v1/jobs/{first}"), 409, "job_ended")
        assert names(search(http, text="red")) == ["red"]
        assert "no job has the id 'none'" in problem(http.delete("/v1/jobs/none"), 404, "job_not_found")
        assert "t2i_jobs 0.0" in http.get("/metrics").text


def slowly(monkeypatch):
    """Let jobs wait before their third image; what releases them."""
    go, read = threading.Event(), jobs.Job.until_stopped

    def until_stopped(self, records):
        def waiting():
            for number, record in enumerate(records):
                if number == 2:
                    go.wait(60)
                yield record

        return read(self, waiting())

    monkeypatch.setattr(jobs.Job, "until_stopped", until_stopped)
    return go


def test_a_job_that_runs_is_cancelled_after_the_images_under_way(tmp_path, here, monkeypatch):
    go = slowly(monkeypatch)
    with serving(tmp_path, settings={"batch_size": 1}, **here) as http:
        id = begin(http)
        wait_until(lambda: http.get(f"/v1/jobs/{id}").json()["counts"], "the first image", 60)
        for _ in range(2):
            assert http.delete(f"/v1/jobs/{id}").json()["status"] == "running"
        go.set()
        report = wait_for(http, id)
        assert (report["status"], report["error"]) == ("cancelled", None)
        assert report["counts"] == {"inserted": len(search(http, text="red"))} == {"inserted": 2}
        assert insert(http, source="pictures")["counts"]["unchanged"] == 2


def test_a_job_that_was_cancelled_before_its_first_image_has_no_error(tmp_path, here, held):
    with serving(tmp_path, **here) as http:
        id = begin(http)
        wait_until(lambda: listed(http, status="running"), "the job", 60)
        http.delete(f"/v1/jobs/{id}")
        held.set()
        report = wait_for(http, id)
        assert (report["status"], report["counts"], report["error"]) == ("cancelled", {}, None)


def test_a_service_that_only_reads_cancels_nothing_and_keeps_no_file(tmp_path, here):
    with serving(tmp_path, read_only=True, **here) as http:
        problem(http.delete("/v1/jobs/x"), 403, "read_only")
        assert listed(http) == []
    assert not (tmp_path / "state").exists()


def test_ended_jobs_survive_a_restart(tmp_path, here, pictures):
    (pictures / "broken.png").write_bytes(b"x")
    (pictures / "film.mp4").write_bytes(b"x")
    with serving(tmp_path, **here) as http:
        report = insert(http, source="pictures")
        assert report["failed"][0]["path"] == "pictures/broken.png"
        assert report["skipped"][0]["kind"] == ".mp4"
    with serving(tmp_path, **here) as http:
        assert http.get(f"/v1/jobs/{report['id']}").json() == report
        assert listed(http) == [(report["id"], "done")]


def left_behind(path, **more):
    """Write down a job as a process that was killed has left it."""
    store = jobs.Store(path)
    report = JobReport(
        **{"id": "left", "status": "running", "source": "pictures", "counts": {"inserted": 3}, "skipped": [],
           "failed": [], "seconds_by_stage": {}, "created": datetime.now(UTC), **more}
    )  # fmt: skip
    store.add(report, None)
    store.close()


@pytest.mark.parametrize("status", ["waiting", "running"])
def test_what_a_killed_process_has_not_finished_is_interrupted(tmp_path, here, status, caplog):
    left_behind(tmp_path / "state" / "jobs.db", status=status)
    for _ in range(2):
        with serving(tmp_path, **here) as http:
            report = http.get("/v1/jobs/left").json()
            assert (report["status"], report["counts"]) == ("interrupted", {"inserted": 3})
            assert report["error"]["code"] == "interrupted"
            assert "send it again" in report["error"]["detail"]
            assert report["finished"]
            assert "it is interrupted" in problem(http.delete("/v1/jobs/left"), 409, "job_ended")
    assert caplog.text.count("1 inserts were interrupted") == 1


def test_staged_files_of_interrupted_jobs_are_removed(tmp_path, here):
    left_behind(tmp_path / "state" / "jobs.db")
    for name in ("left", "other"):
        (tmp_path / "kept" / ".incoming" / name).mkdir(parents=True)
    with serving(tmp_path, uploads=tmp_path / "kept", **here):
        assert [one.name for one in (tmp_path / "kept" / ".incoming").iterdir()] == ["other"]


def test_jobs_are_next_to_a_local_database(tmp_path, caplog):
    of = service._jobs_path
    database = tmp_path / "milvus.db"
    assert of(ServeOptions(), str(database)) == tmp_path / "milvus.db.jobs"
    assert of(ServeOptions(state=tmp_path), str(database)) == tmp_path / "jobs.db"
    assert of(ServeOptions(read_only=True), str(database)) is None
    assert caplog.text == ""
    assert of(ServeOptions(), "http://localhost:19530") is None
    assert "name a folder by --state" in caplog.text


def test_a_file_of_jobs_is_for_one_service(tmp_path, here):
    with (
        serving(tmp_path, **here),
        pytest.raises(ConfigError, match=r"jobs\.db: another service uses it; choose .* by --state"),
        serving(tmp_path, **here),
    ):
        pass


def test_a_file_that_holds_no_jobs_is_refused(tmp_path, here):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "jobs.db").write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="file is not a database"), serving(tmp_path, **here):
        pass
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(ConfigError, match="jobs cannot be kept in .*/file/jobs.db: "),
        serving(tmp_path, **{**here, "state": tmp_path / "file"}),
    ):
        pass


def test_a_job_that_cannot_be_written_down_is_507(tmp_path, here, monkeypatch):
    with serving(tmp_path, **here) as http:
        monkeypatch.setattr(jobs.Store, "_ask", full)
        answer = http.post("/v1/insert", json={"source": "pictures"})
        assert "disk is full" in problem(answer, 507, "storage_full")
        monkeypatch.undo()
        assert insert(http, source="pictures")["status"] == "done"


def full(self, statement, *values):
    raise sqlite3.OperationalError("database or disk is full")


def test_an_end_that_cannot_be_written_down_is_known_all_the_same(tmp_path, here, held, monkeypatch, caplog):
    with serving(tmp_path, **here) as http:
        id = begin(http)
        wait_until(lambda: listed(http, status="running"), "the job", 60)
        monkeypatch.setattr(jobs.Store, "save", lambda self, report: False)
        held.set()
        assert wait_for(http, id)["status"] == "done"


def test_the_same_request_under_one_key_is_one_job_also_after_a_restart(tmp_path, here):
    with serving(tmp_path, **here) as http:
        id = begin(http, Idempotency_Key="a-1")
        wait_for(http, id)
        assert begin(http, Idempotency_Key="a-1") == begin(http, Idempotency_Key='"a-1"') == id
        assert begin(http, Idempotency_Key="a-2") != id
    with serving(tmp_path, **here) as http:
        assert begin(http, Idempotency_Key="a-1") == id
        for other in ({"source": "pictures/red.png"}, {"source": "pictures", "refresh": True}):
            answer = http.post("/v1/insert", json=other, headers={"Idempotency-Key": "a-1"})
            assert "was sent before with another request" in problem(answer, 422, "idempotency_mismatch")


def test_keys_are_bounded(tmp_path, here, monkeypatch):
    monkeypatch.setattr(jobs, "KEYS", 2)
    with serving(tmp_path, **here) as http:
        for wrong in ("", "x" * 256, "two words"):
            answer = http.post("/v1/insert", json={"source": "pictures"}, headers={"Idempotency-Key": wrong})
            problem(answer, 422, "invalid_request")
        for key in ("a", "b"):
            wait_for(http, begin(http, Idempotency_Key=key))
        answer = http.post("/v1/insert", json={"source": "pictures"}, headers={"Idempotency-Key": "c"})
        assert "2 idempotency keys are remembered" in problem(answer, 429, "too_many_keys")
        assert begin(http, Idempotency_Key="b")
        assert begin(http)


def test_a_key_is_remembered_for_a_day_and_so_is_its_job(tmp_path, here, monkeypatch):
    now = [datetime.now(UTC)]
    monkeypatch.setattr(
        jobs, "time", SimpleNamespace(time=lambda: now[0].timestamp(), monotonic=lambda: now[0].timestamp())
    )
    monkeypatch.setattr(jobs, "KEPT", 1)
    with serving(tmp_path, **here) as http:
        id = begin(http, Idempotency_Key="a")
        wait_for(http, id)
        others = [insert(http, source="pictures")["id"] for _ in range(3)]
        now[0] += timedelta(hours=23.9)
        assert begin(http, Idempotency_Key="a") == id
        assert [one for one, _ in listed(http)] == [others[2], id]
        now[0] += timedelta(hours=0.2)
        again = begin(http, Idempotency_Key="a")
        assert again != id
        wait_for(http, again)
        problem(http.get(f"/v1/jobs/{id}"), 404, "job_not_found")


def test_two_requests_with_one_key_at_the_same_time_are_one_job(tmp_path, here, held):
    with serving(tmp_path, **here) as http:
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(begin(http, Idempotency_Key="a"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (len(found), len(set(found))) == (8, 1)
        held.set()


def test_counts_of_a_job_that_runs_are_written_down(tmp_path, here, monkeypatch):
    monkeypatch.setattr(jobs, "SAVE_SECONDS", 0.0)
    go = slowly(monkeypatch)
    with serving(tmp_path, settings={"batch_size": 1}, **here) as http:
        id, store = begin(http), http.app.state.service.jobs._store
        wait_until(lambda: store.find(id).counts, "the counts", 60)
        assert store.find(id).status == "running"
        go.set()
        wait_for(http, id)


def test_a_job_that_breaks_off_says_why_after_a_restart_too(tmp_path, here, monkeypatch):
    def gone(self, job):
        raise StoreUnavailableError("the database at http://secret:19530 is away")

    with serving(tmp_path, **here) as http:
        monkeypatch.setattr(jobs.Jobs, "_insert", gone)
        report = insert(http, source="pictures")
    assert report["status"] == "failed"
    assert report["error"] == {
        "code": "store_unavailable", "detail": "the database does not answer; try again"
    }  # fmt: skip
    with serving(tmp_path, **here) as http:
        assert http.get(f"/v1/jobs/{report['id']}").json() == report


def test_a_service_that_was_not_started_has_no_jobs(tmp_path):
    from t2i_pipelines.serve.app import make

    made = make(ServeOptions(), {"uri": tmp_path / "milvus.db", "model_name": "colour"}).state.service
    with pytest.raises(RuntimeError, match="not been started"):
        made.jobs.find("x")
    with contextlib.suppress(FileNotFoundError):
        assert [one.name for one in tmp_path.iterdir()] == []
