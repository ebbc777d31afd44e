"""``t2i serve`` as a process: it starts, is told to end, and outlives its database's absence."""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from conftest import memory_uri
from serving import names, problem, search, serving, wait_until

import t2i_pipelines
from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.collection import open_collection
from t2i_pipelines.errors import ConfigError, MissingExtraError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.serve import ServeOptions, app, serve
from t2i_pipelines.serve import server as server_module
from t2i_pipelines.serve import service as service_module

pytest_plugins = ["milvus_backends"]

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "data" / "gallery"
PICTURES = [path for path in GALLERY.iterdir() if path.suffix != ".md"]
KEY = "correct horse battery staple"


@contextmanager
def t2i_serve(tmp_path, *options, **environment):
    """The process, when it answers, and a client; its output is in ``tmp_path/log``."""
    log = tmp_path / "log"
    command = [sys.executable, str(ROOT / "t2i_command.py"), "serve", "--uri", str(tmp_path / "milvus.db")]
    command += ["--model-name", "t2i_mini", "--port", "0", "--root", f"photos={GALLERY}", *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=tmp_path,
            # as a notebook's kernel sets it; the log stays plain in a pipe or a file
            env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", **environment},
        )  # fmt: skip
    try:
        found = []
        wait_until(lambda: port_in(log, found) or process.poll() is not None, "t2i serve")
        assert process.poll() is None, log.read_text()
        with httpx2.Client(base_url=f"http://127.0.0.1:{found[0]}", timeout=120) as http:
            if KEY in environment.values():
                http.headers["Authorization"] = f"Bearer {KEY}"
            wait_until(lambda: is_ready(http), "getting ready")
            yield process, http
    finally:
        process.kill()
        process.wait()


def port_in(log, found):
    said = re.search(r"serving on http://[\d.]+:(\d+)", log.read_text())
    found[:] = [int(said[1])] if said else []
    return bool(found)


def is_ready(http):
    try:
        return http.get("/readyz").status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_was_accepted_is_finished_after_sigterm(tmp_path, told, code):
    with t2i_serve(tmp_path) as (process, http):
        job = http.post("/v1/insert", json={"source": "photos"})
        assert job.status_code == 202
        answers = []

        def ask(n):
            answers.append(http.post("/v1/search", json={"text": f"a dog and {n} balls"}).status_code)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        wait_until(lambda: in_flight(http) > 1 or len(answers) == 20, "searches", 60)
        process.send_signal(told)
        for thread in threads:
            thread.join(120)
        assert answers == [200] * 20
        assert process.wait(120) == code
        with pytest.raises(httpx2.ConnectError):
            http.get("/healthz")
    assert open_collection(tmp_path / "milvus.db").count() == len(PICTURES)


def in_flight(http):
    (found,) = re.findall(r"^t2i_requests_in_flight (.*)$", http.get("/metrics").text, re.MULTILINE)
    return float(found)


@pytest.mark.slow
def test_inserts_of_a_process_that_was_killed_are_interrupted_and_go_on_when_sent_again(tmp_path):
    bad = [("image", (f"{n}.png", b"no image")) for n in range(900)]
    with t2i_serve(tmp_path, "--uploads", "kept", "--batch-size", "1") as (process, http):
        image = (GALLERY / "011-sailboat.webp").read_bytes()
        first = http.post("/v1/insert", files={"image": ("boat.webp", image)}).json()["id"]
        wait_until(lambda: http.get(f"/v1/jobs/{first}").json()["finished"], "the upload", 120)
        running = http.post("/v1/insert", json={"source": "photos"}, headers={"Idempotency-Key": "a"}).json()[
            "id"
        ]
        waiting = http.post("/v1/insert", files=bad).json()["id"]
        wait_until(lambda: http.get(f"/v1/jobs/{running}").json()["status"] == "running", "the insert", 120)
        process.kill()
        process.wait()
    with t2i_serve(tmp_path, "--uploads", "kept") as (process, http):
        found = {one["id"]: one for one in http.get("/v1/jobs").json()["jobs"]}
        assert {id: one["status"] for id, one in found.items()} == {
            waiting: "interrupted", running: "interrupted", first: "done"
        }  # fmt: skip
        assert found[running]["error"]["code"] == "interrupted"
        assert found[waiting]["counts"] == {}
        assert list((tmp_path / "kept" / ".incoming").iterdir()) == []
        again = {"json": {"source": "photos"}, "headers": {"Idempotency-Key": "a"}}
        assert http.post("/v1/insert", **again).json()["id"] == running
        again["headers"] = {"Idempotency-Key": "b"}
        job = http.post("/v1/insert", **again).json()["id"]
        wait_until(lambda: http.get(f"/v1/jobs/{job}").json()["finished"], "the rest", 120)
        counts = http.get(f"/v1/jobs/{job}").json()["counts"]
        assert counts.get("unchanged", 0) >= found[running]["counts"].get("inserted", 0)
        assert sum(counts.values()) == len(PICTURES)
        (hit,) = http.post("/v1/search", json={"text": "a boat", "filter": "filename == 'boat.webp'"}).json()[
            "results"
        ][0]["hits"]
        assert http.get(hit["links"]["file"]).content == image
        assert http.post("/v1/insert", files={"image": ("boat.webp", image)}).status_code == 202
        process.terminate()
        assert process.wait(120) == 0
    with t2i_serve(tmp_path, "--uploads", "kept") as (process, http):
        upload, *_ = http.get("/v1/jobs").json()["jobs"]  # it was finished before the end
        assert (upload["status"], upload["counts"]) == ("done", {"unchanged": 1})


