"""The four engines that the store is tested on, started without Docker.

``milvus_backend`` is a :class:`Backend`: a database in memory, Milvus Lite in process, ``milvus-lite
server`` over http, and a real server (marked ``milvus``; it comes as the wheel ``milvus`` and asks for a
token here). ``milvus_itself`` is each of them but the first, for what pymilvus takes part in.
"""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from pymilvus import MilvusClient
from stored import emptied, made

from t2i_pipelines.collection import Collection, close, open_collection
from t2i_pipelines.collection.connection import CHANNEL, INSIDE
from t2i_pipelines.testing import forget_memory

# The wheel's server keeps these to itself: one instance a machine.
SERVER_PORTS = (19530, 2380, 53100)
SERVER_TOKEN = "root:Milvus"  # what a new server knows
PATIENCE = 300.0  # seconds
STARTS = 3  # that a real server gets


@dataclass(frozen=True)
class Backend:
    """Where a test finds Milvus.

    :ivar uri: of the database.
    :ivar token: that it wants.
    :ivar pid: of ``milvus-lite server``, 0 for the others.
    :ivar pids: of the real server's processes, one after the other.
    :ivar restart: kills the real server and starts it anew on the same data.
    :ivar revive: starts the real server anew, without any data, if it does not answer.
    """

    name: str
    uri: str
    token: str = ""
    pid: int = 0
    pids: tuple[int, ...] | list[int] = ()
    restart: Callable[[], None] | None = None
    revive: Callable[[], None] | None = None

    def open(self, collection_name: str = "contract", **settings: object) -> Collection:
        return open_collection(self.uri, self.token, collection_name, **settings)

    def client(self) -> MilvusClient:
        """pymilvus's own, on a channel that sends no pings: ``milvus-lite server`` would hang up."""
        options = CHANNEL | INSIDE
        return MilvusClient(uri=self.uri, token=self.token, dedicated=True, grpc_options=options)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def is_free(port: int) -> bool:
    """Whether a server can listen there; connections that a killed one left do not matter."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
            sock.listen()
        except OSError:
            return False
    return True


def wait_until(condition, what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} took more than {seconds:g} s")
        time.sleep(0.05)


def start_lite_server(data_dir: Path, port: int) -> subprocess.Popen:
    """``milvus-lite server``, accepting connections. End it with ``stop``."""
    command = [sys.executable, "-m", "milvus_lite", "server"]
    options = ["--data-dir", str(data_dir), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command + options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: answers(port) or process.poll() is not None, "milvus-lite server")
    assert process.poll() is None, f"milvus-lite server ended with {process.returncode}"
    return process


def stop(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
    process.kill()
    process.wait(timeout=PATIENCE)


@pytest.fixture
def dead_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    return free_port()


@pytest.fixture
def lite_servers():
    """``start(data_dir, port)`` and ``stop(process)``, for tests that mistreat a server."""
    running = []

    def start(data_dir, port):
        running.append(start_lite_server(data_dir, port))
        return running[-1]

    yield SimpleNamespace(start=start, stop=stop)
    for process in running:
        stop(process)


@pytest.fixture(scope="session")
def lite_server_backend(tmp_path_factory):
    port = free_port()
    process = start_lite_server(tmp_path_factory.mktemp("lite") / "server.db", port)
    backend = Backend("lite-server", f"http://127.0.0.1:{port}", pid=process.pid)
    yield backend
    close(backend.uri)
    stop(process)


# Runs the server as its own child until its standard input ends, so that the server goes even if the
# tests are killed. MilvusServer.start() would wait by itself, without bound. To a port that a killed
# server's connections still hold, the wheel would prefer the next one, where nobody looks for the server.
_KEEPER = """
import socket, sys
from milvus import MilvusServer, MilvusServerConfig

