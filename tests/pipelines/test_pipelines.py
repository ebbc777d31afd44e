"""From a source to hits, through Towhee's own pipelines."""

import gc
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from conftest import memory_uri, paint

from t2i_pipelines import (
    build_insert_pipeline,
    build_search_pipeline,
    close,
    harden,
    insert_steps,
    search_steps,
)
from t2i_pipelines._towhee.door import AutoConfig, AutoPipes, DataCollection, RuntimePipeline, pipe
from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.settings import Decoding, Settings, Target
from t2i_pipelines.encoders import load_encoder, register_encoder
from t2i_pipelines.errors import (
    ConfigError,
    ImageDecodeError,
    ModelMismatchError,
    QueryError,
    SourceError,
    StoreUnavailableError,
    UnknownModelError,
)
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.operators.milvus import MilvusSearch
from t2i_pipelines.testing import ColourEncoder
from t2i_pipelines.types import Space


def stored(settings) -> int:
    return open_collection(uri=settings["uri"]).count()


def test_every_stored_picture_is_found_by_its_own_word(pictures, settings):
    build_insert_pipeline(**settings)(str(pictures))
    search = build_search_pipeline(**settings, limit=3)
    for name in ("red", "green", "blue", "yellow", "magenta", "cyan", "white"):
        text, hits = search(f"something {name}").get()
        assert (text, Path(hits[0].path).stem) == (f"something {name}", name)
        assert hits[0].score == pytest.approx(1)
        assert len(hits) == 3
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_rows_come_in_the_order_of_the_source(pictures, settings, outcomes):
    rows = build_insert_pipeline(**settings, batch_size=2)(pictures).to_list(kv_format=True)
    assert [Path(row["path"]).stem for row in rows] == sorted(path.stem for path in pictures.iterdir())
    assert {row["status"] for row in rows} == {"inserted"}
    assert list(rows[0]) == ["path", "id", "status", "reason"]


def test_running_twice_changes_nothing_and_opens_no_picture(pictures, settings, outcomes):
    insert = build_insert_pipeline(**settings)
    insert(pictures)
    seen = load_encoder("colour").images
    for path in pictures.iterdir():  # same size and time, other content: proof that no file is read
        was = path.stat()
        path.write_bytes(b"\0" * was.st_size)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert set(outcomes(insert(pictures)).values()) == {"unchanged"}
    assert load_encoder("colour").images == seen
    assert stored(settings) == 7


