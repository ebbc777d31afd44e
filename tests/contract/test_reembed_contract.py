"""A new model without downtime, on every engine."""

import contextlib
import time

import pytest
from conftest import COLOURS, paint
from two_models import Searching, SearchingElsewhere, answer

from t2i_pipelines import InsertReport, Searcher, build_insert_pipeline, close
from t2i_pipelines.collection import aliases, catalog, open_collection
from t2i_pipelines.errors import ModelMismatchError
from t2i_pipelines.jobs.reembed import drop_old, reembed, roll_back

pytest_plugins = ["milvus_backends"]

NAME = "renewed"
RECHECK = 0.4


@pytest.fixture
def place(milvus_backend, monkeypatch):
    """Where a collection is made and dropped; others are taken to know its names after 1.4 s."""
    monkeypatch.setattr(catalog, "RECHECK", RECHECK)
    with emptied(milvus_backend) as place:
        yield place


@contextlib.contextmanager
def emptied(milvus_backend):
    yield {"uri": milvus_backend.uri, "token": milvus_backend.token, "collection_name": NAME}
    collection = milvus_backend.open(NAME)
    client = collection.connection._open(30)
    with contextlib.suppress(Exception):
        client.drop_alias(NAME)
    for name in client.list_collections():
        if name.startswith(NAME):
            client.drop_collection(name)
    collection.connection.renamed.clear()
    close(milvus_backend.uri)


@pytest.fixture
def photos(tmp_path):
    for name in COLOURS:
        paint(tmp_path / "photos" / f"{name}.png", name)
    for number in range(40):
        paint(tmp_path / "photos" / f"{number:02}.png", (number + 5, 200 - number, 100))
    return tmp_path / "photos"


def insert(source, place, model_name="colour"):
    pipeline = build_insert_pipeline(model_name=model_name, batch_size=8, **place)
    return InsertReport.collect(pipeline(source)).counts


def paths(place):
    collection = open_collection(**place)
    with aliases.newest(collection):
        return sorted(row["path"] for page in collection.scan(["path"]) for row in page)


@pytest.mark.slow
def test_searches_go_on_while_everything_is_embedded_moved_and_rolled_back(
    place, photos, milvus_backend, monkeypatch
):
    insert(str(photos), place)
    red = open_collection(**place).search([[1, 0, 0]], limit=1)[0][0].id
    late, later = paint(photos / "late.png", (3, 200, 90)), paint(photos / "later.png", (4, 100, 90))
    late_rows = [[str(late)]]

    def meanwhile(outcome):
        if late_rows:
            insert(late_rows.pop(), place)
            open_collection(**place).delete([gone])

    gone = next(
        row["id"]
        for page in open_collection(**place).scan(["path"])
        for row in page
        if "07.png" in row["path"]
    )
    move, ask = aliases.move, aliases._ask

    def move_late(*arguments):
        insert([str(later)], place)  # after the last look
        move(*arguments)

    def ask_slowly(collection, method, *arguments, **more):
        if method == "create_alias":
            time.sleep(0.5)  # while there is no collection of this name
        return ask(collection, method, *arguments, **more)

    monkeypatch.setattr(aliases, "move", move_late)
    monkeypatch.setattr(aliases, "_ask", ask_slowly)
    # a flush at a `milvus-lite server` hides rows from other processes, and here one inserts meanwhile
    elsewhere = None if milvus_backend.name == "server" else contextlib.nullcontext()
    with (
        Searching("colour", **place) as here,
        Searching("auto", threads=1, **place) as follower,
        elsewhere or SearchingElsewhere("colour", RECHECK, **place) as there,
        elsewhere or SearchingElsewhere("auto", RECHECK, **place) as follower_there,
    ):
        result = reembed(model_name="turned", batch_size=8, progress=meanwhile, **place)
        monkeypatch.setattr(aliases, "move", move)
        assert answer(Searcher(model_name="turned", **place), "red") == "right"
        with Searching("turned", **place) as new:
            assert roll_back(**place) == (result.new, result.old)
            assert open_collection(place["uri"], place["token"], NAME).space().model_name == "colour"
            new.wait()
        assert roll_back(**place) == (result.old, result.new)
        here.wait()
    assert set(here.answers) == set(new.answers) == set(follower.answers) == {"right"}
    if there is not None:
        assert set(there.answers) == set(follower_there.answers) == {"right"}
    assert result.report.counts == {
        **dict.fromkeys(result.report.counts, 0), "inserted": 48, "deleted": 1,
    }  # fmt: skip
    assert (result.checks.rows, result.checks.stored, result.checks.found) == (47, 47, 47)
    expected = sorted(str(path) for path in photos.iterdir() if path.name != "07.png")
    assert paths(place) == expected
    assert open_collection(**place).rows([red], ["path"])[red]["path"].endswith("red.png")
    with pytest.raises(ModelMismatchError, match="holds vectors of 'turned'"):
        Searcher(model_name="blind", **place)("red")
    new_photo = str(paint(photos / "new.png", (9, 9, 90)))
    with pytest.raises(Exception, match="holds vectors of 'turned'"):
        insert([new_photo], place)
    assert paths(place) == expected, "what is written by the old model is not mixed in"
    assert insert([new_photo], place, "turned")["inserted"] == 1
    assert drop_old(**place) == [result.old]
    with pytest.raises(ModelMismatchError, match="holds vectors of 'turned'"):
        Searcher(model_name="colour", **place)("red")


@pytest.mark.slow
def test_a_name_is_moved_no_sooner_than_another_process_knows_the_names_behind_it(
    lite_server_backend, tmp_path, monkeypatch
):
    """With three images all would be done long before."""
    monkeypatch.setattr(catalog, "RECHECK", 2.0)
    for name in ("red", "green", "blue"):
        paint(tmp_path / "few" / f"{name}.png", name)
    with emptied(lite_server_backend) as place:
        insert(str(tmp_path / "few"), place)
        with SearchingElsewhere("colour", 2.0, **place) as there:
            time.sleep(1)
            reembed(model_name="turned", **place)
            time.sleep(2)
    assert set(there.answers) == {"right"}
