"""``towhee.triton_client`` asks a Triton server, in scripts and where an event loop runs already."""

import asyncio
import importlib.util
import threading
import time

import pytest
import towhee
from test_import import run
from towhee import pipe
from triton_here import serving

from t2i_pipelines.errors import MissingExtraError

pytest_plugins = ["old_notebooks"]


@pytest.fixture
def url(hub):
    search = pipe.input("text").map("text", "found", lambda text: [[len(text), 0.5, f"{text}.png"]])
    with serving(search.output("text", "found")) as url:
        yield url


def ask(url):
    from towhee import triton_client

    client = triton_client.Client(url=url)
    try:
        return client("a black dog."), client.batch(["a", "bb", "ccc"], batch_size=2)
    finally:
        client.close()


ANSWERS = (
    [["a black dog.", [[12, 0.5, "a black dog..png"]]]],
    [[[text, [[len(text), 0.5, f"{text}.png"]]]] for text in ("a", "bb", "ccc")],
)


def test_the_client_asks_as_in_the_tutorial(url):
    assert ask(url) == ANSWERS


def test_the_client_asks_where_an_event_loop_runs(url):
    async def cell():
        return ask(url)

    assert asyncio.run(cell()) == ANSWERS


def test_closing_twice_is_once_and_ends_the_thread(url):
    with towhee.triton_client.Client(url) as client:
        assert client("x")[0][0] == "x"
    client.close()
    until = time.monotonic() + 10
    while any(one.name == "triton-client" for one in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert [one.name for one in threading.enumerate() if one.name == "triton-client"] == []


def test_a_process_ends_although_its_client_is_open():
    answers = run("""
        import t2i_pipelines.hub
        from towhee import triton_client
        client = triton_client.Client(url="localhost:1")
        print("open")
    """)
    assert answers == "open"


def test_importing_the_hub_loads_no_client():
    loaded = run(
        "import sys, t2i_pipelines.hub; print('tritonclient' in sys.modules, 'aiohttp' in sys.modules)"
    )
    assert loaded == "False False"


@pytest.mark.parametrize("missing", ["tritonclient", "aiohttp"])
def test_without_a_client_one_sentence_names_the_extra(hub, monkeypatch, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else found(name)
    )
    words = r"^tritonclient\[http\] is not installed; run: pip install 't2i-pipelines\[triton\]'$"
    with pytest.raises(MissingExtraError, match=words):
        towhee.triton_client.Client("localhost:8000")
    assert not hasattr(towhee.triton_client, "__path__")
