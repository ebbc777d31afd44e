"""Who is not let in, and what is too much."""

import asyncio
import base64
import json
import logging
import threading
from hashlib import sha256

import pytest
from conftest import paint
from serving import LOCAL, insert, names, problem, search, serving, wait_until

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve import ServeOptions

KEY = "correct horse battery staple"
ELSEWHERE = {"base_url": "http://service.example", "client": ("203.0.113.9", 4711)}


@pytest.fixture
def http(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as client:
        yield client


# the key


def test_without_a_key_nobody_else_can_connect():
    with pytest.raises(ConfigError, match=r"listening on '0\.0\.0\.0' lets others in: set T2I_API_KEY"):
        ServeOptions(host="0.0.0.0")
    for host in ("::", "192.0.2.1", "service.example", ""):
        with pytest.raises(ConfigError, match="lets others in"):
            ServeOptions(host=host)
        ServeOptions(host=host, api_key=KEY)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1"):
        ServeOptions(host=host)


@pytest.mark.parametrize("key", ["short", "é" * 20, "line\nbreak is no good key"])
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused(key):
    with pytest.raises(
        ConfigError, match="T2I_API_KEY must have at least 16 characters, all printable ASCII"
    ) as err:
        ServeOptions(api_key=key)
    assert key not in str(err.value)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A service that wants the key; tests ask it, and leave it as it was."""
    folder = tmp_path_factory.mktemp("locked")
    with serving(folder, roots=[folder], host="0.0.0.0", api_key=KEY, client=ELSEWHERE) as client:
        yield client


CALLS = [
    ("POST", "/v1/search"), ("POST", "/v1/insert"), ("GET", "/v1/jobs/x"), ("GET", "/v1/images/x"),
    ("DELETE", "/v1/images/x"), ("GET", "/v1/images/x/file"), ("GET", "/v1/images/x/thumbnail"),
    ("GET", "/metrics"), ("GET", "/nothing"), ("GET", "/docs/../metrics"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
     {"X-API-Key": KEY[:-1]}, {"X-API-Key": KEY + "x"}, {"X-API-Key": ""}, {"Authorization": "Bearer "}],
    ids=str,
)  # fmt: skip
def test_nothing_is_answered_without_the_key(locked, method, path, headers):
    answer = locked.request(method, path, headers=headers, json={"text": "red"} if method == "POST" else None)
    assert "a key is needed" in problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_every_route_needs_the_key_but_two(locked):
    paths = locked.app.openapi()["paths"]
    for path, methods in paths.items():
        for method in methods:
            status = locked.request(method.upper(), path.replace("{id}", "x")).status_code
            assert (status == 401) == (path not in ("/healthz", "/readyz")), path


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}]
)
def test_the_key_opens(locked, headers):
    assert locked.post("/v1/search", json={"text": "red"}, headers=headers).status_code == 200
    assert locked.get("/metrics", headers=headers).status_code == 200


class Half:
    """A request whose body never ends.

    :ivar read: how often the service asked for more of it.
    """

    def __init__(
        self, http, method, path, *, part=b"x", client=("203.0.113.9", 4711), reads=True, headers=()
    ):
        self.read, self.answer, self._part, self._reads = 0, [], part, reads
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
                 "query_string": b"",
                 "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), *headers],
                 "client": client, "http_version": "1.1", "scheme": "http",
                 "server": ("127.0.0.1", 8000), "root_path": ""}  # fmt: skip
        self.done = http.portal.start_task_soon(http.app, scope, self._receive, self._send)

    async def _receive(self):
        self.read += 1
        if self.read > 1:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": self._part, "more_body": True}

    async def _send(self, message):
        self.answer.append(message)
        if not self._reads:
            await asyncio.sleep(60)

    @property
    def status(self):
        self.done.result(60)
        return self.answer[0]["status"]


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/healthz", "/v1/search", "/v1/insert", "/x"])
def test_nothing_is_read_of_whom_has_no_key(locked, method, path):
    request = Half(locked, method, path)
    is_open = path in ("/docs", "/openapi.json", "/healthz")
    assert request.status == (401 if not is_open else 200 if method == "GET" else 405)
    assert request.read == 0


def test_nothing_is_read_of_whom_has_a_key_without_the_scope(tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys.reader]\nsha256 = "{sha256(KEY.encode()).hexdigest()}"\nscopes = ["read"]\n')
    with serving(tmp_path, host="0.0.0.0", keys_file=str(keys), client=ELSEWHERE) as http:
        request = Half(http, "POST", "/v1/insert", headers=[(b"x-api-key", KEY.encode())])
        assert (request.status, request.read) == (403, 0)


def test_who_has_no_key_and_does_not_read_takes_no_place(tmp_path):
    with serving(tmp_path, max_requests=1, host="0.0.0.0", api_key=KEY, client=ELSEWHERE) as http:
        others = [Half(http, "GET", path, reads=False) for path in ("/docs", "/openapi.json", "/readyz")]
        wait_until(lambda: all(one.answer for one in others), "their answers", 60)
        answer = http.post("/v1/search", json={"text": "red"}, headers={"X-API-Key": KEY})
        assert answer.status_code == 200
        for one in others:
            one.done.cancel()


def test_the_key_is_in_no_log_and_in_no_answer(locked, caplog):
    caplog.set_level(logging.DEBUG)
    for headers in ({"X-API-Key": KEY}, {"X-API-Key": KEY + "x"}):
        for path in ("/metrics", "/nothing", "/openapi.json", "/v1/images/x"):
            assert KEY not in locked.get(path, headers=headers).text
    assert KEY not in caplog.text
    assert KEY not in repr(locked.app.state.service.options)


# who else


@pytest.mark.parametrize(
    ("client", "status", "code"),
    [
        ({**LOCAL, "client": ("203.0.113.9", 4711)}, 401, "unauthorized"),
        ({**LOCAL, "base_url": "http://attacker.example"}, 421, "wrong_host"),
        ({**LOCAL, "base_url": "http://127.0.0.1.attacker.example"}, 421, "wrong_host"),
        ({**LOCAL, "base_url": "http://192.168.1.5:8000"}, 421, "wrong_host"),
    ],
)
def test_without_a_key_other_machines_and_other_sites_are_refused(tmp_path, client, status, code):
    """As a page of another site that makes its own name mean 127.0.0.1."""
    with serving(tmp_path, client=client, ready=False) as http:
        for path in ("/v1/images/x", "/metrics", "/healthz"):
            assert problem(http.get(path), status, code)


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://[::1]:8000", "http://127.0.0.1"])
def test_this_machine_is_let_in_by_each_of_its_names(tmp_path, url):
    with serving(tmp_path, client={**LOCAL, "base_url": url}) as http:
        assert http.get("/metrics").status_code == 200


OTHERS = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9000"},
    {"Origin": "http://127.0.0.1:8000.evil.example"}, {"Origin": ""}, {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
]  # fmt: skip
OURS = [
    {}, {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
]  # fmt: skip
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize("headers", OTHERS, ids=str)
def test_pages_of_other_sites_get_no_answer(http, headers):
    for method, path in (("POST", "/v1/search"), ("POST", "/v1/insert"), ("GET", "/v1/images/x/thumbnail"),
                         ("DELETE", "/v1/images/x"), ("GET", "/docs"), ("GET", "/healthz")):  # fmt: skip
        assert "other sites" in problem(http.request(method, path, headers=headers), 403, "other_site")


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_pages_from_here_and_programs_are_answered(http, headers):
    assert http.post("/v1/search", json={"text": "red"}, headers=headers).status_code == 200
    assert http.get("/docs", headers=headers).status_code == 200


def test_a_link_of_another_site_leads_here_and_a_form_does_not(http):
    assert http.get("/docs", headers=LINK).status_code == 200
    assert problem(http.post("/v1/search", headers=LINK), 403, "other_site")


def test_who_has_the_key_may_come_from_anywhere(locked):
    headers = {"X-API-Key": KEY, **OTHERS[0], "Sec-Fetch-Site": "cross-site"}
    assert locked.post("/v1/search", json={"text": "red"}, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/healthz", "/v1/images/x", "/nothing"])
def test_no_answer_can_be_framed_or_used_by_other_sites(http, path):
    headers = http.get(path).headers
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_form_of_another_site_changes_nothing(http):
    """Browsers send these without asking first; JSON they ask about, and are not answered."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = http.post("/v1/insert", content=b'{"source": "pictures"}', headers={"content-type": kind})
        assert answer.status_code in (403, 415)
    assert (
        "access-control-allow-origin"
        not in http.options("/v1/insert", headers={"Origin": "http://x.example"}).headers
    )
    assert search(http, text="red") == []


# how much


def test_a_request_that_is_too_large_is_413(tmp_path):
    with serving(tmp_path, max_body=1000) as http:
        body = json.dumps({"text": "x" * 2000}).encode()
        headers = {"content-type": "application/json"}
        assert problem(http.post("/v1/search", content=body, headers=headers), 413, "too_large") == (
            "a request may have 1,000 bytes at most"
        )
        pieces = (body[at : at + 100] for at in range(0, len(body), 100))  # sent without a length
        assert problem(http.post("/v1/search", content=pieces, headers=headers), 413, "too_large")
        assert problem(http.post("/v1/search", files={"image": b"x" * 2000}), 413, "too_large")
        assert http.post("/v1/search", json={"text": "x"}).status_code == 200


def test_a_long_field_name_is_cut_and_holds_nobody_up(http):
    name = "a" * 1_000_000
    answer = http.post("/v1/search", json={"text": "red", name: 1})  # read once from each letter: hours
    assert problem(answer, 422, "invalid_request").endswith(": Extra inputs are not permitted")
    assert len(answer.content) < 1000
    assert problem(http.post("/v1/insert", json={name: 1}), 422, "invalid_request")
    for more in ({"output_fields": [name]}, {"group_by": name}, {"where": {name: 1}}):
        answer = http.post("/v1/search", json={"text": "red", **more})
        assert "at most 255 characters" in problem(answer, 422, "invalid_request")
        assert len(answer.content) < 1000


DEEP = [
    ({"text": "red", "limit": 100, "offset": 3101}, "3,201 hits to look for; at most 3,200"),
    ({"queries": [{"text": "red"}] * 32, "limit": 100, "offset": 1}, "3,232 hits to look for"),
    ({"text": "red", "limit": 100, "offset": 101, "diversity": 0.5}, "201 hits that differ; at most 200"),
    ({"queries": [{"text": "red"}] * 32, "limit": 36, "diversity": 0.1}, "36 hits that differ; at most 35"),
    ({"text": "red", "limit": 100, "offset": 701, "collapse": 0.9}, "801 hits that differ; at most 800"),
]
NOT_DEEP = [
    {"text": "red", "limit": 100, "offset": 3100},
    {"queries": [{"text": "red"}] * 32, "limit": 100},
    {"text": "red", "limit": 100, "offset": 100, "diversity": 0.5},
    {"queries": [{"text": "red"}] * 32, "limit": 35, "diversity": 0.1},
    {"text": "red", "limit": 100, "offset": 700, "collapse": 0.9},
    {"queries": [{"text": "red"}] * 32, "limit": 100, "collapse": 0.9},
]


@pytest.mark.parametrize(("body", "said"), DEEP, ids=lambda one: str(one)[:30])
def test_a_request_that_looks_too_deep_is_422(http, body, said):
    assert said in problem(http.post("/v1/search", json=body), 422, "page_too_deep")


@pytest.mark.parametrize("body", NOT_DEEP, ids=lambda one: str(one)[:30])
def test_a_request_that_looks_as_deep_as_may_be_is_answered(http, body):
    assert http.post("/v1/search", json=body).status_code == 200


def test_only_the_first_mistakes_are_listed(http):
    answer = http.post("/v1/search", json={"text": "red", **{f"field{n}": n for n in range(500)}})
    assert problem(answer, 422, "invalid_request").startswith("body.field0: Extra inputs")
    assert len(answer.json()["errors"]) == 20


def test_json_of_too_many_values_is_422(http):
    where = {"year": {"op": "in", "value": list(range(10_000))}}
    answer = http.post("/v1/search", json={"text": "red", "where": where})
    assert problem(answer, 422, "query_too_long") == (
        "the JSON has 10,010 commas, colons and brackets; at most 10,000 are read"
    )
    where["year"]["value"] = list(range(9_000))
    assert search(http, text="red", where=where) == []
    answer = http.post("/v1/insert", json={"urls": [""] * 100_000})
    assert "at most 100,000 are read" in problem(answer, 422, "query_too_long")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/x+JSON", None])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/embeddings"), ("PATCH", "/v1/images/x")])
