"""``t2i insert --ray`` as a process of its own: what it shows, how it ends, and what an end leaves behind."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from conftest import paint
from ray_processes import gone, processes

from t2i_pipelines import close
from t2i_pipelines.collection import open_collection

pytest_plugins = ["milvus_backends"]
pytestmark = pytest.mark.slow

PICTURES = 200

TELLING = """
    import sys, time
    import t2i_command
    from t2i_pipelines import InsertReport
    from t2i_pipelines.encoders import register_encoder
    from t2i_pipelines.testing import ColourEncoder

    seconds = float(sys.argv.pop(1))

    class Slow(ColourEncoder):
        def encode_images(self, images):
            time.sleep(seconds)
            return super().encode_images(images)

    register_encoder("colour", lambda *_: Slow())
    add = InsertReport.add
    InsertReport.add = lambda self, one: (print(one.id, one.status, flush=True), add(self, one))
    t2i_command.main()
"""


@pytest.fixture
def place(monkeypatch):
    """Ray's own folder, short since it holds sockets."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    gone(folder)
    shutil.rmtree(folder, ignore_errors=True)


def command(folder: Path, uri: str, pause: float) -> list[str]:
    settings = ["--ray", "--uri", uri, "--model-name", "colour", "--batch-size", "5"]
    return [sys.executable, "-c", textwrap.dedent(TELLING), str(pause), "insert", str(folder), *settings]


def stored(uri: str) -> list[str]:
    rows = [row["id"] for page in open_collection(uri).scan(["path"]) for row in page]
    close()
    return sorted(rows)


def test_a_run_that_is_ended_loses_nothing_and_leaves_no_process(tmp_path, place, lite_server_backend):
    """At first by Ctrl-C, then by SIGKILL, which nobody can answer."""
    uri = lite_server_backend.uri
    folder = tmp_path / "pictures"
    for n in range(PICTURES):
        paint(folder / f"{n:03}.png", (n + 5, 250 - n, 128))
    told: set[str] = set()
    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command(folder, uri, 0.1), **pipes, text=True) as process:
            lines = []
            while sum(line.endswith(" inserted\n") for line in lines) < 30:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            assert processes(place)
            process.send_signal(how)
            more, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        if how == signal.SIGINT:
            assert "interrupted; so far " in err
        gone(place)
        told |= {line.split()[0] for line in [*lines, *more.splitlines(True)] if line.endswith(" inserted\n")}
        kept = stored(uri)
        assert told <= set(kept)
        assert len(kept) == len(set(kept)) < PICTURES, "the end came too late to prove anything"
    done = subprocess.run(
        command(folder, uri, 0), check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(stored(uri)) == len(set(stored(uri))) == PICTURES
    shown = [line for line in done.stderr.splitlines() if line]
    assert len(shown) == 2, done.stderr
    summary, budget = shown
    assert summary.startswith(f"{PICTURES} images: ")
    unchanged = int(re.search(r"inserted, (\d+) unchanged, 0 failed", summary)[1])
    assert len(kept) <= unchanged < PICTURES  # the server may store a batch after its sender was killed
    assert budget.startswith(f"{PICTURES} images in ")
    gone(place)
