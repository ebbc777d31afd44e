"""Keys with scopes, from a file that may change; and pages of other origins."""

import hmac
import logging
import os
from hashlib import sha256

import pytest
from serving import problem, serving

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve import ServeOptions
from t2i_pipelines.serve.keys import Keys

KEY = "correct horse battery staple"
READER, WRITER, BOTH = "reads-and-no-more", "writes-and-no-more", "reads-and-writes"
SCOPES = {"reader": (READER, ["read"]), "writer": (WRITER, ["write"]), "both": (BOTH, ["read", "write"])}
ELSEWHERE = {"base_url": "http://service.example", "client": ("203.0.113.9", 4711)}


def written(path, keys=SCOPES, mode=0o600):
    """A file of keys: name -> (key, scopes)."""
    entries = (
        f'[keys.{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\nscopes = {scopes}\n'
        for name, (key, scopes) in keys.items()
    )
    path.write_text("".join(entries))
    path.chmod(mode)
    return str(path)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A service with a key of the environment and three of a file."""
    folder = tmp_path_factory.mktemp("locked")
    keys = written(folder / "keys.toml")
    options = {"roots": [folder], "host": "0.0.0.0", "api_key": KEY, "keys_file": keys}
    with serving(folder, client=ELSEWHERE, **options) as client:
        yield client


def by(key):
    return {"Authorization": f"Bearer {key}"}


def test_an_idempotency_key_is_of_the_client_that_sent_it(locked):
    def begin(key):
        headers = {**by(key), "Idempotency-Key": "1"}
        return locked.post("/v1/insert", json={"source": "locked0"}, headers=headers).json()["id"]

    first, of_both = begin(WRITER), begin(BOTH)
    assert first != of_both
    assert (begin(WRITER), begin(BOTH)) == (first, of_both)
    upload = {"files": {"image": b"no image"}, "headers": {**by(KEY), "Idempotency-Key": "1"}}
    assert "no uploads" in problem(locked.post("/v1/insert", **upload), 403, "uploads_not_allowed")


# scopes


READS = [("POST", "/v1/search"), ("GET", "/v1/jobs/x"), ("GET", "/v1/images/x"), ("GET", "/metrics"),
         ("HEAD", "/v1/images/x"), ("OPTIONS", "/v1/search"), ("GET", "/nothing")]  # fmt: skip
WRITES = [("POST", "/v1/insert"), ("DELETE", "/v1/images/x"), ("PUT", "/v1/images/x"), ("POST", "/nothing"),
          ("PATCH", "/v1/images/x"), ("POST", "/v1/images/x"), ("POST", "/v1/search/x"),
          ("PUT", "/v1/search"), ("DELETE", "/v1/search"), ("TRACE", "/v1/search"),
          ("PROPFIND", "/metrics")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), READS)
def test_what_asks_needs_the_scope_read(locked, method, path):
    refused = locked.request(method, path, headers=by(WRITER))
    assert refused.status_code == 403
    if method != "HEAD":
        said = problem(refused, 403, "scope_missing")
        assert said == "the key 'writer' has the scope write; this needs read"
    for key in (READER, BOTH, KEY):
        assert locked.request(method, path, headers=by(key)).status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_what_changes_anything_needs_the_scope_write(locked, method, path):
    said = problem(locked.request(method, path, headers=by(READER)), 403, "scope_missing")
    assert said == "the key 'reader' has the scope read; this needs write"
    for key in (WRITER, BOTH, KEY):
        assert locked.request(method, path, headers=by(key)).status_code not in (401, 403)


def test_every_route_that_changes_something_refuses_a_key_that_reads(locked):
    """Routes that are added later are in it, too."""
    for path, methods in locked.app.openapi()["paths"].items():
        for method in methods:
            url = path.replace("{id}", "x")
            status = locked.request(method.upper(), url, headers=by(READER)).status_code
            reads = method == "get" or path in ("/v1/search", "/v1/embeddings")
            assert (status == 403) != reads, (method, path)


# attacks: none of these may open


DIGEST = sha256(READER.encode()).hexdigest()
VARIANTS = {
    "nothing": {},
    "empty": {"Authorization": ""},
    "empty bearer": {"Authorization": "Bearer"},
    "empty bearer and a space": {"Authorization": "Bearer "},
    "spaces": {"Authorization": "Bearer    "},
    "no scheme": {"Authorization": KEY},
    "basic": {"Authorization": f"Basic {KEY}"},
    "token": {"Authorization": f"Token {KEY}"},
    "digest": {"Authorization": f"Digest {KEY}"},
    "no space": {"Authorization": f"Bearer{KEY}"},
    "a tab": {"Authorization": f"Bearer\t{KEY}"},
    "a colon": {"Authorization": f"Bearer: {KEY}"},
    "twice bearer": {"Authorization": f"Bearer Bearer {KEY}"},
    "a comma": {"Authorization": f"Bearer x, Bearer {KEY}"},
    "quoted": {"Authorization": f'Bearer "{KEY}"'},
    "upper case": {"Authorization": f"Bearer {KEY.upper()}"},
    "capitals": {"Authorization": f"Bearer {KEY.title()}"},
    "cut": {"Authorization": f"Bearer {KEY[:-1]}"},
    "longer": {"Authorization": f"Bearer {KEY}x"},
    "a wildcard": {"Authorization": "Bearer *"},
    "null": {"Authorization": "Bearer null"},
    "a zero byte": {"Authorization": f"Bearer {KEY}\0"},
    "wide letters": {"Authorization": b"Bearer " + KEY.replace("o", "\uff4f").encode()},
    "a soft hyphen": {"Authorization": b"Bearer " + KEY.encode() + b"\xad"},
    "not UTF-8": {"Authorization": b"Bearer \xff\xfe"},
    "very long": {"Authorization": "Bearer " + KEY * 1000},
    "the digest": {"Authorization": f"Bearer {DIGEST}"},
    "the name": {"Authorization": "Bearer reader"},
    "the variable": {"Authorization": "Bearer T2I_API_KEY"},
    "the second is right": [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")],
    "a wrong bearer and a right key": {"Authorization": "Bearer wrong", "X-API-Key": KEY},
    "a key of two halves": [("X-API-Key", KEY[:10]), ("X-API-Key", KEY[10:])],
    "bearer in X-API-Key": {"X-API-Key": f"Bearer {KEY}"},
    "another header": {"Api-Key": KEY, "X-Auth-Token": KEY, "Proxy-Authorization": f"Bearer {KEY}"},
    "an underscore": {"X_API_Key": KEY},
    "a cookie": {"Cookie": f"Authorization=Bearer {KEY}; X-API-Key={KEY}; key={KEY}"},
    "this machine": {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "Host": "127.0.0.1"},
    "another path": {"X-Original-URL": "/healthz", "X-Rewrite-URL": "/healthz"},
    "another method": {"X-HTTP-Method-Override": "OPTIONS"},
    "a preflight": {"Origin": "http://service.example", "Access-Control-Request-Method": "POST"},
}


@pytest.mark.parametrize("headers", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_no_other_way_to_say_a_key_opens(locked, method, headers):
    for path in ("/v1/search", "/metrics", "/v1/images/x"):
        assert problem(locked.request(method, path, headers=headers), 401, "unauthorized")


PATHS = ["/metrics/", "//metrics", "/./metrics", "/healthz/../metrics", "/METRICS", "/metrics%00",
         "/metrics;a", "/%6detrics", "/healthz%2f..%2fmetrics", "/v1/../metrics", "/metrics%20", "/healthzz",
         "/readyz/x", f"/metrics?key={KEY}", f"/metrics?api_key={KEY}",
         f"/metrics?access_token={KEY}"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_opens(locked, path):
    assert problem(locked.get(path, follow_redirects=False), 401, "unauthorized")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("key", [KEY, READER, BOTH])
def test_each_key_opens(locked, scheme, key):
    assert locked.get("/metrics", headers={"Authorization": f"{scheme} {key}"}).status_code == 200
    assert locked.get("/metrics", headers={"X-API-Key": key}).status_code == 200


def test_each_guess_is_compared_with_every_key_in_constant_time(locked, monkeypatch):
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or compare(*both))
    digests = {sha256(key.encode()).hexdigest().encode() for key in (KEY, READER, WRITER, BOTH)}
    for guess in ("some guess", KEY):
        compared.clear()
        locked.get("/metrics", headers=by(guess))
        assert {known for known, _ in compared} == digests
        assert {given for _, given in compared} == {sha256(guess.encode()).hexdigest().encode()}


def test_a_key_of_a_file_is_in_no_log_and_in_no_answer(locked, caplog):
    caplog.set_level(logging.DEBUG)
    for path in ("/metrics", "/nothing", "/openapi.json", "/v1/insert"):
        answer = locked.post(path, headers=by(READER))
        assert READER not in answer.text + str(answer.headers)
        assert DIGEST not in answer.text
    assert "reader" in caplog.text
    assert READER not in caplog.text
    assert DIGEST not in caplog.text


# the file


def test_a_file_of_keys_is_enough_to_listen_for_others(tmp_path):
    keys = written(tmp_path / "keys.toml")
    with serving(tmp_path, host="0.0.0.0", keys_file=keys, client=ELSEWHERE) as http:
        assert http.get("/metrics").status_code == 401
        assert http.get("/metrics", headers=by(READER)).status_code == 200


WRONG = {
    "": "keys: Field required",
    "[keys]": "keys: Dictionary should have at least 1 item",
    "keys": "is not TOML",
    "\xff": "is not TOML",
    '[keys.a]\nscopes = ["read"]': "keys.a.sha256: Field required",
    f'[keys.a]\nsha256 = "{DIGEST}"': "keys.a.scopes: Field required",
    f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []': "keys.a.scopes: Frozenset should have at least 1 item",
    f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = ["admin"]': "scopes.0: Input should be 'read' or 'write'",
    f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = ["read"]\nexpires = 1': "keys.a.expires: Extra inputs are not",
    f'[keys.a]\nsha256 = "{READER}"\nscopes = ["read"]': "keys.a.sha256: String should match pattern",
    f'[keys."a b"]\nsha256 = "{DIGEST}"\nscopes = ["read"]': "keys.a b.[key]: String should match pattern",
    f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = ["read"]\n'
    f'[keys.b]\nsha256 = "{DIGEST.upper()}"\nscopes = ["read"]': "b has the same key as a",
    f'[keys.a]\nsha256 = "{sha256(KEY.encode()).hexdigest()}"\nscopes = ["read"]': (
        "a has the same key as T2I_API_KEY"
    ),
    "# " + "x" * (1 << 20): "have more than 1,048,576 bytes",
}


@pytest.mark.parametrize(("content", "said"), WRONG.items(), ids=WRONG.values())
def test_a_file_that_is_wrong_is_refused_and_not_repeated(tmp_path, content, said):
    path = tmp_path / "keys.toml"
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as err:
        Keys(KEY, str(path))
    assert said in str(err.value)
    assert str(path) in str(err.value)
    assert READER not in str(err.value)
    assert DIGEST not in str(err.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the keys in .*none\.toml: No such file"):
        Keys("", str(tmp_path / "none.toml"))


def test_a_file_that_everyone_can_change_is_refused_and_one_that_everyone_can_read_is_told(tmp_path, caplog):
    with pytest.raises(ConfigError, match=r"everyone can change the keys in .*; run: chmod o-rwx"):
        Keys("", written(tmp_path / "keys.toml", mode=0o602))
    assert Keys("", written(tmp_path / "keys.toml", mode=0o644)).find(READER).name == "reader"
    assert "everyone can read the digests in" in caplog.text
    caplog.clear()
    assert Keys("", written(tmp_path / "keys.toml", mode=0o640)).find(READER)
    assert caplog.text == ""


class Clock:
    """Stands for the time, which passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("t2i_pipelines.serve.keys.time.monotonic", lambda: self.now)

    def passes(self):
        self.now += 1.1