def test_refresh_reads_every_picture_again_and_embeds_what_has_changed(pictures, settings, outcomes):
    changing = paint(pictures / "changing.bmp", "red")
    insert = build_insert_pipeline(**settings)
    insert(pictures)
    was = changing.stat()
    paint(changing, "blue")  # same size and time
    os.utime(changing, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert set(outcomes(insert(pictures)).values()) == {"unchanged"}
    found = outcomes(build_insert_pipeline(**settings, refresh=True)(pictures))
    assert found.pop("changing.bmp") == "updated"
    assert set(found.values()) == {"unchanged"}


def test_a_run_that_inserted_flushes_once_and_another_not_at_all(pictures, settings, monkeypatch):
    flushed = []
    monkeypatch.setattr(Collection, "flush", lambda self: flushed.append(self.count()))
    insert = build_insert_pipeline(**settings, batch_size=2)
    insert(pictures)
    assert flushed == [7]
    insert(pictures)
    assert flushed == [7]


def test_a_touched_file_is_unchanged_and_a_changed_one_is_updated(pictures, settings, outcomes):
    insert = build_insert_pipeline(**settings)
    insert(pictures)
    os.utime(pictures / "red.png", ns=(1, 1))
    paint(pictures / "blue.png", "green")
    found = outcomes(insert(pictures))
    assert found.pop("blue.png") == "updated"
    assert set(found.values()) == {"unchanged"}
    assert stored(settings) == 7
    _, hits = build_search_pipeline(**settings, limit=2)("green").get()
    assert {Path(hit.path).stem for hit in hits} == {"green", "blue"}


def test_a_touched_file_is_opened_once_and_then_known_by_its_new_time(pictures, settings, outcomes):
    insert = build_insert_pipeline(**settings)
    insert(pictures)
    os.utime(pictures / "red.png", ns=(1, 1))
    seen = load_encoder("colour").images
    insert(pictures)
    (pictures / "red.png").write_bytes(b"\0" * (pictures / "red.png").stat().st_size)
    os.utime(pictures / "red.png", ns=(1, 1))
    assert set(outcomes(insert(pictures)).values()) == {"unchanged"}, "not opened a second time"
    assert load_encoder("colour").images == seen


def test_new_metadata_of_an_old_picture_is_stored_without_embedding_it_again(pictures, settings, outcomes):
    insert = build_insert_pipeline(**settings)
    insert([{"path": pictures / "red.png", "year": 2015}])
    seen = load_encoder("colour").images
    assert outcomes(insert([{"path": pictures / "red.png", "year": 2015}])) == {"red.png": "unchanged"}
    assert outcomes(insert([{"path": pictures / "red.png", "year": 2016}])) == {"red.png": "updated"}
    assert load_encoder("colour").images == seen
    _, hits = build_search_pipeline(**settings, output_fields=["year"], filter="year > 2015")("red").get()
    assert [(hit.fields, hit.score) for hit in hits] == [({"year": 2016}, pytest.approx(1))]


def test_a_run_whose_last_batch_stores_nothing_is_flushed_too(pictures, settings, monkeypatch):
    flushed = []
    monkeypatch.setattr(Collection, "flush", lambda self: flushed.append(self.count()))
    (pictures / "zzz.png").write_bytes(b"no picture")
    build_insert_pipeline(**settings, batch_size=1)(pictures)
    assert flushed == [7]


def test_a_bad_picture_neither_stops_the_run_nor_shifts_a_row(pictures, settings):
    (pictures / "bad.jpg").write_bytes(b"no picture")
    paint(pictures / "gap.png", (0, 0, 0))
    rows = build_insert_pipeline(**settings, batch_size=4)(pictures).to_list()
    failed = {Path(path).name: reason for path, _, status, reason in rows if status == "failed"}
    assert failed["bad.jpg"] == f"cannot read image {pictures / 'bad.jpg'}: not an image in a known format"
    assert failed["gap.png"] == (
        f"cannot embed image {pictures / 'gap.png'}: a vector of length 0.0 has no direction"
    )
    assert len(rows) == 9
    assert stored(settings) == 7


def test_on_error_raise_names_the_file(pictures, settings):
    (pictures / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageDecodeError, match=r"cannot read image .*bad\.jpg: not an image"):
        build_insert_pipeline(**settings, on_error="raise")(pictures)


def test_nothing_stored_gives_no_hits_and_makes_no_file(on_disk):
    assert build_search_pipeline(**on_disk)("red").get() == ["red", []]
    assert not on_disk["uri"].exists()


def test_a_search_pipeline_sees_what_is_inserted_after_it_was_built(pictures, settings):
    search = build_search_pipeline(**settings)
    assert search("red").get()[1] == []
    build_insert_pipeline(**settings)(pictures)
    assert Path(search("red").get()[1][0].path).stem == "red"


def test_a_change_of_folder_does_not_move_the_database(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    insert = build_insert_pipeline(uri="here.db", model_name="colour")
    search = build_search_pipeline(uri="here.db", model_name="colour", limit=1)
    monkeypatch.chdir(pictures)
    insert(pictures)
    assert (tmp_path / "here.db").is_dir()
    assert Path(search("red").get()[1][0].path).stem == "red"


def test_a_list_of_queries_is_one_encode_and_one_search(pictures, settings):
    build_insert_pipeline(**settings)(pictures)
    queries, found = build_search_pipeline(**settings, limit=1)(["red", "blue"]).get()
    assert queries == ["red", "blue"]
    assert [Path(hits[0].path).stem for hits in found] == ["red", "blue"]


def test_another_model_of_the_same_dimension_is_refused(pictures, settings):
    class Other(ColourEncoder):
        space = Space("other", "other weights", "none", 3)

    register_encoder("other", lambda checkpoint, device: Other())
    build_insert_pipeline(**settings)(pictures)
    for build, given in ((build_insert_pipeline, pictures), (build_search_pipeline, "red")):
        with pytest.raises(ModelMismatchError, match=r"(?s)colour.*other|other.*colour"):
            build(**{**settings, "model_name": "other"})(given)


def test_a_closed_database_opens_again(pictures, settings):
    build_insert_pipeline(**settings)(pictures)
    close()
    assert build_search_pipeline(**settings, limit=1)("red").get()[1][0].score == pytest.approx(1)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"limit": 0}, ConfigError, "limit must be between 1 and 16384, got 0"),
        ({"limit": 16385}, ConfigError, "limit must be between 1 and 16384, got 16385"),
        ({"limit": "5"}, ConfigError, "limit must be a whole number, got '5'"),
        ({"batch_size": 0}, ConfigError, "batch_size must be between 1 and 4096, got 0"),
        ({"on_error": "skip"}, ConfigError, "on_error must be one of 'record', 'raise', got 'skip'"),
        ({"device": "tpu"}, ConfigError, "device must be one of 'auto', 'cpu', 'cuda', got 'tpu'"),
        ({"refresh": "yes"}, ConfigError, "refresh must be True or False, got 'yes'"),
        ({"timeout": 0}, ConfigError, "timeout must be more than 0 seconds, got 0"),
        ({"output_fields": "year"}, ConfigError, r"write \['year'\]"),
        (
            {"limt": 5},
            ConfigError,
            r"unknown setting limt \(did you mean limit\?\); known settings are .*limit",
        ),
        ({"model_name": "clip"}, UnknownModelError, "unknown model 'clip'; the nearest are clip-ViT"),
        ({"collection_name": "my-images"}, ConfigError, "my-images"),
        ({"uri": "pictures.sqlite"}, ConfigError, r"\.db"),
        ({"uri": "localhost:19530"}, ConfigError, "http://localhost:19530"),
    ],
)
@pytest.mark.parametrize("build", [build_insert_pipeline, build_search_pipeline])
def test_a_wrong_setting_is_refused_when_the_pipeline_is_built(settings, build, wrong, error, message):
    with pytest.raises(error, match=message):
        build(**{**settings, **wrong})


