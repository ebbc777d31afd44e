"""Images of one colour, a database of one's own, and nothing left open."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# before numpy and torch are imported: there is a worker a core, and OpenMP's threads spin where they wait
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import hypothesis
import numpy as np
import pytest

# before huggingface_hub is imported: int8 forms that tests make stay out of the user's cache
_ASSETS = tempfile.TemporaryDirectory(prefix="t2i-assets-")
os.environ["HF_ASSETS_CACHE"] = _ASSETS.name

from browser import DESKTOP, GALLERY, Visit, browsing, serving_ui  # noqa: E402

import t2i_pipelines  # noqa: E402
import t2i_pipelines.testing  # noqa: E402
from t2i_pipelines.encoders import unload  # noqa: E402

COLOURS = {name: tuple(255 * part for part in parts) for name, parts in t2i_pipelines.testing.COLOURS.items()}


def paint(path: Path, colour: str | tuple[int, int, int], size: tuple[int, int] = (12, 16)) -> Path:
    """Write an image of one colour, given by name or as (R, G, B)."""
    rgb = COLOURS[colour] if isinstance(colour, str) else colour
    path.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(path.suffix or ".png", np.full((*size, 3), rgb[::-1], np.uint8))
    assert done
    path.write_bytes(encoded.tobytes())
    return path


def paint_colours(folder: Path) -> Path:
    """Write a PNG of each colour, named after it."""
    for name in COLOURS:
        paint(folder / f"{name}.png", name)
    return folder


for name, examples in (("fast", 15), ("whole", 100)):
    # the same examples each time: a test that fails for one fails for all
    hypothesis.settings.register_profile(name, max_examples=examples, deadline=None, derandomize=True)
hypothesis.settings.load_profile("whole")  # make check takes the other

PEAKS: dict[str, float] = {}
"""Worker -> most memory that it had, in GB."""

MOST_MEMORY = 6.0
"""GB that a worker may have at its peak. It was 4.3 at most; the aim is 3, and 2 without true models."""

GROWTH, LARGE = 0.2, 0.5
"""GB that a test may leave behind before garbage is collected, which takes too long to do each time, and
before models are freed."""

LEFT = {"here": 0.0}
"""GB that were in use when memory was last given back, or less."""


def _memory() -> float:
    """Return how much memory this process has now, in GB; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e9 if statm.exists() else 0


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def pytest_collection_finish() -> None:
    """Leave out of later searches for garbage what imports made, 600,000 objects: each took half a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let each worker report its peak of memory; fail where one was above :data:`MOST_MEMORY`."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["peak"] = _peak()
    elif max(_peaks().values()) > MOST_MEMORY and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker reported; one that crashed reports nothing."""
    if peak := getattr(node, "workeroutput", {}).get("peak"):
        PEAKS[node.gateway.id] = peak


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the peaks."""
    peaks = _peaks()
    shown = ", ".join(f"{name} {peak:.2f} GB" for name, peak in sorted(peaks.items()))
    failed = f"; the suite fails above {MOST_MEMORY:g} GB" if max(peaks.values()) > MOST_MEMORY else ""
    terminalreporter.write_line(f"most memory: {shown}{failed}")


def _peaks() -> dict[str, float]:
    return PEAKS or {"this process": _peak()}


@pytest.fixture
def memory():
    """fsspec's filesystem in memory, emptied afterwards."""
    import fsspec

    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def memory_uri(tmp_path: Path) -> str:
    """The database in memory of one test, by the folder that the test has; deleted afterwards."""
    return f"memory://{tmp_path}"


@pytest.fixture(autouse=True)
def closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Release every database after each test, and delete the test's own in memory."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    t2i_pipelines.close()
    if folder is not None:
        t2i_pipelines.testing.forget_memory(memory_uri(folder))
    give_back()


@pytest.fixture(autouse=True, scope="module")
def unloaded() -> Iterator[None]:
    """Free the models of each module, of which some take a gigabyte, and return the memory."""
    yield
    unload()
    give_back()


def give_back() -> None:
    """Return freed memory to the system, where :data:`GROWTH` has come since the last time."""
    LEFT["here"] = min(LEFT["here"], _memory())
    if _memory() > LEFT["here"] + LARGE:
        unload()
    if _memory() > LEFT["here"] + GROWTH:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)
        LEFT["here"] = _memory()


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What ``IPython.display`` is given, IPython or not."""
    shown = []
    package, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    module.display, module.HTML = shown.append, str
    package.__spec__ = types.SimpleNamespace(name="IPython")
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    for name in ("towhee.utils.thirdparty.ipython_utils", "towhee.utils.html_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield shown
    for name in ("towhee.utils.thirdparty.ipython_utils", "towhee.utils.html_table"):
        sys.modules.pop(name, None)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one PNG of each colour, named after it."""
    return paint_colours(tmp_path / "pictures")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    """What both builders need to run on the weightless model and a fresh database in memory."""
    return {"uri": memory_uri(tmp_path), "model_name": "colour"}


@pytest.fixture
def on_disk(tmp_path: Path) -> dict[str, object]:
    """The same on Milvus Lite, for tests of files, of other processes, or of what Milvus itself does."""
    return {"uri": tmp_path / "milvus.db", "model_name": "colour"}


@pytest.fixture
def outcomes() -> Callable[[object], dict[str, str]]:
    """The rows of an insert as {file name: status}."""

    def read(queue: object) -> dict[str, str]:
        return {Path(path).name: status for path, _, status, _ in queue.to_list()}

    return read


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window."""
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The gallery on a page; the database is the server's alone from here on."""
    folder = tmp_path_factory.mktemp("ui")
    settings = {"uri": folder / "milvus.db", "model_name": "t2i_mini"}
    t2i_pipelines.build_insert_pipeline(**settings)(GALLERY.with_suffix(".csv")).to_list()
    t2i_pipelines.close()
    opened = {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_SHARE": "True", "HF_HUB_OFFLINE": "0"}
    told = ("--uri", settings["uri"], "--model-name", "t2i_mini", "--limit", 20)
    with serving_ui(*told, **opened, UI_CONTACTS=str(folder / "contacts")) as (url, _):
        yield url
        assert (folder / "contacts").read_text() == ""


@pytest.fixture
def visit(browser, served):
    """Open a tab; at its end, nothing was asked of another host, and nothing complained about."""
    opened = []

    def open_tab(**options):
        opened.append(Visit(browser, served, **(options or DESKTOP)))
        return opened[-1]

    yield open_tab
    for one in opened:
        one.context.close()
        assert (one.outside, one.complaints) == ([], [])
