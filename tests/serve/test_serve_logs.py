"""The id of a request in its answer, in problems and in the log; and the log itself."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry import trace
from serving import problem, search, serving

from t2i_pipelines.cli import serve as command
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve import ServeOptions, build_app
from t2i_pipelines.serve.logs import write_logs

KEY = "correct horse battery staple"
LOGGERS = ("", "t2i_pipelines.serve", "uvicorn")


@pytest.fixture
def http(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as client:
        yield client


@pytest.fixture
def written(request, monkeypatch):
    """What the service logs, in the format that a test is parametrised by."""
    logs = [logging.getLogger(name) for name in LOGGERS]
    before = [(log, log.level, list(log.handlers)) for log in logs]
    stream = io.StringIO()
    write_logs(logging.StreamHandler(stream), request.param)
    yield stream
    logging.captureWarnings(False)
    for log, level, handlers in before:
        log.setLevel(level)
        log.handlers[:] = handlers


def lines(stream):
    return stream.getvalue().splitlines()


def events(stream):
    return [json.loads(line) for line in lines(stream)]


as_json = pytest.mark.parametrize("written", ["json"], indirect=True)
in_both = pytest.mark.parametrize("written", ["json", "text"], indirect=True)


# ids


def test_each_answer_has_an_id_of_its_own(http):
    ids = {http.get(path).headers["x-request-id"] for path in ("/healthz", "/docs", "/nothing", "/metrics")}
    assert len(ids) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


SANE = ["x", "3f6c1e7a-9b0d-4c52", "Root=1-67891233-abcdef", "a/b+c=:@._", "x" * 128]
ODD = ["", " ", "a b", "x" * 129, "-x", "a\tb", 'a"b', "<b>", "{}", "é", "a,b", "a;b", "a\\nb", "%0a"]


@pytest.mark.parametrize("given", SANE)
def test_an_id_that_was_given_is_kept(http, given):
    answer = http.get("/nothing", headers={"X-Request-ID": given})
    assert answer.headers.get_list("x-request-id") == [given]
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ODD)
def test_an_id_that_is_long_or_odd_is_replaced(http, given):
    answer = http.get("/nothing", headers={"X-Request-ID": given.encode("latin-1")})
    (made,) = answer.headers.get_list("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert answer.json()["request_id"] == made


def test_every_problem_tells_its_id(tmp_path, monkeypatch):
    with serving(tmp_path, api_key=KEY, max_body=1000) as http:
        named = {"X-Request-ID": "mine", "X-API-Key": KEY}
        monkeypatch.setattr(http.app.state.service, "find", None)
        for status, code, answer in (
            (401, "unauthorized", http.get("/metrics", headers={"X-Request-ID": "mine"})),
            (413, "too_large", http.post("/v1/search", content=b"x" * 2000, headers=named)),
            (422, "invalid_request", http.post("/v1/search", json={}, headers=named)),
            (404, "not_found", http.get("/nothing", headers=named)),
            (500, "internal_error", http.post("/v1/search", json={"text": "red"}, headers=named)),
        ):
            assert problem(answer, status, code)
            assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine"


@as_json
def test_what_goes_wrong_is_a_problem_like_others_and_logged_once(tmp_path, monkeypatch, written):
    with serving(tmp_path) as http:
        monkeypatch.setattr(http.app.state.service, "find", None)
        answer = http.post("/v1/search", json={"text": "red"}, headers={"X-Request-ID": "mine"})
        assert problem(answer, 500, "internal_error") == "something went wrong here, and is in the log"
        assert answer.headers["x-content-type-options"] == "nosniff"
    (error,) = [one for one in events(written) if one["level"] == "ERROR"]
    assert error["request_id"] == "mine"
    assert "Traceback" in error["exc_info"]


# lines


@as_json
def test_an_event_is_a_line_of_json(http, written):
    began = datetime.now(UTC)
    search(http, text="a secret query")
    (event,) = events(written)
    assert abs(datetime.fromisoformat(event["time"]) - began) < timedelta(minutes=1)
    assert datetime.fromisoformat(event["time"]).utcoffset() == timedelta(0)
    assert (event["level"], event["logger"]) == ("INFO", "t2i_pipelines.serve.access")
    assert (event["method"], event["path"], event["route"]) == ("POST", "/v1/search", "/v1/search")
    assert (event["status"], event["client"], event["key"]) == (200, "127.0.0.1", None)
    assert event["bytes"] > 0
    assert event["seconds"] > 0
    assert re.fullmatch("[0-9a-f]{32}", event["request_id"])
    assert "secret" not in written.getvalue()


@as_json
def test_the_log_has_the_id_that_the_answer_has(http, written):
    answers = [http.get("/nothing") for _ in range(3)]
    assert [one["request_id"] for one in events(written)] == [one.headers["x-request-id"] for one in answers]
    logging.getLogger("t2i_pipelines.serve").warning("of no request")
    assert events(written)[-1]["request_id"] is None


@as_json
def test_requests_at_the_same_time_keep_their_ids(http, written):
    def ask(n):
        assert http.get(f"/nothing/{n}", headers={"X-Request-ID": f"id-{n}"}).status_code == 404

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted((one["path"], one["request_id"]) for one in events(written)) == sorted(
        (f"/nothing/{n}", f"id-{n}") for n in range(16)
    )


@in_both
def test_a_request_is_a_line_and_what_an_orchestrator_asks_is_none(http, written):
    for path in ("/healthz", "/readyz"):
        assert http.get(path).status_code == 200
        assert http.head(path).status_code == 200
    assert lines(written) == []
    http.get("/v1/images/x%20y", headers={"X-Request-ID": "mine"})
    (line,) = lines(written)
    assert "GET /v1/images/x%20y 404" in line
    assert "127.0.0.1" in line
    assert "mine" in line


@in_both
@pytest.mark.parametrize("made_up", ["\n", "\r\n", "\x1b[2J", "\u2028", "\x00", "\x85", "\ud800"])
def test_a_client_cannot_write_a_line_of_its_own(http, written, made_up):
    forged = f"x{made_up}ERROR forged"
    http.get("/v1/images/" + "".join(f"%{one:02x}" for one in forged.encode("utf-8", "surrogatepass")))
    http.post("/v1/search", json={"like": forged.replace("\ud800", "?")})
    http.request("FORGED", "/nothing")
    http.get("/nothing", headers={"User-Agent": "forged", "Referer": "forged"})
    found = lines(written)
    assert len(found) == 4
    assert not any(line.startswith("ERROR") for line in found)
    assert all(line.isprintable() for line in found)
    assert "other /nothing 405" in found[2] or "other /nothing 404" in found[2]


@in_both
def test_messages_that_repeat_what_a_client_sent_stay_in_one_line(written):
    logging.getLogger("t2i_pipelines.serve").warning("cannot read %s", "x\nERROR forged\x1b[2J\u2028y")
    (line,) = lines(written)
    assert line.isprintable()


@as_json
def test_the_log_names_the_key_and_does_not_tell_it(tmp_path, written):
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys.alice]\nsha256 = "{sha256(b"alices key").hexdigest()}"\nscopes = ["read"]\n')
    keys.chmod(0o600)
    with serving(tmp_path, api_key=KEY, keys_file=str(keys)) as http:
        for key in (KEY, "alices key", "nobodys key"):
            http.get("/metrics", headers={"X-API-Key": key})
        http.post("/v1/insert", headers={"X-API-Key": "alices key"})
    found = [(one["key"], one["status"]) for one in events(written) if "status" in one]
    assert found == [("T2I_API_KEY", 200), ("alice", 200), (None, 401), ("alice", 403)]
    for key in (KEY, "alices key", "nobodys key"):
        assert key not in written.getvalue()


@as_json
def test_a_query_of_an_address_is_not_logged(http, written):
    http.get("/v1/images/x?token=secret")
    http.head("/v1/images/x?token=secret")
    assert [one["method"] for one in events(written)] == ["GET", "HEAD"]
    assert "secret" not in written.getvalue()


@as_json
def test_a_mounted_file_is_logged_by_its_whole_path(http, written):
    http.get("/static-offline-docs/swagger-ui.css")
    assert events(written)[0]["path"] == "/static-offline-docs/swagger-ui.css"


@as_json
def test_warnings_of_others_are_json_too(written):
    logging.getLogger("some.library").warning("look out")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this goes away", FutureWarning, stacklevel=1)
    first, second = events(written)
    assert (first["logger"], first["message"]) == ("some.library", "look out")
    assert "this goes away" in second["message"]


def test_a_format_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="log_format must be one of 'text', 'json', got 'xml'"):
        command.run(roots=[], cors_origins=[], log_format="xml")


# metrics of the process


def test_the_process_is_measured(http):
    found = http.get("/metrics").text
    for name in ("python_info", "python_gc_objects_collected_total"):
        assert f"\n{name}{{" in found
    if Path("/proc/self/stat").exists():
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
            assert re.search(rf"^{name} [1-9.]", found, re.MULTILINE), name


# traces

TRACED = """
import io, json, logging, sys, tempfile
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