def test_a_server_that_is_down_is_named(pictures):
    place = {"uri": "http://127.0.0.1:1", "model_name": "colour", "timeout": 5}
    with pytest.raises(StoreUnavailableError, match=r"http://127\.0\.0\.1:1"):
        build_insert_pipeline(**place)(pictures)
    with pytest.raises(StoreUnavailableError, match=r"http://127\.0\.0\.1:1"):
        build_search_pipeline(**place)("red")


def test_bad_input_reaches_the_caller_as_an_error_of_ours(tmp_path, settings):
    with pytest.raises(SourceError, match="no such folder or file"):
        build_insert_pipeline(**settings)(tmp_path / "gone")
    with pytest.raises(QueryError, match="the query is empty"):
        build_search_pipeline(**settings)("")


def test_help_shows_each_setting_with_its_default():
    known = {name: one.default for name, one in inspect.signature(Settings).parameters.items()}
    assert set(known) == set(SettingsArgs.__annotations__)
    for build in (build_insert_pipeline, build_search_pipeline, insert_steps, search_steps):
        shown = inspect.signature(build).parameters
        assert {name: shown[name].default for name in known} == known
    assert next(iter(inspect.signature(insert_steps).parameters)) == "p"


def test_the_graph_shows_each_step_as_an_operator_of_its_own(settings):
    nodes = list(build_insert_pipeline(**settings).dag_repr.nodes)
    assert [node.name for node in build_insert_pipeline(**settings).dag_repr.nodes.values()][1:-1] == [
        "t2i/read-source-0",
        "t2i/skip-unchanged-1",
        "t2i/prefetch-2",
        "t2i/image-decode-3",
        "t2i/clip-4",
        "t2i/normalize-5",
        "t2i/milvus-insert-6",
        "t2i/outcomes-7",
    ]
    assert len(nodes) == 10
    assert [node.name for node in build_search_pipeline(**settings).dag_repr.nodes.values()][1:-1] == [
        "t2i/read-query-0",
        "t2i/clip-1",
        "t2i/normalize-2",
        "t2i/milvus-search-3",
    ]


