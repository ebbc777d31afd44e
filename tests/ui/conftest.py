"""A page on the gallery, a real Chromium, and tabs of it."""

import asyncio
import gc
from pathlib import Path

import pytest
from browser import Visit, browsing, serving_ui

from t2i_pipelines import build_insert_pipeline, close

SOURCE = Path("data/gallery").absolute()
DESKTOP = {"viewport": {"width": 1280, "height": 900}}


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Close what gradio leaves open before the tests of other modules; collecting takes over a second."""
    yield
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The gallery on a page; the database is the server's alone from here on."""
    folder = tmp_path_factory.mktemp("ui")
    settings = {"uri": folder / "milvus.db", "model_name": "t2i_mini"}
    build_insert_pipeline(**settings)(SOURCE.with_suffix(".csv")).to_list()
    close()
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