def test_values_are_counted_whatever_type_the_body_says_it_is(http, method, path, kind):
    headers = {} if kind is None else {"content-type": kind}
    body = json.dumps({"input": ["x"] * 10_000, "fields": {}})
    answer = http.request(method, path, content=body, headers=headers)
    assert "at most 10,000 are read" in problem(answer, 422, "query_too_long")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/embeddings"), ("PATCH", "/v1/images/x")])
def test_a_form_is_read_by_routes_that_take_one_only(http, method, path):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = http.request(method, path, content=b"," * 10_001, headers=headers)
    assert "at most 10,000 are read" in problem(answer, 422, "query_too_long")
    answer = http.post("/v1/search", content=b"," * 10_001, headers={"content-type": "image/png"})
    assert "not 'image/png'" in problem(answer, 415, "unsupported_media_type")


def test_each_route_has_a_limit_of_its_own(http):
    answer = http.post("/v1/insert", json={"source": "x" * (8 << 20)})
    assert problem(answer, 413, "too_large") == "a request may have 8,388,608 bytes at most"
    assert http.request("DELETE", "/v1/images/x", content=b"x" * (9 << 20)).status_code == 404  # not read


def test_a_picture_of_too_many_pixels_is_422(tmp_path, pictures):
    big = paint(pictures / "big.png", "red", (40, 30)).read_bytes()
    with serving(tmp_path, roots=[pictures], max_pixels=1000) as http:
        for answer in (
            http.post("/v1/search", json={"image": base64.b64encode(big).decode()}),
            http.post("/v1/search", files={"image": big}),
        ):
            assert "30 x 40 are 1,200 pixels" in problem(answer, 422, "unreadable_image")
        (failed,) = insert(http, source="pictures/big.png")["failed"]
        assert "more than max_pixels=1,000" in failed["reason"]


