"""Images from the web are asked for across batches, within limits, and never for nothing."""

import importlib
import threading

import pytest
from conftest import COLOURS, paint
from web import send, serving

from t2i_pipelines import build_insert_pipeline
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import read, records
from t2i_pipelines.types import Batch

reading = importlib.import_module("t2i_pipelines.images.files")


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.FIRST_WAIT", 0.001)
    with serving() as server:
        server.pages = {f"/{n}.png": paint(tmp_path / "a.png", (n, 9, 9)).read_bytes() for n in range(64)}
        yield server


def statuses(rows) -> list[str]:
    return [status for _, _, status, _ in rows.to_list()]


def test_a_slow_host_does_not_keep_the_next_batches_from_being_fetched(settings, web):
    """The first image comes only when those of five later batches have been asked for."""
    picture, others = web.pages["/0.png"], threading.Semaphore(0)

    def last(request) -> None:
        for _ in range(20):
            assert others.acquire(timeout=20)
        send(request, 200, picture)

    def tell(page: bytes):
        def answer(request) -> None:
            others.release()
            send(request, 200, page)

        return answer

    web.pages = {path: tell(page) for path, page in web.pages.items()} | {"/0.png": last}
    urls = [f"{web.url}/{n}.png" for n in range(32)]
    rows = build_insert_pipeline(**settings, batch_size=4)(urls)
    assert statuses(rows) == ["inserted"] * 32
    assert set(web.asked.values()) == {1}


def test_no_more_is_fetched_ahead_than_fits_into_memory(web, monkeypatch):
    monkeypatch.setattr(reading, "BYTES", 1)
    urls = [f"{web.url}/{n}.png" for n in range(8)]
    held = [reading.Ahead(urls[0])]
    assert held[0]._future.result().content == web.pages["/0.png"]
    batch = ops.t2i.prefetch()(Batch(records(urls)))
    assert [record.ahead.__self__._future.result() for record in batch] == [None] * 8
    assert web.asked == {"/0.png": 1}
    assert [read(record) for record in batch] == [web.pages[f"/{n}.png"] for n in range(8)]
    del held
    (again,) = ops.t2i.prefetch()(Batch(records(urls[:1])))
    assert again.ahead.__self__._future.result().content == web.pages["/0.png"]


def test_what_nobody_waits_for_any_more_is_not_fetched(web, monkeypatch):
    monkeypatch.setattr(reading, "_threads", lambda: pool)
    busy = threading.Event()
    with reading.ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait, 20)
        batch = ops.t2i.prefetch()(Batch(records([f"{web.url}/1.png"])))
        del batch
        busy.set()
    assert web.asked == {}


def test_what_has_not_been_begun_is_fetched_by_the_one_who_needs_it(web, monkeypatch):
    monkeypatch.setattr(reading, "_threads", lambda: pool)
    busy = threading.Event()
    with reading.ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait, 20)
        (record,) = ops.t2i.prefetch()(Batch(records([f"{web.url}/1.png"])))
        assert read(record) == web.pages["/1.png"]
        assert record.ahead.__self__._future.cancelled()
        busy.set()
    assert web.asked == {"/1.png": 1}


def test_what_cannot_be_had_is_said_once(web):
    (record,) = ops.t2i.prefetch()(Batch(records([f"{web.url}/gone.png"])))
    with pytest.raises(ImageDecodeError, match="cannot read image .*/gone.png: status 404 Not Found"):
        read(record)
    assert web.asked == {"/gone.png": 1}


def test_local_files_and_ended_records_are_passed_on_as_they_are(tmp_path):
    path = paint(tmp_path / "a.png", COLOURS["red"])
    local, bad = ops.t2i.prefetch()(Batch(records([path, "nope://a.png"])))
    assert (local.ahead, bad.ahead) == (None, None)


def test_nothing_is_held_after_a_run(settings, web):
    urls = [f"{web.url}/{n}.png" for n in range(64)]
    assert statuses(build_insert_pipeline(**settings, batch_size=4)(urls)) == ["inserted"] * 64
    assert reading._Content.held == 0
