"""Each kind of source from its first row to a filtered search, and a second run that changes nothing."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import COLOURS, paint
from test_source_tars import write_tar
from web import send, serving

from t2i_pipelines import build_insert_pipeline, build_search_pipeline
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.images import read
from t2i_pipelines.images.decode import decode
from t2i_pipelines.testing import ColourEncoder
from t2i_pipelines.types import Space

NAMES = sorted(COLOURS)
ROWS = [{"path": f"{name}.png", "year": 2010 + n, "tag": name} for n, name in enumerate(NAMES)]


def table(kind: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        path = folder / f"rows.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        else:
            separator = "," if kind == "csv" else "\t"
            lines = [separator.join(ROWS[0]), *(separator.join(map(str, row.values())) for row in ROWS)]
            path.write_text("\n".join(lines))
        return str(path)

    return write


def shards(mode: str, suffix: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        for shard in range(2):
            files = {}
            for row in ROWS[shard::2]:
                files[row["path"]] = (folder / row["path"]).read_bytes()
                files[f"{row['tag']}.json"] = json.dumps({"year": row["year"], "tag": row["tag"]}).encode()
            write_tar(folder / f"shard-{shard:03}{suffix}", files, mode)
        return f"{folder}/shard-{{000..001}}{suffix}"

    return write


def in_memory(source: Callable[[Path], str]) -> Callable[[Path], str]:
    """The same, on a filesystem that is not local."""

    def write(folder: Path) -> str:
        local = source(folder)
        fsspec.filesystem("memory").put(f"{folder}/*", "/bucket/")
        return local.replace(str(folder), "memory://bucket")

    return write


SOURCES = {
    "rows": lambda folder: [{**row, "path": str(folder / row["path"])} for row in ROWS],
    "csv": table("csv"),
    "tsv": table("tsv"),
    "jsonl": table("jsonl"),
    "parquet": table("parquet"),
    "tar": shards("w", ".tar"),
    "tar.gz": shards("w:gz", ".tar.gz"),
    "remote csv": in_memory(table("csv")),
    "remote parquet": in_memory(table("parquet")),
    "remote tar": in_memory(shards("w", ".tar")),
}


def statuses(rows) -> list[str]:
    return [status for _, _, status, _ in rows.to_list()]


def search(settings, words: str, **more):
    return build_search_pipeline(**settings, **more)(words).get()[1]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_found_by_words_and_by_its_columns(pictures, settings, memory, kind):
    source = SOURCES[kind](pictures)
    insert = build_insert_pipeline(**settings, batch_size=3)
    assert statuses(insert(source)) == ["inserted"] * 7
    hits = search(settings, "red", filter="year > 2013", output_fields=["tag", "year"], limit=10)
    assert sorted(hit.fields["tag"] for hit in hits) == NAMES[4:]
    (hit,) = search(settings, "red", limit=1, output_fields=["tag"])
    assert (hit.fields["tag"], hit.score) == ("red", pytest.approx(1))
    assert decode(read(hit.path))[0, 0].tolist() == [255, 0, 0]
    assert statuses(insert(source)) == ["unchanged"] * 7
    assert open_collection(uri=settings["uri"]).count() == 7


@pytest.mark.parametrize("kind", ["folder", "glob", "memory folder", "memory glob", "list", "iterator"])
def test_sources_without_columns_are_inserted_once(pictures, settings, memory, kind):
    memory.put(f"{pictures}/*", "/bucket/")

    def source():
        return {
            "folder": pictures,
            "glob": f"{pictures}/*.png",
            "memory folder": "memory://bucket",
            "memory glob": "memory://bucket/*.png",
            "list": [f"memory://bucket/{name}.png" for name in NAMES],
            "iterator": iter([pictures / f"{name}.png" for name in NAMES]),
        }[kind]

    insert = build_insert_pipeline(**settings, batch_size=3)
    assert statuses(insert(source())) == ["inserted"] * 7
    assert statuses(insert(source())) == ["unchanged"] * 7


@pytest.fixture
def web(pictures, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.FIRST_WAIT", 0.001)
    with serving() as server:
        server.pages = {f"/{name}.png": (pictures / f"{name}.png").read_bytes() for name in NAMES}
        yield server


def test_urls_are_fetched_once_and_then_only_to_refresh(pictures, settings, web):
    (pictures / "urls.csv").write_text(
        "url,year\n" + "".join(f"{web.url}/{row['path']},{row['year']}\n" for row in ROWS)
    )
    insert = build_insert_pipeline(**settings)
    assert statuses(insert(pictures / "urls.csv")) == ["inserted"] * 7
    assert set(web.asked.values()) == {1}
    assert statuses(insert(pictures / "urls.csv")) == ["unchanged"] * 7
    assert set(web.asked.values()) == {1}
    web.pages["/red.png"] = web.pages["/blue.png"]
    rows = build_insert_pipeline(**settings, refresh=True)(pictures / "urls.csv").to_list()
    found = {Path(path).stem: status for path, _, status, _ in rows}
    assert found.pop("red") == "updated"
    assert set(found.values()) == {"unchanged"}
    assert set(web.asked.values()) == {2}
    hits = search(settings, "blue", limit=2, filter="year > 2000")
    assert {hit.path for hit in hits} == {f"{web.url}/red.png", f"{web.url}/blue.png"}
    assert statuses(insert(pictures / "urls.csv")) == ["unchanged"] * 7


def test_one_url_is_a_source(settings, web):
    insert = build_insert_pipeline(**settings)
    ((path, _, status, _),) = insert(f"{web.url}/red.png?size=1").to_list()
    assert (path, status) == (f"{web.url}/red.png?size=1", "inserted")


def test_what_the_web_does_not_give_fails_alone_and_is_tried_again_by_the_next_run(settings, web):
    web.pages["/busy.png"] = lambda request: send(request, 503)
    urls = [f"{web.url}/{name}.png" for name in ("red", "gone", "busy")]
    insert = build_insert_pipeline(**settings)
    red, gone, busy = insert(urls).to_list()
    assert red[2] == "inserted"
    assert gone[2:] == ["failed", f"cannot read image {urls[1]}: status 404 Not Found"]
    assert busy[2:] == ["failed", f"cannot read image {urls[2]}: status 503 Service Unavailable"]
    assert gone[3].stage == "read"
    web.pages["/gone.png"] = web.pages["/blue.png"]
    assert statuses(insert(urls)) == ["unchanged", "inserted", "failed"]


def test_urls_of_a_batch_are_waited_for_together(settings, web):
    """Eight at a time, the limit of one host: fewer, and nobody would pass the barrier."""
    barrier = threading.Barrier(8)
    picture = web.pages["/red.png"]

    def together(request) -> None:
        barrier.wait(20)
        send(request, 200, picture)

    web.pages = {f"/{n}.png": together for n in range(16)}
    rows = build_insert_pipeline(**settings)([f"{web.url}/{n}.png" for n in range(16)])
    assert statuses(rows) == ["inserted"] * 16
    assert web.peak == 8


def test_no_more_pictures_are_decoded_at_a_time_than_there_are_cores(settings, web):
    class Counting(ColourEncoder):
        space = Space("counting", "counting", "none", 3)

        def __init__(self) -> None:
            super().__init__()
            self.now = self.peak = 0
            self.lock = threading.Lock()

        def fit(self, image):
            with self.lock:
                self.now += 1
                self.peak = max(self.peak, self.now)
            threading.Event().wait(0.005)
            with self.lock:
                self.now -= 1
            return super().fit(image)

    encoder = Counting()
    register_encoder("counting", lambda *_: encoder)
    web.pages = {f"/{n}.png": web.pages["/red.png"] for n in range(32)}
    settings = {**settings, "model_name": "counting"}
    build_insert_pipeline(**settings)([f"{web.url}/{n}.png" for n in range(32)])
    assert 1 <= encoder.peak <= os.cpu_count()


def test_a_tar_with_the_same_sizes_and_times_but_other_pictures_is_seen(tmp_path, settings):
    red = paint(tmp_path / "a.bmp", "red").read_bytes()
    blue = paint(tmp_path / "b.bmp", "blue").read_bytes()
    assert len(red) == len(blue)
    tar = write_tar(tmp_path / "a.tar", {"x.bmp": red})
    insert = build_insert_pipeline(**settings)
    assert statuses(insert(tar)) == ["inserted"]
    write_tar(tar, {"x.bmp": blue})
    assert statuses(insert(tar)) == ["updated"]
    assert search(settings, "blue", limit=1)[0].score == pytest.approx(1)


def test_files_that_came_with_their_records_are_let_go_of(tmp_path, settings):
    from t2i_pipelines.operators.image_decode import ImageDecode
    from t2i_pipelines.operators.milvus import SkipUnchanged
    from t2i_pipelines.operators.read import ReadSource

    red = paint(tmp_path / "a.bmp", "red").read_bytes()
    tar = write_tar(tmp_path / "a.tar", {"x.bmp": red, "y.bmp": b"bad"})
    (batch,) = ReadSource()(tar)
    assert [record.content is None for record in batch] == [False, False]
    ImageDecode("colour")(batch)
    assert [record.content for record in batch] == [None, None]
    build_insert_pipeline(**settings)(tar)
    (batch,) = ReadSource()(tar)
    SkipUnchanged(**{**settings, "uri": str(settings["uri"])})(batch)
    assert (batch[0].status, batch[0].content) == ("unchanged", None)
