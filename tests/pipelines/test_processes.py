"""Forked and spawned processes, threads that close what others use, and models that are found again."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from PIL import Image
from typer.testing import CliRunner

import t2i_pipelines
from t2i_pipelines import Searcher, build_insert_pipeline, build_search_pipeline, close
from t2i_pipelines.cli import app, main
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_space, model_of
from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from t2i_pipelines.errors import CheckpointError, CollectionNotFoundError, SourceError
from t2i_pipelines.evaluate import evaluate
from t2i_pipelines.finetune.material import Material
from t2i_pipelines.finetune.store import Store
from t2i_pipelines.types import Space

WAIT = 60
"""Seconds after which a child counts as hanging."""

FORKED = """
import multiprocessing, sys
from pathlib import Path
import t2i_pipelines, t2i_pipelines.testing
from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.operators.image_decode import ImageDecode

folder, model, method = sys.argv[1:]
paths = sorted(str(one) for one in Path(folder).glob("*.png"))

def work(name):
    insert = build_insert_pipeline(uri=f"{folder}/{name}.db", model_name=model)
    statuses = {status for _, _, status, _ in insert(paths).to_list()}
    found = Searcher(uri=f"{folder}/{name}.db", model_name=model)("a plain red background", limit=1)
    decoded = ImageDecode(model_name=model).many(paths)
    t2i_pipelines.close()
    return statuses, len(found), len(decoded)

def child(queue, pipeline):
    shared = len(pipeline(paths).to_list()) if pipeline else len(paths)
    queue.put((*work("child"), shared))

if __name__ == "__main__":
    print(work("parent"))
    built = build_insert_pipeline(uri=f"{folder}/shared.db", model_name=model)
    built(paths)
    t2i_pipelines.close()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, built if method == "fork" else None))
    process.start()
    print(queue.get(timeout=50))
    process.join(20)
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("model", ["colour", pytest.param("t2i_mini", marks=pytest.mark.slow)])
def test_a_child_of_each_kind_inserts_searches_and_decodes_after_its_parent_did(tmp_path, model, method):
    for name in ("red", "green", "blue"):
        paint(tmp_path / f"{name}.png", name, (40, 40))
    (tmp_path / "run.py").write_text(FORKED)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "run.py"), str(tmp_path), model, method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.stdout.splitlines() == ["({'inserted'}, 1, 3)", "({'inserted'}, 1, 3, 3)"], done.stderr


