"""A Ray on two cores for the tests of a module."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_processes import gone, processes
from tenacity import retry, retry_if_exception_message, stop_after_attempt

TESTS = Path(__file__).parent
OPTIONS = {
    "address": "local",
    "num_cpus": 2,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "error",
    "object_store_memory": 200 << 20,
}


@retry(
    retry=retry_if_exception_message(match="The current node timed out during startup"),
    stop=stop_after_attempt(3),
    reraise=True,
)
def _start(place: str) -> None:
    """Start Ray. It gives its own processes 30 seconds, which a busy machine may need more of."""
    import ray

    ray.shutdown()
    ray.init(**OPTIONS, _temp_dir=place)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray runs in this process; it is gone when the module has ended."""
    import ray

    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket may have 107 characters
    kept = os.environ.copy()
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, [TESTS.parent, TESTS, TESTS / "jobs"]))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        _start(place)
        before = processes(place)
        assert before
        yield
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(kept)
        gone(place)
        shutil.rmtree(place, ignore_errors=True)