def test_users_go_on_after_the_steps_with_maps_of_their_own(pictures, settings):
    steps = insert_steps(pipe.input("folder", "tag"), source="folder", **settings)
    insert = harden(
        steps.map(("status", "tag"), "note", lambda status, tag: f"{tag}:{status}").output("note")
    )
    assert insert(pictures, "run 1").to_list() == [["run 1:inserted"]] * 7
    steps = search_steps(pipe.input("words"), query="words", hits="found", **settings)
    search = harden(steps.map("found", "best", lambda hits: Path(hits[0].path).stem).output("words", "best"))
    assert search("red").get() == ["red", "red"]


def test_data_collection_shows_the_outcomes(pictures, settings, capsys):
    DataCollection(build_insert_pipeline(**settings)(pictures)).show()
    shown = capsys.readouterr().out
    assert "status" in shown
    assert "inserted" in shown
    assert "blue.png" in shown


def test_the_pipelines_have_names_in_towhees_registry(pictures, settings):
    settings = {**settings, "uri": str(settings["uri"])}
    config = AutoConfig.load_config("text_image_insert", **settings)
    assert isinstance(config, Settings)
    config.batch_size = 3
    insert = AutoPipes.pipeline("text_image_insert", config=config)
    assert isinstance(insert, RuntimePipeline)
    assert insert(pictures).size == 7
    search = AutoPipes.pipeline("text_image_search", config={**settings, "limit": 1})
    assert Path(search("red").get()[1][0].path).stem == "red"
    config.limit = 0
    with pytest.raises(ConfigError, match="limit must be between"):
        AutoPipes.pipeline("text_image_search", config=config)


class Slow(ColourEncoder):
    """Counts the images that are under way: decoded, and not yet embedded."""

    space = Space("slow", "slow", "none", 3)

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.under_way = self.peak = 0
        self.spans: list[tuple[str, float, float]] = []

    def fit(self, image):
        begun = time.monotonic()
        with self.lock:
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
        time.sleep(0.002)
        with self.lock:
            self.spans.append(("decode", begun, time.monotonic()))
        return np.asarray(image)

    def encode_images(self, images):
        begun = time.monotonic()
        time.sleep(0.01)
        vectors = np.array([image.reshape(-1, 3).mean(0) for image in images], np.float32)
        with self.lock:
            self.under_way -= len(images)
            self.spans.append(("encode", begun, time.monotonic()))
        return vectors


@pytest.fixture
def slow():
    encoder = Slow()
    register_encoder("slow", lambda checkpoint, device: encoder)
    return encoder


def test_no_more_than_a_few_batches_are_in_flight_however_many_pictures_there_are(tmp_path, slow):
    path = paint(tmp_path / "a.png", "red")
    rows = ({"path": path, "id": str(n)} for n in range(400))
    build_insert_pipeline(uri=memory_uri(tmp_path), model_name="slow", batch_size=4)(rows)
    # one batch being decoded, one waiting, one being encoded, and one that the queue lets through
    assert slow.peak <= 4 * 4
    gc.collect()


def test_decoding_and_encoding_overlap(tmp_path, slow):
    path = paint(tmp_path / "a.png", "red")
    rows = [{"path": path, "id": str(n)} for n in range(200)]
    build_insert_pipeline(uri=memory_uri(tmp_path), model_name="slow", batch_size=4)(rows)
    encodes = [span for span in slow.spans if span[0] == "encode"]
    during = [
        one
        for one in slow.spans
        if one[0] == "decode" and any(begun < one[2] and one[1] < ended for _, begun, ended in encodes)
    ]
    assert len(during) > 100