@pytest.mark.slow
def test_a_child_embeds_by_torch_after_its_parent_did(tmp_path):
    code = (
        "import os, sys, numpy as np, torch\n"
        "import t2i_pipelines.encoders.torch_encoder\n"
        "layer = torch.nn.Linear(1500, 1500)\n"
        "run = lambda: layer(torch.ones(1500, 1500)).sum().item()\n"
        "run()\n"
        "child = os.fork()\n"
        "if not child:\n    run(); os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=WAIT, check=False)
    assert done.returncode == 7


def test_closing_waits_for_an_insert_in_another_thread(tmp_path):
    for number in range(60):
        paint(tmp_path / "p" / f"{number}.png", (number + 1, 200, 90))
    found = []

    def insert():
        pipeline = build_insert_pipeline(uri=tmp_path / "x.db", model_name="colour", batch_size=4)
        found.extend(status for _, _, status, _ in pipeline(tmp_path / "p").to_list())

    thread = threading.Thread(target=insert)
    thread.start()
    while thread.is_alive():
        close()
        thread.join(0.02)
    assert found == ["inserted"] * 60
    assert open_collection(tmp_path / "x.db").count() == 60


def test_closing_while_others_search_raises_nothing(pictures, tmp_path):
    settings = {"uri": tmp_path / "x.db", "model_name": "colour"}
    build_insert_pipeline(**settings)(pictures)
    wrong, ended = [], threading.Event()

    def search():
        searcher = Searcher(**settings)
        while not ended.is_set():
            try:
                if len(searcher("a plain red background", limit=2)) != 2:
                    wrong.append("hits are missing")
            except Exception as err:
                wrong.append(err)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        close()
        ended.wait(0.05)
    ended.set()
    for thread in threads:
        thread.join(WAIT)
    assert wrong == []


@pytest.fixture
def tuned(tmp_path) -> Path:
    """A model that is known by its path alone."""
    folder = Path(t2i_pipelines.__file__).parent / "encoders/t2i_mini"
    shutil.copytree(folder, tmp_path / "models" / "tuned")
    return tmp_path / "models" / "tuned"


def test_a_model_given_by_path_is_found_again(tmp_path, pictures, tuned, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_insert_pipeline(uri="x.db", model_name="models/tuned")(pictures)
    space = open_collection("x.db").space()
    assert (space.model_name, space.checkpoint) == ("tuned", str(tuned))
    close()
    monkeypatch.chdir("/")
    for model_name in ("auto", None):
        search = build_search_pipeline(uri=tmp_path / "x.db", model_name=model_name, limit=2)
        assert len(search("red").get()[1]) == 2


def test_a_model_whose_path_is_gone_can_be_given_anew(tmp_path, pictures, tuned):
    build_insert_pipeline(uri=tmp_path / "x.db", model_name=str(tuned))(pictures)
    moved = tuned.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="'tuned' was loaded from .*, which is gone; give"):
        build_search_pipeline(uri=tmp_path / "x.db")
    assert len(Searcher(uri=tmp_path / "x.db", checkpoint_path=moved)("red", limit=2)) == 2
    follow = Searcher(uri=tmp_path / "x.db", model_name="auto", checkpoint_path=moved)
    assert len(follow("red", limit=2)) == 2


def test_the_path_of_a_model_does_not_decide_what_can_be_compared():
    one, other = (Space("tuned", "w", "p", 3, checkpoint=path) for path in ("/a", "/b"))
    assert one == other
    assert model_of(Space("t2i_mini", "w", "p", 3, checkpoint="/gone")) == ("t2i_mini", None)
    assert load_space("colour").checkpoint == ""


def test_without_a_model_the_one_of_the_collection_is_used(tmp_path, pictures):
    build_insert_pipeline(uri=tmp_path / "x.db", model_name="colour")(pictures)
    rows = build_insert_pipeline(uri=tmp_path / "x.db")(pictures).to_list()
    assert {status for _, _, status, _ in rows} == {"unchanged"}
    assert len(Searcher(uri=tmp_path / "x.db")("a plain red background", limit=1)) == 1
    place = ["--uri", str(tmp_path / "x.db")]
    for arguments in (
        ["search", "a plain red background"],
        ["sync", str(pictures)],
        ["insert", str(pictures)],
    ):
        done = CliRunner().invoke(app, [*arguments, *place])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--uri", "nothere.db"],
            r"there is no database .*nothere\.db; insert images first: t2i",
        ),
        (
            ["--uri", "x.db", "--collection-name", "y"],
            "there is no collection 'y' at .*: demo",
        ),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["search", "a dog"],
        ["duplicates"],
        ["ui", "--no-insert"],
        ["reembed", "--model-name", "t2i_mini"],
        ["reembed", "--roll-back"],
        ["reembed", "--drop-old"],
    ],
)
def test_a_collection_that_is_not_there_is_an_error_that_names_those_that_are(
    tmp_path, pictures, monkeypatch, command, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    build_insert_pipeline(uri="x.db", collection_name="demo", model_name="colour")(pictures)
    done = CliRunner().invoke(app, [*command, *arguments])
    assert isinstance(done.exception, CollectionNotFoundError)
    assert re.search(reason, str(done.exception))
    assert not Path("nothere.db").exists()


def test_info_tells_what_a_database_holds(tmp_path, pictures):
    build_insert_pipeline(uri=tmp_path / "x.db", collection_name="demo", model_name="colour")(pictures)
    place = ["--uri", str(tmp_path / "x.db")]
    found = json.loads(CliRunner().invoke(app, ["info", "--json", *place]).output)
    assert found["bytes"] > 0
    (one,) = found["collections"]
    assert (one["name"], one["rows"], one["model_name"], one["dim"]) == ("demo", 7, "colour", 3)
    assert "demo" in CliRunner().invoke(app, ["info", *place]).output


def test_a_page_that_cannot_be_written_is_refused_before_the_search(tmp_path, pictures):
    build_insert_pipeline(uri=tmp_path / "x.db", model_name="colour")(pictures)
    place = ["--uri", str(tmp_path / "x.db"), "--html", "/dev/null/page.html"]
    done = CliRunner().invoke(app, ["search", "a plain red background", *place])
    assert "cannot write /dev/null/page.html" in str(done.exception)
    assert done.output == ""


def test_a_misspelt_column_is_named_once_with_those_that_are_near(tmp_path):
    path = str(paint(tmp_path / "a.png", "red"))
    settings = {"uri": str(tmp_path / "x.db"), "model_name": "colour"}
    build_insert_pipeline(**settings)([{"path": path, "year": 2015, "35mm": 1, "GPS (lat)": 48.1}])
    query = "a plain red background"
    search = Searcher(**settings)
    with pytest.warns(UserWarning, match="no row has a column 'yeer'; the nearest are year"):
        assert search(query, where={"yeer": (">", 2000)}) == []
    assert search(query, where={"yeer": (">", 2000)}) == []  # a second warning would be an error
    with pytest.warns(UserWarning, match="'plaice'$"):
        assert len(build_search_pipeline(**settings, output_fields=["plaice", "year"])(query).get()[1]) == 1
    with pytest.warns(UserWarning, match="'albumm'$"):
        search(query, group_by="albumm")
    empty = Searcher(uri=tmp_path / "later.db", model_name="colour")
    build_insert_pipeline(uri=tmp_path / "later.db", model_name="colour")([str(tmp_path / "gone.png")])
    assert empty(query, where={"yeer": 1}) == []  # nothing is known of columns yet
    build_insert_pipeline(uri=tmp_path / "later.db", model_name="colour")([{"path": path, "year": 2015}])
    with pytest.warns(UserWarning, match="'yeer'; the nearest are year"):
        empty(query, where={"yeer": 1})
    for where in ({"35mm": 1}, {"GPS (lat)": (">", 48)}, {"year": (">", 2000)}, {"id": ("!=", "x")}):
        assert len(search(query, where=where, output_fields=["*", "year", "path"])) == 1
    assert search(query, where={"35mm": 2}) == []


def test_the_command_line_says_a_warning_in_one_line(tmp_path, capfd, monkeypatch):
    build_insert_pipeline(uri=tmp_path / "x.db", model_name="colour")(
        [{"path": str(paint(tmp_path / "a.png", "red")), "year": 2015}]
    )
    arguments = ["search", "a plain red background", "--uri", str(tmp_path / "x.db")]
    monkeypatch.setattr("sys.argv", ["t2i", *arguments, "--where", "yeer > 2000"])
    warnings.simplefilter("default")
    with pytest.raises(SystemExit):
        main()
    # other tests' objects may be collected meanwhile, and warn that they were not closed
    said = [line for line in capfd.readouterr().err.splitlines() if "yeer" in line or "warn" in line]
    assert [line for line in said if "unclosed" not in line and "ResourceWarning" not in line] == [
        "no row has a column 'yeer'; the nearest are year"
    ]


def test_templates_and_a_limit_count_for_one_call(tmp_path, pictures):
    settings = {"uri": tmp_path / "x.db", "model_name": "colour"}
    build_insert_pipeline(**settings)(pictures)
    search = Searcher(**settings)
    hits = search("red", templates="a plain {} background", limit=1)
    assert Path(hits[0].path).name == "red.png"
    assert [len(page) for page in search.iterate("a plain red background", batch_size=2, limit=5)] == [
        2,
        2,
        1,
    ]


def test_near_copies_are_found_by_a_threshold_that_fits_the_images(tmp_path):
    random = np.random.default_rng(3)
    vectors = random.normal(size=(60, 16)).astype(np.float32)
    vectors[50:] = vectors[:10] + random.normal(scale=0.02, size=(10, 16))
    collection = open_collection(tmp_path / "x.db")
    collection.prepare(Space("m", "w", "p", 16))
    rows = [
        {"id": f"{n:02}", "path": f"{n:02}", "vector": one, "size": 1, "mtime": 1, "digest": ""}
        for n, one in enumerate(vectors)
    ]
    collection.upsert(rows)
    groups = collection.duplicates()
    assert [[one.id for one in group] for group in groups] == [[f"{n:02}", f"{n + 50:02}"] for n in range(10)]
    assert all(0.99 < one.score <= 1.0001 for group in groups for one in group)
    shown = CliRunner().invoke(app, ["duplicates", "--uri", str(tmp_path / "x.db")]).output
    assert "10 groups, 10 images more than one of each" in shown
    none = (
        CliRunner().invoke(app, ["duplicates", "--threshold", "1.0", "--uri", str(tmp_path / "x.db")]).output
    )
    assert none.strip() == "no duplicates found; a lower --threshold finds images that are less alike"


def test_files_of_the_same_pixels_are_one_group_when_images_are_held_out(tmp_path):
    store = Store(Preprocess(32, CLIP_MEAN, CLIP_STD, "bicubic", "squash"))
    random = np.random.default_rng(0)
    paths = []
    for number in range(6):
        few = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        image = few.resize((96, 64), Image.Resampling.BICUBIC)
        for suffix, options in ((".png", {}), (".jpg", {"quality": 60}), (".webp", {})):
            image.save(tmp_path / f"{number}{suffix}", **options)
            paths.append(str(tmp_path / f"{number}{suffix}"))
    store.add(paths)
    assert store.groups().tolist() == [3 * (number // 3) for number in range(18)]
    store.close()


def test_of_equal_scores_the_right_image_counts_last_through_the_index_too(tmp_path):
    pairs = []
    for number in range(12):
        path = paint(tmp_path / f"{number:02}.png", "red", (16 + number, 16))
        pairs.append((str(path), f"a plain red background {number}"))
    pairs.append((str(paint(tmp_path / "blue.png", "blue")), "a plain blue background"))
    found = evaluate(pairs, model_name="colour", uri=tmp_path / "e.db")
    for name in ("R@1", "R@5", "R@10"):
        assert found[name].value == found.index[name].value == pytest.approx(1 / 13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_of_the_environment_is_not_asked_for_a_local_database(tmp_path, pictures, name):
    code = (
        "import sys, t2i_pipelines.testing\n"
        "from t2i_pipelines import build_insert_pipeline\n"
        "rows = build_insert_pipeline(uri=sys.argv[1], model_name='colour')(sys.argv[2]).to_list()\n"
        "print({status for _, _, status, _ in rows})\n"
    )
    unset = {"http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy"}
    environment = {key: value for key, value in os.environ.items() if key.lower() not in unset}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "x.db"), str(pictures)],
        env={**environment, name: "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.stdout == "{'inserted'}\n", done.stderr


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_are_held_out_together(tmp_path, seed):
    groups = np.repeat(np.arange(20), 2)
    rows = np.stack([np.arange(40), np.arange(40)], axis=1)
    learn, held_out = Material("pairs", rows, groups).split(0.25, np.random.default_rng(seed))
    assert not set(groups[learn.images]) & set(groups[held_out.images])
    assert 10 <= len(held_out.images) <= 11
    with pytest.raises(SourceError, match="all 40 images are near copies of one another"):
        Material("pairs", rows, np.zeros(40, np.int64)).split(0.25, np.random.default_rng(seed))


def test_a_pipeline_has_threads_of_its_own_in_a_forked_child(monkeypatch):
    pipeline = build_insert_pipeline(model_name="colour")
    here = pipeline._thread_pool
    assert pipeline._thread_pool is here
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert pipeline._thread_pool is not here
