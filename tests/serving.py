"""The service in this process, with the weightless model and a fresh database in memory."""

from contextlib import contextmanager
from pathlib import Path

from conftest import memory_uri
from starlette.testclient import TestClient

import t2i_pipelines.testing  # noqa: F401 - registers the model
from t2i_pipelines.serve import ServeOptions, build_app

LOCAL = {"base_url": "http://127.0.0.1:8000", "client": ("127.0.0.1", 50000)}


def wait_until(condition, what, seconds=300):
    """As in ``milvus_backends``, which is a plugin: it must not be imported while tests are collected."""
    from milvus_backends import wait_until

    wait_until(condition, what, seconds)


@contextmanager
def serving(tmp_path: Path, *, client=LOCAL, settings=None, ready=True, **options):
    """A client of a service that is ready, or about to be."""
    chosen = {"uri": memory_uri(tmp_path), "model_name": "colour", **(settings or {})}
    app = build_app(ServeOptions(**options), **chosen)
    with TestClient(app, raise_server_exceptions=False, **client) as http:
        if ready:
            wait_until(lambda: http.get("/readyz").status_code == 200, "getting ready", 60)
        yield http


def search(http, **body):
    """The hits of one query."""
    found = http.post("/v1/search", json=body)
    assert found.status_code == 200, found.text
    return found.json()["results"][0]["hits"]


def problem(answer, status, code):
    """The detail of what must be a problem with this status and code."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    return answer.json()["detail"]


def wait_for(http, job):
    """The report of a job that has ended."""
    found = {}

    def ended():
        found.update(http.get(f"/v1/jobs/{job}").json())
        return found["finished"] is not None

    wait_until(ended, f"job {job}", 120)
    return found


def insert(http, **body):
    """The report of an insert that was accepted and has ended."""
    accepted = http.post("/v1/insert", json=body)
    assert accepted.status_code == 202, accepted.text
    assert accepted.headers["location"] == f"/v1/jobs/{accepted.json()['id']}"
    return wait_for(http, accepted.json()["id"])


def names(hits):
    return [Path(hit["path"]).stem for hit in hits]
