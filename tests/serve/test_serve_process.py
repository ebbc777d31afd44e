"""``t2i serve`` as a process: it starts, is told to end, and outlives its database's absence."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from serving import names, problem, search, serving, wait_until

import t2i_pipelines
from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.collection import open_collection
from t2i_pipelines.errors import ConfigError, MissingExtraError
from t2i_pipelines.serve import ServeOptions, app, serve

pytest_plugins = ["milvus_backends"]

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "data" / "gallery"
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
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
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
    pictures = [path for path in GALLERY.iterdir() if path.suffix != ".md"]
    assert open_collection(tmp_path / "milvus.db").count() == len(pictures)


def in_flight(http):
    (found,) = re.findall(r"^t2i_requests_in_flight (.*)$", http.get("/metrics").text, re.MULTILINE)
    return float(found)


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
        app.listening(ServeOptions(port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_without_the_extra_one_sentence_names_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("t2i_pipelines.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(t2i_pipelines.serve, "app", raising=False)
    monkeypatch.delattr(t2i_pipelines.serve, "run", raising=False)
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
    command = [sys.executable, "-m", "benchmarks.serve", "--soak", "0.7"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("words", "picture", "page", "thumbnail", "insert", "wrong"):
        assert re.search(rf"^{kind}: \d", done.stdout, re.MULTILINE)
    assert "missed" not in done.stdout