from serving import serving
from t2i_pipelines.serve.logs import write_logs

stream = io.StringIO()
write_logs(logging.StreamHandler(stream), "json")
with serving(Path(tempfile.mkdtemp()), **json.loads(sys.argv[1])) as http:
    stream.truncate(stream.seek(0))
    http.get("/healthz")
    http.get("/v1/images/x")
    http.post("/v1/search", json={}, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
found = [
    {"name": one.name, "route": one.attributes.get("http.route"), "trace": f"{one.context.trace_id:032x}",
     "span": f"{one.context.span_id:016x}"}
    for one in spans.get_finished_spans()
]
print(json.dumps({"spans": found, "log": [json.loads(line) for line in stream.getvalue().splitlines()]}))
"""


def run(code, *arguments, **environment):
    """What code prints in a process of its own: a tracer provider is there for good."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join((str(tests.parent), str(tests)))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def traced(options):
    """Spans and events of three requests, where a tracer provider is there already."""
    return json.loads(run(TRACED, json.dumps(options)).splitlines()[-1])


def test_each_request_is_a_span_whose_ids_the_log_has():
    found = traced({})
    routes = ["/v1/images/{id}", "/v1/search"]
    assert [one["name"] for one in found["spans"]] == ["GET " + routes[0], "POST " + routes[1]]
    assert [one["route"] for one in found["spans"]] == routes == [one["route"] for one in found["log"]]
    assert found["spans"][1]["trace"] == "a" * 32
    for span, event in zip(found["spans"], found["log"], strict=True):
        assert (event["trace_id"], event["span_id"]) == (span["trace"], span["span"])


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported, and keeps which paths were asked for."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


SENDS = """
import sys, tempfile
from pathlib import Path
from serving import serving
with serving(Path(tempfile.mkdtemp())) as http:
    http.get("/v1/images/x")
"""


@pytest.mark.parametrize("disabled", ["false", "true"])
def test_the_standard_variables_say_where_traces_are_sent(disabled):
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        run(SENDS, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SDK_DISABLED=disabled)
        server.shutdown()
        thread.join(60)
    assert ("/v1/traces" in server.asked) == (disabled == "false")


def test_without_a_variable_nothing_is_traced(tmp_path):
    with serving(tmp_path) as http:
        http.get("/nothing")
        assert not trace.get_current_span().get_span_context().is_valid
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"


def test_without_the_extra_one_sentence_names_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("t2i_pipelines.serve.logs.find_spec", lambda name: None)
    chosen = {"uri": tmp_path / "milvus.db", "model_name": "colour"}
    build_app(ServeOptions(), **chosen)
    assert caplog.text == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    build_app(ServeOptions(), **chosen)
    said = "no traces are sent: opentelemetry-sdk is not installed; run: pip install 't2i-pipelines[otel]'"
    assert said in caplog.text
