"""A Ray of two worker processes' cores for the tests of a module, and its processes."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parent
OPTIONS = {
    "address": "local",
    "num_cpus": 2,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "error",
    "object_store_memory": 200 << 20,
}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray runs in this process; it is gone when the module has ended."""
    import ray

    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket may have 107 characters
    kept = os.environ.copy()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray.init(**OPTIONS, _temp_dir=place)
        before = processes(place)
        assert before
        yield
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(kept)
        gone(place)
        shutil.rmtree(place, ignore_errors=True)


def processes(place: str) -> list[psutil.Process]:
    """Those of the Ray whose temporary folder is ``place``: raylet, GCS and so on."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if any(place in word for word in one.info["cmdline"] or ()):
            found.append(one)
    return found


def gone(place: str, seconds: float = 60) -> None:
    """Wait until the processes of a Ray have ended."""
    end = time.monotonic() + seconds
    while left := processes(place):
        assert time.monotonic() < end, f"Ray left {left}"
        time.sleep(0.2)


def workers(title: str) -> list[psutil.Process]:
    """Ray's worker processes below this one that are busy with, or actors for, a function or a class."""
    return [
        one
        for one in psutil.Process().children(recursive=True)
        if one.is_running() and title in " ".join(_command(one)) and _command(one)[0].startswith("ray::")
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:
        return [""]


def kill_one(title: str) -> int:
    """Kill a worker process; its number."""
    found = workers(title)
    assert found, f"no process of {title}"
    found[0].send_signal(signal.SIGKILL)
    return found[0].pid