class Config(MilvusServerConfig):
    def try_bind_port(self, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            sock.close()
            return None
        return sock

server = None
def kill():
    if server is not None:
        server.server_proc.kill()
        server.server_proc.wait()

for line in sys.stdin:
    order = line.strip()
    if order == "kill":
        kill()
    elif order == "start":
        config = Config(data_dir=sys.argv[1])
        config.set("common.security.authorizationEnabled", "true")
        server = MilvusServer(config, wait_for_started=False)
        server.start()
    code = server.server_proc.poll()
    print(server.listen_port, server.server_proc.pid, "runs" if code is None else code, flush=True)
kill()
"""


@contextlib.contextmanager
def one_server_a_machine():
    """Wait for other test runs on this machine to be done with the ports."""
    handle = os.open(tempfile.gettempdir(), os.O_RDONLY)  # a directory can be locked like a file
    try:
        wait_until(lambda: _try_lock(handle), "another test run with the Milvus server", 900)
        wait_until(
            lambda: all(map(is_free, SERVER_PORTS)),
            f"waiting for something else to leave one of the ports {SERVER_PORTS}",
            60,
        )
        yield
    finally:
        os.close(handle)


def _try_lock(handle) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def a_server(data_dir: Path | None = None):
    """The wheel's server as a :class:`Backend`, with its data in a folder that is deleted afterwards."""
    data_dir = data_dir or Path(tempfile.mkdtemp(prefix="t2i-milvus-"))
    with one_server_a_machine():
        keeper = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a signal to the tests must not end it before its server
        )
        pids = []

        def ask(order: str) -> list[str]:
            keeper.stdin.write(f"{order}\n")
            keeper.stdin.flush()
            return keeper.stdout.readline().split()

        def start() -> None:
            ended = []
            for _ in range(STARTS):
                wait_until(lambda: all(map(is_free, SERVER_PORTS)), f"leaving {SERVER_PORTS}", 120)
                port, pid, _state = ask("start")
                pids.append(int(pid))
                end = time.monotonic() + PATIENCE / 2
                while port == str(SERVER_PORTS[0]) and ask("tell")[2] == "runs" and time.monotonic() < end:
                    if _is_ready(backend):
                        return
                    time.sleep(0.2)
                ended.append(f"port {port}: {ask('tell')[2]}, {_tail(data_dir)}")
                ask("kill")
            pytest.fail("the Milvus server does not start:\n" + "\n".join(ended))

        def restart() -> None:
            ask("kill")
            start()

        def revive() -> None:
            if not _is_ready(backend):
                ask("kill")
                shutil.rmtree(data_dir / "data", ignore_errors=True)
                start()

        uri = f"http://127.0.0.1:{SERVER_PORTS[0]}"
        backend = Backend("server", uri, SERVER_TOKEN, pids=pids, restart=restart, revive=revive)
        try:
            start()
            yield backend
            close(backend.uri)
        finally:
            keeper.communicate(timeout=PATIENCE)
            wait_until(lambda: all(map(is_free, SERVER_PORTS)), "the Milvus server's end", 60)
            shutil.rmtree(data_dir, ignore_errors=True)
            for pid in pids:
                Path(f"/tmp/milvus/server_id_{pid}").unlink(missing_ok=True)  # hard-coded in the server


@pytest.fixture(scope="session")
def milvus_server_backend():
    if importlib.util.find_spec("milvus") is None:
        pytest.skip("the wheel `milvus`, a real server, is not there for this platform")
    with a_server() as backend:
        yield backend


def _tail(data_dir: Path) -> str:
    """The last that a real server wrote."""
    logs = sorted((data_dir / "logs").glob("milvus-std*.log"))
    return " ".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


def _is_ready(backend: Backend) -> bool:
    from t2i_pipelines.errors import StoreError

    if not answers(int(backend.uri.rpartition(":")[2])):
        return False
    try:
        backend.open("not_there").space()
    except StoreError:
        return False
    return True


@pytest.fixture(scope="session")
def lite_backend(tmp_path_factory):
    backend = Backend("lite", str(tmp_path_factory.mktemp("lite") / "local.db"))
    yield backend
    close(backend.uri)


@pytest.fixture(scope="session")
def memory_backend():
    backend = Backend("memory", "memory://contract")
    yield backend
    forget_memory(backend.uri)


MILVUS = (
    "lite_backend",
    "lite_server_backend",
    pytest.param("milvus_server_backend", marks=[pytest.mark.milvus, pytest.mark.xdist_group("milvus")]),
)


@pytest.fixture(
    scope="session", params=("memory_backend", *MILVUS), ids=lambda name: name.removesuffix("_backend")
)
def milvus_backend(request):
    """Each engine in turn; started when the first test asks for it, ended after the last."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def prepared(request, milvus_backend):
    """One collection for a whole module: making one takes a server three seconds."""
    with made(milvus_backend.open(request.module.__name__.removeprefix("test_collection_"))) as collection:
        yield collection


@pytest.fixture
def store(prepared):
    """The collection, empty."""
    return emptied(prepared)


@pytest.fixture(scope="session", params=MILVUS, ids=lambda name: name.removesuffix("_backend"))
def milvus_itself(request):
    """Each engine that pymilvus can connect to."""
    return request.getfixturevalue(request.param)