@pytest.mark.slow
def test_20_000_rows_pass_through_the_insert_pipeline_of_a_one_core_machine(tmp_path):
    """Nested in a bigger pipeline and followed by eight maps; bare Towhee would hang on its five threads."""
    code = """
        import os, sys
        os.cpu_count = lambda: 1
        import t2i_pipelines.testing
        from t2i_pipelines import build_insert_pipeline, harden
        from t2i_pipelines._towhee.door import pipe
        insert = build_insert_pipeline(uri=sys.argv[1], model_name="colour", batch_size=500)
        rows = [{"path": sys.argv[2], "id": str(n)} for n in range(20_000)]
        assert insert(rows).size == 20_000
        bigger = pipe.input("rows").map("rows", ("path", "id", "status", "reason"), insert)
        for n in range(8):
            bigger = bigger.map("status", "status", lambda status: status)
        queue = harden(bigger.output("id", "status"))(rows)
        assert queue.size == 20_000
        found = queue.to_list()
        assert [id for id, _ in found] == [row["id"] for row in rows]
        assert {status for _, status in found} == {"unchanged"}
    """
    path = paint(tmp_path / "a.png", "red")
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.db"), str(path)]
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_32_callers_of_one_search_pipeline_each_get_their_own_answer(pictures, settings):
    build_insert_pipeline(**settings)(pictures)
    search = build_search_pipeline(**settings, limit=1)
    names = ["red", "green", "blue", "yellow"] * 32
    with ThreadPoolExecutor(32) as callers:
        found = list(callers.map(lambda name: search(name).get(), names))
    assert [(text, Path(hits[0].path).stem) for text, hits in found] == [(name, name) for name in names]


@pytest.mark.slow
def test_killed_in_the_middle_of_an_insert_and_run_again_nothing_is_missing_and_nothing_double(tmp_path):
    folder = tmp_path / "pictures"
    for n in range(300):
        paint(folder / f"{n:03}.png", (n % 250 + 5, n // 2 + 5, 128))
    code = """
        import sys
        import t2i_pipelines.testing
        from t2i_pipelines import harden, insert_steps
        from t2i_pipelines._towhee.door import pipe
        steps = insert_steps(pipe.input("source"), uri=sys.argv[1], model_name="colour", batch_size=5)
        tell = lambda id, status: print(id, status, flush=True)
        harden(steps.map(("id", "status"), (), tell).output())(sys.argv[2])
    """
    uri = str(tmp_path / "x.db")
    command = [sys.executable, "-c", textwrap.dedent(code), uri, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    ids = {line.split()[0] for line in acknowledged if line.endswith("inserted\n")}
    assert 40 <= len(ids) < 300, "the kill came too early or too late to prove anything"
    collection = open_collection(uri=uri)
    collection.prepare(load_encoder("colour").space)
    assert set(collection.ledger(sorted(ids))) == ids
    rows = build_insert_pipeline(uri=uri, model_name="colour")(str(folder)).to_list()
    assert {id for _, id, status, _ in rows if status == "unchanged"} >= ids
    assert {status for _, _, status, _ in rows} <= {"inserted", "unchanged"}
    assert collection.count() == 300


def test_lists_and_mappings_of_the_caller_may_change_afterwards(pictures, settings):
    build_insert_pipeline(**settings)([{"path": str(one), "n": 1} for one in sorted(pictures.iterdir())])
    where, fields = {"n": 1}, ["n"]
    search = build_search_pipeline(**settings, where=where, output_fields=fields)
    where["n"] = 2
    fields.append("size")
    hits = search("red").get()[1]
    assert len(hits) == 7
    assert hits[0].fields == {"n": 1}
    with pytest.raises(FrozenInstanceError):
        hits.options.limit = 1


def test_the_column_of_the_vector_is_none_that_is_needed(settings):
    for columns in ({"query": "query_vec"}, {"vector": "hits"}):
        with pytest.raises(ConfigError, match="is the column of the query or of the hits; name another one"):
            search_steps(pipe.input("query_vec"), **columns, **settings)
    steps = search_steps(pipe.input("query", "vector"), **settings)
    assert harden(steps.output("vector"))("red", "mine").get() == ["mine"]


def test_checked_settings_and_plain_ones_do_not_go_together(settings):
    target = Target(**{**settings, "uri": str(settings["uri"])})
    wrong = {
        "a target or settings": lambda: MilvusSearch(target=target, uri="other.db"),
        "options or settings": lambda: MilvusSearch(target=target, options=SearchOptions(), limit=3),
        "decoding or settings": lambda: ImageDecode(decoding=Decoding(), background="red"),
    }
    for what, make in wrong.items():
        with pytest.raises(ConfigError, match=f"give {what}, not both; got"):
            make()