def test_an_expression_names_a_few_pictures_only(http):
    line = " + ".join(["./pictures/red.png"] * 9)
    assert "8 images at most" in problem(
        http.post("/v1/search", json={"expression": line}), 422, "invalid_query"
    )
    line = " + ".join(["./pictures/red.png"] * 8)
    insert(http, source="pictures")
    assert names(search(http, expression=line, limit=1)) == ["red"]


def test_bodies_on_their_way_are_kept_up_to_a_limit(tmp_path):
    with serving(tmp_path, max_body=1000) as http:
        held = [
            Half(http, "POST", "/v1/search", part=b"x" * 1000, client=("127.0.0.1", 1)) for _ in range(16)
        ]
        wait_until(lambda: all(one.read == 2 for one in held), "16 bodies", 60)
        answer = http.post("/v1/search", json={"text": "red"})
        assert "have 16,0" in problem(answer, 429, "too_busy")
        assert answer.headers["retry-after"] == "1"
        for one in held:
            one.done.cancel()
        wait_until(lambda: http.post("/v1/search", json={"text": "red"}).status_code == 200, "room", 60)


def test_too_many_requests_at_a_time_are_429(tmp_path, monkeypatch):
    inside, go = threading.Semaphore(0), threading.Event()
    with serving(tmp_path, max_requests=2) as http:
        service = http.app.state.service
        monkeypatch.setattr(service, "_searcher", type("Slow", (), {
            "embed": lambda self, queries: (inside.release(), go.wait(60), queries)[2],
            "find": lambda self, vectors, queries, **options: [[] for _ in queries],
        })())  # fmt: skip
        monkeypatch.setattr(service.images, "result", lambda hits: {"hits": [], "no_match": None})
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(http.post("/v1/search", json={"text": "red"}).status_code)
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert inside.acquire(timeout=60)
        wait_until(lambda: service.metrics.in_flight._value.get() == 2, "both requests", 60)
        answer = http.post("/v1/search", json={"text": "red"})
        assert "2 requests are being answered, of at most 2" in problem(answer, 429, "too_busy")
        assert answer.headers["retry-after"] == "1"
        assert http.get("/healthz").status_code == 200
        go.set()
        for thread in threads:
            thread.join(60)
        assert answers == [200, 200]
        assert http.get("/metrics").status_code == 200