def test_keys_are_added_and_revoked_while_the_service_runs(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    clock, path = Clock(monkeypatch), tmp_path / "keys.toml"
    keys = Keys(KEY, written(path, {"old": ("the old key", ["read"])}))
    os.utime(path, ns=(1, 1))
    clock.passes()
    assert keys.find("the old key").name == "old"
    written(path, {"new": ("the new key", ["write"])})
    assert keys.find("the old key")  # for a second
    clock.passes()
    assert keys.find("the old key") is None
    assert keys.find("the new key") == ("new", {"write"})
    assert keys.find(KEY).scopes == {"read", "write"}
    assert "changed; 2 keys are known" in caplog.text
    os.replace(written(tmp_path / "next.toml", {"next": ("the next key", ["read"])}), path)  # noqa: PTH105
    clock.passes()
    assert (keys.find("the new key"), keys.find("the next key").name) == (None, "next")


@pytest.mark.parametrize("fault", ["broken", "empty", "gone", "open to all"])
def test_a_file_that_breaks_keeps_the_keys_and_is_logged_once(tmp_path, monkeypatch, caplog, fault):
    clock, path = Clock(monkeypatch), tmp_path / "keys.toml"
    keys = Keys("", written(path))
    if fault == "gone":
        path.unlink()
    elif fault == "open to all":
        written(path, {"other": ("the other key", ["read"])}, mode=0o666)
    else:
        path.write_text({"broken": "[keys", "empty": ""}[fault])
    for _ in range(3):
        clock.passes()
        assert keys.find(READER).name == "reader"
        assert keys.find("the other key") is None
    assert caplog.text.count("the keys stay as they were: ") == 1
    written(path, {"other": ("the other key", ["read"])})
    clock.passes()
    assert (keys.find(READER), keys.find("the other key").name) == (None, "other")


# pages of other origins


PAGE = "https://photos.example"


def preflight(http, origin, method="POST", headers="authorization,content-type"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return http.options("/v1/search", headers={**asked, "Access-Control-Request-Headers": headers})


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossed")
    options = {"host": "0.0.0.0", "api_key": KEY, "cors_origins": [PAGE, "http://localhost:5173"]}
    with serving(folder, client=ELSEWHERE, **options) as client:
        yield client


def test_pages_of_an_allowed_origin_ask_first_without_a_key(crossed):
    answer = preflight(crossed, PAGE)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert "X-API-Key" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


OTHERS = ["https://evil.example", "null", "http://photos.example", "https://photos.example.evil.example",
          "https://photos.example:8443", "https://PHOTOS.example", "https://photos.example/",
          "*", ""]  # fmt: skip


@pytest.mark.parametrize("origin", OTHERS)
def test_pages_of_other_origins_are_not_told_that_they_may(crossed, origin):
    answer = preflight(crossed, origin)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
    answer = crossed.post("/v1/search", json={"text": "red"}, headers={**by(KEY), "Origin": origin})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_page_reads_answers_and_refusals(crossed):
    for key, status in ((KEY, 200), ("wrong", 401)):
        answer = crossed.post("/v1/search", json={"text": "red"}, headers={**by(key), "Origin": PAGE})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"


def test_a_question_that_is_no_preflight_needs_the_key(crossed):
    assert problem(crossed.options("/v1/search", headers={"Origin": PAGE}), 401, "unauthorized")
    assert problem(crossed.get("/metrics", headers={"Origin": PAGE}), 401, "unauthorized")


def test_without_a_key_an_allowed_page_is_answered_and_no_other(tmp_path):
    cross = {"Sec-Fetch-Site": "cross-site"}
    with serving(tmp_path, cors_origins=[PAGE]) as http:
        assert preflight(http, PAGE).status_code == 200
        answer = http.post("/v1/search", json={"text": "red"}, headers={"Origin": PAGE, **cross})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        for origin in OTHERS:
            assert problem(http.get("/metrics", headers={"Origin": origin, **cross}), 403, "other_site")
        assert problem(http.get("/metrics", headers=cross), 403, "other_site")  # as of an image in a page
        rebound = {"Origin": PAGE, "Host": "photos.example"}
        assert problem(http.get("/metrics", headers=rebound), 421, "wrong_host")


def test_any_origin_needs_a_key(tmp_path):
    with pytest.raises(ConfigError, match=r"without a key, cors_origins cannot be '\*'; name each one"):
        ServeOptions(cors_origins=["*"])
    with serving(tmp_path, api_key=KEY, cors_origins=["*"]) as http:
        answer = http.get("/metrics", headers={**by(KEY), "Origin": PAGE})
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origin", ["photos.example", "https://photos.example/", "https://Photos.example", "https://*.example",
               "null", "", "ftp://photos.example", "https://a.example,https://b.example"]
)  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(ConfigError, match=r"cors_origins are each a scheme, .* got"):
        ServeOptions(cors_origins=[origin])
