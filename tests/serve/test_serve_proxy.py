"""Behind a proxy: a prefix of paths, whom it forwards for; and compressed answers."""

import gzip
import re
from contextlib import contextmanager

import pytest
from fastapi import FastAPI
from serving import LOCAL, insert, problem, search, serving, wait_until
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from uvicorn import Config

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve import ServeOptions, build_app
from t2i_pipelines.serve.server import server_config

KEY = "correct horse battery staple"
RAW = {"Accept-Encoding": "identity"}


@pytest.fixture
def http(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as client:
        yield client


# a prefix


@contextmanager
def below(tmp_path, prefix, **options):
    """A client of the service as uvicorn calls it: the prefix is back in the path, and in ``root_path``."""
    with serving(tmp_path, root_path=prefix, client={**LOCAL, "root_path": prefix}, **options) as http:
        yield http


def test_links_lead_back_through_the_proxy(tmp_path, pictures):
    with below(tmp_path, "/photos/search", roots=[pictures]) as http:
        assert http.get("/photos/search/healthz").status_code == 200
        accepted = http.post("/photos/search/v1/insert", json={"source": "pictures"})
        job = accepted.headers["location"]
        assert job == f"/photos/search/v1/jobs/{accepted.json()['id']}"
        wait_until(lambda: http.get(job).json()["finished"], "the insert", 60)
        answer = http.post("/photos/search/v1/search", json={"text": "red", "limit": 1})
        links = answer.json()["results"][0]["hits"][0]["links"]
        for link in links.values():
            assert link.startswith("/photos/search/v1/images/")
            assert http.get(link).status_code == 200
        assert http.get(links["image"]).json()["links"] == links


def test_the_docs_load_what_they_need_from_below_the_prefix(tmp_path):
    with below(tmp_path, "/photos") as http:
        page = http.get("/photos/docs").text
        found = {path for path in re.findall(r"""["'](/[^"'<> ]+)["']""", page) if "oauth2" not in path}
        assert "/photos/openapi.json" in found
        for path in found:
            assert path.startswith("/photos/"), path
            assert http.get(path).status_code == 200, path
        assert http.get("/photos/openapi.json").json()["servers"] == [{"url": "/photos"}]


def test_below_a_prefix_the_key_is_needed_as_without(tmp_path):
    closed = ("/docs/metrics", "/docs/v1/images/x", "/metrics", "/docs/v1/../metrics", "/docsmetrics")
    with below(tmp_path, "/docs", api_key=KEY) as http:  # a prefix that is open by itself
        for path in closed:
            assert problem(http.get(path), 401, "unauthorized"), path
        assert http.get("/docs/healthz").status_code == 200
        assert http.get("/docs/metrics", headers={"X-API-Key": KEY}).status_code == 200


def test_below_a_prefix_bodies_have_their_limits(tmp_path):
    with below(tmp_path, "/photos", max_body=1000) as http:
        assert problem(http.post("/photos/v1/search", content=b"x" * 2000), 413, "too_large")
        assert http.post("/photos/v1/search", json={"text": "red"}).status_code == 200


def test_the_server_puts_the_prefix_before_paths():
    assert server_config(FastAPI(), ServeOptions(root_path="/photos")).root_path == "/photos"


def test_in_another_application_it_guards_and_answers_as_alone(tmp_path):
    app = build_app(ServeOptions(api_key=KEY), uri=tmp_path / "milvus.db", model_name="colour")
    with TestClient(Starlette(routes=[Mount("/photos", app)]), **LOCAL) as http:
        assert http.get("/photos/healthz").status_code == 200
        assert problem(http.get("/photos/metrics"), 401, "unauthorized")
        answer = http.post("/photos/v1/search", json={}, headers={"X-API-Key": KEY})
        assert "body" in problem(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "path", ["photos", "/", "/photos/", "//photos", "/a b", "/é", "/a?b", "/a//b", "/a\n"]
)
def test_a_prefix_that_is_none_is_refused(path):
    with pytest.raises(ConfigError, match="root_path begins with a slash and does not end with one"):
        ServeOptions(root_path=path)


# whom a proxy forwards for


def proxied(tmp_path, address="127.0.0.1", **options):
    """A client of what uvicorn would serve: the application behind its proxy headers, if they are on."""
    chosen = ServeOptions(**options)
    app = build_app(chosen, uri=tmp_path / "milvus.db", model_name="colour")
    config: Config = server_config(app, chosen)
    config.load()
    return TestClient(config.loaded_app, base_url="http://127.0.0.1:8000", client=(address, 4711))


def test_what_is_said_of_other_clients_is_believed_of_proxies_only(tmp_path, caplog):
    caplog.set_level("INFO")
    said = {"X-Forwarded-For": "198.51.100.7", "X-API-Key": KEY}
    for proxies, address, client in (
        ("", "127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8", "127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8", "10.1.2.3", "198.51.100.7"),
        ("127.0.0.1, 10.0.0.0/8", "127.0.0.1", "198.51.100.7"),
        ("*", "192.0.2.1", "198.51.100.7"),
    ):
        http = proxied(tmp_path, address, forwarded_allow_ips=proxies, api_key=KEY)
        assert http.get("/nothing", headers=said).status_code == 404
        assert caplog.records[-1].client == client


def test_without_a_key_nobody_becomes_this_machine_by_a_header(tmp_path):
    claimed = {"X-Forwarded-For": "127.0.0.1"}
    for proxies in ("", "10.0.0.0/8"):
        http = proxied(tmp_path, "203.0.113.9", forwarded_allow_ips=proxies)
        assert problem(http.get("/nothing", headers=claimed), 401, "unauthorized")
    http = proxied(tmp_path, forwarded_allow_ips="127.0.0.1")
    for others in ("203.0.113.9", "127.0.0.1, 203.0.113.9"):  # a proxy adds whom it sees at the end
        assert problem(http.get("/nothing", headers={"X-Forwarded-For": others}), 401, "unauthorized")
    with pytest.raises(ConfigError, match=r"without a key, forwarded_allow_ips cannot be '\*'"):
        ServeOptions(forwarded_allow_ips="*")


def test_a_variable_of_the_server_makes_no_proxy_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    http = proxied(tmp_path, "203.0.113.9")
    assert problem(http.get("/nothing", headers={"X-Forwarded-For": "127.0.0.1"}), 401, "unauthorized")


# compressed answers


def test_json_is_compressed_for_who_takes_it(http, pictures):
    insert(http, source="pictures")
    body = {"text": "red", "limit": 100}
    packed, plain = (http.post("/v1/search", json=body, headers=one) for one in ({}, RAW))
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json()["results"][0]["hits"] == plain.json()["results"][0]["hits"]
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    for answer in (packed, plain):
        assert "accept-encoding" in answer.headers["vary"].lower()
    assert "content-encoding" not in http.get("/healthz").headers


def test_what_has_a_tag_or_a_range_is_sent_as_it_is(http, pictures):
    insert(http, source="pictures")
    links = search(http, text="red", limit=1)[0]["links"]
    content = (pictures / "red.png").read_bytes()
    for path in (links["file"], links["thumbnail"], "/static-offline-docs/swagger-ui-bundle.js",
                 "/static-offline-docs/swagger-ui.css", "/static-offline-docs/favicon.png"):  # fmt: skip
        packed, plain = (http.get(path, headers=one) for one in ({"Accept-Encoding": "gzip"}, RAW))
        assert packed.headers["etag"] == plain.headers["etag"]
        assert "content-encoding" not in packed.headers, path
        assert packed.content == plain.content
        known = {"If-None-Match": packed.headers["etag"], "Accept-Encoding": "gzip"}
        assert http.get(path, headers=known).status_code == 304
    part = http.get(links["file"], headers={"Range": "bytes=10-19", "Accept-Encoding": "gzip"})
    assert (part.status_code, part.content) == (206, content[10:20])


def test_nothing_with_a_strong_tag_is_compressed(http, pictures):
    """Of every path that is there, pages of the docs included."""
    insert(http, source="pictures")
    image = search(http, text="red", limit=1)[0]["id"]
    paths = [path.replace("{id}", image) for path, one in http.app.openapi()["paths"].items() if "get" in one]
    tried = 0
    for path in [*paths, "/docs", "/openapi.json", "/static-offline-docs/swagger-ui-bundle.js"]:
        headers = http.get(path, headers={"Accept-Encoding": "gzip"}).headers
        assert not ("etag" in headers and "content-encoding" in headers), path
        tried += "content-encoding" in headers
    assert tried >= 2  # /metrics, /openapi.json


def test_head_tells_the_length_of_what_get_sends(http):
    with http.stream("GET", "/openapi.json") as get:
        sent = b"".join(get.iter_raw())
    head = http.head("/openapi.json")
    assert int(head.headers["content-length"]) == len(sent) < len(gzip.decompress(sent))