@pytest.mark.slow
def test_a_second_service_with_the_same_jobs_is_one_line_and_exit_code_2(tmp_path):
    with t2i_serve(tmp_path):
        command = [sys.executable, str(ROOT / "t2i_command.py"), "serve", "--port", "0"]
        command += ["--uri", str(tmp_path / "milvus.db"), "--model-name", "t2i_mini"]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 2
    assert "another service uses it; choose a folder of its own by --state" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_takes_too_long_is_given_up_with_exit_code_1(tmp_path):
    with t2i_serve(tmp_path, "--drain", "0.01") as (process, http):
        for _ in range(3):
            assert http.post("/v1/insert", json={"source": "photos", "refresh": True}).status_code == 202
        process.terminate()
        assert process.wait(60) == 1
    assert re.search(r"inserts were not finished within 0\.01 s", (tmp_path / "log").read_text())


@pytest.mark.slow
def test_options_and_the_key_come_from_the_environment(tmp_path):
    with t2i_serve(tmp_path, T2I_HOST="0.0.0.0", T2I_API_KEY=KEY, T2I_READ_ONLY="true") as (process, http):
        assert problem(http.post("/v1/insert", json={"source": "photos"}), 403, "read_only")
        http.headers["Authorization"] = f"Bearer {KEY}x"
        assert problem(http.get("/metrics"), 401, "unauthorized")
        process.terminate()
        assert process.wait(60) == 0
    assert KEY not in (tmp_path / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "error: listening on '0.0.0.0' lets others in: set T2I_API_KEY"),
        (["--root", "nothing/here"], "error: a root must be a folder that is there, got 'nothing/here'"),
        (["--model-name", "nobody"], "error: unknown model 'nobody'"),
        (["--max-page", "0"], "error: max_page must be between 1 and"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(tmp_path, options, said):
    command = [sys.executable, str(ROOT / "t2i_command.py"), "serve", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("T2I_API_KEY", None)
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"
        ):
            serve(ServeOptions(port=port), uri=tmp_path / "milvus.db", model_name="colour")


def test_answers_do_not_wait_to_be_acknowledged():
    with (
        server_module.listening(ServeOptions(port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@contextmanager
def running(tmp_path, **options):
    """The service on a port, in a thread."""
    chosen = ServeOptions(port=0, **options)
    made = app.make(chosen, {"uri": memory_uri(tmp_path), "model_name": "colour"})
    with server_module.listening(chosen) as listener:
        server = server_module.Server(server_module.server_config(made, chosen), made.state.service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, "the server", 60)
            wait_until(lambda: made.state.service.is_warm, "the model", 60)
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def connect(port, sent=b"", **more):
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(sent)
    return connection


def received(connection):
    """Read until the server ends the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALVES = {
    "nothing": b"",
    "half a head": GET[:-2],
    "half a second head": GET + GET[:-2],
    "half a body that is not read": GET[:-2] + b"Content-Length: 1000\r\n\r\nx",
    "a trailer that does not end": GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
}


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_a_connection_that_sends_half_a_request_is_closed(tmp_path, monkeypatch, sent):
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server_module, "KEEP_ALIVE", 0.2)
    with running(tmp_path) as (port, _), connect(port, sent) as connection:
        assert received(connection).count(b"200 OK") == sent.count(b"\r\n\r\n")


def test_a_connection_that_goes_on_sending_a_byte_at_a_time_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.3)
    with running(tmp_path) as (port, server), connect(port, HALVES["half a body that is not read"]) as client:

        def sends_more():
            with suppress(ConnectionError):
                client.sendall(b"x")
            return not server.server_state.connections

        wait_until(lambda: server.server_state.total_requests, "an answer", 60)
        wait_until(sends_more, "the end", 20)


LONG = {
    "a header": GET[:-2] + b"X: " + b"x" * (1 << 20),
    "headers": GET[:-2] + b"X: x\r\n" * (1 << 18),
    "a path": b"GET /" + b"x" * (1 << 20),
    "empty lines": b"\r\n" * (1 << 19),
    "requests": 1_000 * GET,
    "more requests": 20_000 * GET,
}


@pytest.mark.parametrize("sent", LONG.values(), ids=LONG)
def test_a_connection_that_sends_without_end_is_closed(tmp_path, monkeypatch, sent):
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 600)
    with running(tmp_path) as (port, server), connect(port) as connection:
        with suppress(ConnectionError):
            connection.sendall(sent)
        assert received(connection).count(b"200 OK") <= server_module.PIPELINED
        assert server.server_state.total_requests <= server_module.PIPELINED


def answered(connection):
    connection.sendall(GET)
    said = b""
    while not said.endswith(b'{"status":"ok"}') and (part := connection.recv(1 << 16)):
        said += part
    return b"200 OK" in said


def test_where_there_are_too_many_connections_the_one_idle_longest_gives_way(tmp_path):
    with running(tmp_path, max_connections=3) as (port, server), ExitStack() as opened:
        first, half = (opened.enter_context(connect(port, sent)) for sent in (b"", GET[:-2]))
        wait_until(lambda: len(server.server_state.connections) == 2, "both connections", 60)
        assert answered(first)  # it was the first to come, and is no longer the one idle longest
        others = [opened.enter_context(connect(port)) for _ in range(2)]
        assert all(answered(one) for one in others)
        assert received(half) == b""
        assert answered(first)
        assert len(server.server_state.connections) == 3


def test_a_client_that_does_not_read_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "WRITE_SECONDS", 0.3)
    with running(tmp_path) as (port, server), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(GET.replace(b"/healthz", b"/static-offline-docs/swagger-ui-bundle.js") * 8)
        wait_until(lambda: server.server_state.connections, "the connection", 60)
        wait_until(lambda: not server.server_state.connections, "its end", 60)


def test_the_end_does_not_wait_for_a_client_that_does_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "WRITE_SECONDS", 600)
    with socket.socket() as connection, running(tmp_path, drain=0.5) as (port, server):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(GET.replace(b"/healthz", b"/static-offline-docs/swagger-ui-bundle.js") * 8)
        open_ones = server.server_state.connections
        wait_until(lambda: any(one.flow.write_paused for one in open_ones), "an answer that waits", 60)


def test_queries_of_clients_that_have_gone_are_not_searched_for(tmp_path, monkeypatch):
    inside, go, embedded = threading.Semaphore(0), threading.Event(), []
    with running(tmp_path) as (port, server):
        service = server.service
        monkeypatch.setattr(service, "_searcher", SimpleNamespace(
            embed=lambda queries: (inside.release(), go.wait(60), embedded.extend(queries), queries)[3],
            find=lambda vectors, queries, **options: [Hits(query=query) for query in queries],
        ))  # fmt: skip
        clients = {name: connect(port, ask(name)) for name in ("stays",)}
        assert inside.acquire(timeout=60)
        clients |= {name: connect(port, ask(name)) for name in ("goes", "goes too", "stays too")}
        in_flight = service.metrics.in_flight._value.get
        wait_until(lambda: in_flight() == 4, "the requests", 60)
        clients.pop("goes").close()
        clients.pop("goes too").close()
        wait_until(lambda: in_flight() == 2, "that two have gone", 60)
        go.set()
        for client in clients.values():
            assert b"200 OK" in client.recv(1 << 16)
            client.close()
        assert embedded == ["stays", "stays too"]
        assert 'code="bad_request"} 2.0' in service.metrics.text().decode()


def ask(text):
    body = f'{{"text": "{text}"}}'.encode()
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def test_the_files_that_may_be_open_limit_connections(monkeypatch):
    options, made = ServeOptions(max_connections=1000), app.FastAPI()
    for allowed, limit in (((128, 4096), 65), ((1 << 20, 1 << 20), 1001), ((-1, -1), 1001)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, allowed=allowed: allowed)
        assert server_module.server_config(made, options).limit_concurrency == limit
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert server_module.server_config(made, options).limit_concurrency == 1001


def test_the_end_waits_for_inserts_from_its_beginning_on(tmp_path, monkeypatch):
    made = {"uri": memory_uri(tmp_path), "model_name": "colour"}
    service = app.make(ServeOptions(drain=10), made).state.service
    waited = []
    monkeypatch.setattr(service.jobs, "drain", lambda seconds: waited.append(seconds) or 0)
    monkeypatch.setattr(service_module, "time", SimpleNamespace(monotonic=iter([100.0, 107.0]).__next__))
    service.begin_end()
    asyncio.run(service.stop())
    assert waited == [3.0]


def test_without_the_extra_one_sentence_names_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("t2i_pipelines.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(t2i_pipelines.serve, "app", raising=False)
    monkeypatch.delattr(t2i_pipelines.serve, "server", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for begin in (t2i_pipelines.serve.build_app, serve):
        with pytest.raises(
            MissingExtraError, match=r"is not installed; run: pip install 't2i-pipelines\[serve\]'"
        ):
            begin()


@pytest.mark.slow
def test_a_server_that_dies_and_returns_is_503_and_then_recovers(tmp_path, pictures, lite_servers, dead_port):
    port = dead_port
    server = lite_servers.start(tmp_path / "data", port)
    chosen = {"uri": f"http://127.0.0.1:{port}", "timeout": 5.0}
    build_insert_pipeline(model_name="colour", **chosen)(str(pictures))
    with serving(tmp_path, roots=[pictures], settings=chosen) as http:
        wanted = names(search(http, text="red"))
        lite_servers.stop(server)
        began = time.monotonic()
        for _ in range(2):
            answer = http.post("/v1/search", json={"text": "red"})
            assert answer.json()["code"] in ("store_unavailable", "store_timeout")
            assert problem(answer, 503, answer.json()["code"])
            assert int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() - began < 60
        time.sleep(2.1)  # for so long a look at the database is believed
        assert problem(http.get("/readyz"), 503, "not_ready")
        assert http.get("/healthz").status_code == 200
        assert problem(http.delete("/v1/images/x"), 503, "store_unavailable")
        lite_servers.start(tmp_path / "data", port)
        wait_until(lambda: http.post("/v1/search", json={"text": "red"}).status_code == 200, "recovery", 60)
        assert names(search(http, text="red")) == wanted
        wait_until(lambda: http.get("/readyz").status_code == 200, "readiness", 60)


@pytest.mark.slow
def test_it_starts_without_its_database_and_is_ready_when_that_is_there(tmp_path, lite_servers, dead_port):
    port = dead_port
    with serving(tmp_path, settings={"uri": f"http://127.0.0.1:{port}", "timeout": 2.0}, ready=False) as http:
        assert http.get("/readyz").status_code == 503
        lite_servers.start(tmp_path / "data", port)
        wait_until(lambda: http.get("/readyz").status_code == 200, "readiness", 60)
        assert search(http, text="red") == []


@pytest.mark.slow
def test_a_short_soak_leaves_memory_flat(tmp_path):
    """The long one is ``python -m benchmarks.serve --soak 30``."""
    command = [sys.executable, "-m", "benchmarks.serve", "--soak", "0.7", "--lite"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("words", "image", "page", "thumbnail", "file", "insert", "upload", "job", "wrong"):
        assert re.search(rf"^{kind}: \d", done.stdout, re.MULTILINE)
    assert "missed" not in done.stdout
