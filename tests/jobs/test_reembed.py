"""What ``reembed`` keeps, resumes, refuses and says."""

import json
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint
from serving import search, serving
from test_cli import t2i  # noqa: F401 - a fixture
from two_models import Searching, Turned, answer

from t2i_pipelines import InsertReport, Searcher, build_insert_pipeline, close, sync
from t2i_pipelines.collection import aliases, open_collection
from t2i_pipelines.collection.catalog import RENAMED, generation
from t2i_pipelines.errors import (
    CollectionNotFoundError,
    ConfigError,
    ModelMismatchError,
    StoreError,
    SwapRefusedError,
)
from t2i_pipelines.jobs.reembed import drop_old, reembed, roll_back
from t2i_pipelines.jobs.reembed.work import Account, Checks, Recall, find_themselves
from t2i_pipelines.operators.milvus import MilvusInsert
from t2i_pipelines.types import Batch, Hit, Outcome, Record

FIELDS = ("path", "size", "mtime", "digest", "$meta")
STATUSES = dict.fromkeys(InsertReport().counts, 0)


@pytest.fixture
def place(tmp_path):
    return {"uri": tmp_path / "milvus.db", "collection_name": "photos"}


def insert(source, place, **settings):
    return build_insert_pipeline(**{"model_name": "colour", **place, **settings})(source).to_list()


def rows(place, name, *fields):
    collection = open_collection(**{**place, "collection_name": name})
    found = [row for page in collection.scan([*(fields or FIELDS)]) for row in page]
    return {row["id"]: {key: value for key, value in row.items() if value is not None} for row in found}


def stands_for(place):
    return aliases.entry_of(open_collection(**place)).real_name


def test_the_new_collection_is_stored_as_the_old_one_is(place, tmp_path):
    paint(tmp_path / "a.png", "red")
    insert([{"path": str(tmp_path / "a.png"), "album": "Rome"}], place, partition_key="album")
    old = aliases.entry_of(open_collection(**place))
    assert old.storage.partition_key == "album"
    result = reembed(model_name="turned", **place)
    new = aliases.entry_of(open_collection(**place))
    assert (new.real_name, new.storage) == (result.new, old.storage)
    assert [one["album"] for one in rows(place, "photos", "album").values()] == ["Rome"]
    assert result.new != result.old


def test_rows_keep_all_but_their_vectors_wherever_their_pictures_are(place, tmp_path):
    paint(tmp_path / "a.png", "red")
    paint(tmp_path / "in.png", "green")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(tmp_path / "in.png", "in.png")
    (tmp_path / "table.csv").write_text('id,path,year,note\none,a.png,2015,"qu\'ote"\n')
    insert(str(tmp_path / "table.csv"), place)
    insert(str(tmp_path / "some.tar"), place)
    insert([str(tmp_path / "a.png")], place)
    before = rows(place, "photos")
    result = reembed(model_name="turned", **place)
    assert rows(place, "photos") == before
    assert len(before) == 3
    assert before["one"]["year"] == 2015
    assert result.report.counts == {**STATUSES, "inserted": 3}
    vectors = rows(place, "photos", "vector")
    assert np.asarray(vectors["one"]["vector"]).tolist() == [0, 1, 0]
    assert rows(place, result.old) == before
    assert np.asarray(rows(place, result.old, "vector")["one"]["vector"]).tolist() == [1, 0, 0]


def test_a_file_that_changed_meanwhile_is_seen_by_the_next_sync(place, pictures):
    insert(str(pictures), place)
    paint(pictures / "red.png", "cyan", (20, 20))
    before = rows(place, "photos")
    reembed(model_name="turned", **place)
    (red,) = [id for id, row in before.items() if row["path"].endswith("red.png")]
    now = rows(place, "photos")
    assert {id for id in now if now[id] != before[id]} == {red}
    assert (now[red]["size"], now[red]["mtime"]) == (before[red]["size"], before[red]["mtime"])
    report = sync(pictures, model_name="turned", **place)
    assert report.counts == {**STATUSES, "unchanged": 7}
    assert rows(place, "photos")[red]["size"] == (pictures / "red.png").stat().st_size


def test_nothing_is_embedded_twice_and_a_model_that_is_there_already_is_said(place, pictures):
    insert(str(pictures), place)
    reembed(model_name="turned", **place)
    again = reembed(model_name="turned", **place)
    assert again.report.counts == STATUSES
    assert str(again.report).splitlines()[1] == (
        "  'photos' is of this model already, so there was nothing to do"
    )
    (pictures / "blue.png").unlink()  # no file is opened of what is in the new collection already
    back = reembed(model_name="colour", **place)
    assert back.report.counts == {**STATUSES, "unchanged": 7}
    assert answer(Searcher(model_name="colour", **place), "red") == "right"


def test_rows_that_the_new_collection_has_and_the_old_one_lacks_are_deleted(place, pictures):
    insert(str(pictures), place)
    reembed(model_name="turned", **place)
    open_collection(**place).delete([next(iter(rows(place, "photos")))])
    insert([str(paint(pictures / "new.png", (1, 2, 3)))], place, model_name="turned")
    done = reembed(model_name="colour", **place)
    assert done.report.counts == {**STATUSES, "unchanged": 6, "inserted": 1, "deleted": 1}
    assert done.report.total == len(rows(place, "photos")) == 7


def test_a_missing_file_fails_and_the_name_is_not_moved_unless_by_force(place, pictures):
    insert(str(pictures), place)
    (pictures / "cyan.png").unlink()
    report = InsertReport()
    refused = (
        r"'photos' stays with 'photos_\w{12}', since in 'photos_\w{12}' 1 of 7 images failed, which is more"
    )
    with pytest.raises(SwapRefusedError, match=refused):
        reembed(model_name="turned", report=report, **place)
    assert report.counts == {**STATUSES, "inserted": 6, "failed": 1}
    (failed,) = report.failed
    assert (failed.reason.stage, failed.path) == ("read", str(pictures / "cyan.png"))
    assert answer(Searcher(model_name="colour", **place), "red") == "right"
    with pytest.raises(StoreError, match="holds vectors of 'colour'"):
        Searcher(model_name="turned", **place)("red")
    done = reembed(model_name="turned", force=True, **place)
    assert done.report.counts == {**STATUSES, "unchanged": 6, "failed": 1}
    assert str(done.checks).splitlines()[0] == "6 of 7 rows are in the new collection"
    assert answer(Searcher(model_name="turned", **place), "red") == "right"


def test_one_in_a_hundred_may_fail(place, tmp_path):
    for number in range(100):
        paint(tmp_path / "many" / f"{number}.png", (number + 5, 200 - number, 100))
    insert(str(tmp_path / "many"), place)
    (tmp_path / "many" / "7.png").unlink()
    assert reembed(model_name="turned", **place).report.counts["failed"] == 1


def test_a_recall_that_falls_on_given_pairs_keeps_the_name(place, tmp_path):
    for number in range(20):
        paint(tmp_path / "grey" / f"{number:02}.png", (90 + number, 90, 90))
    paint(tmp_path / "grey" / "zz.png", "red")
    pairs = [(tmp_path / "grey" / "zz.png", "red")]
    # equal scores come by id, so that zz comes last where all are equal
    insert([{"path": str(path), "id": path.stem} for path in (tmp_path / "grey").iterdir()], place)
    with pytest.raises(SwapRefusedError, match=r"recall@10 fell from 1\.000 to 0\.000, by more than 0\.02"):
        reembed(model_name="blind", pairs=pairs, **place)
    done = reembed(model_name="turned", pairs=pairs, **place)
    assert str(done).splitlines()[-1] == "recall@10 on 1 texts: 1.000, 1.000 before"
    assert reembed(model_name="blind", pairs=pairs, tolerance=1.0, **place).checks.recall == Recall(1, 0, 1)


def test_rows_that_vanish_from_the_new_collection_are_noticed(place, pictures):
    insert(str(pictures), place)
    told = []

    def lose(outcome):
        told.append(outcome)
        if len(told) == 7:
            open_collection(**{**place, "collection_name": new}).delete([outcome.id])

    new = generation("photos", Turned.space)
    with pytest.raises(SwapRefusedError, match="6 rows are stored, and 7 should be"):
        reembed(model_name="turned", progress=lose, **place)
    assert stands_for(place) != new


class Found:
    """A collection of which each row finds what it is told."""

    def __init__(self, found):
        self._found = found

    def rows(self, ids, fields):
        return {id: {"id": id, "vector": [1.0, 0.0]} for id in ids}

    def search(self, vectors, limit):
        return [[Hit(id, score, "p") for id, score in one] for one in self._found][: len(vectors)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("a", 1.0), ("b", 0.5)], 1),
        ([("b", 1.0), ("a", 0.99999)], 1),
        ([("b", 1.0), ("a", 0.9)], 0),
        ([("b", 0.9)], 0),
        ([("b", 0.7), ("a", 0.7)], 0),
        ([], 0),
        ([(f"{n}", 1.0) for n in range(10)], 1),
        ([(f"{n}", 1.0 - n / 10) for n in range(10)], 0),
    ],
    ids=["itself", "a copy", "another", "lost", "of another model", "nothing", "ten copies", "ten others"],
)
def test_a_row_finds_itself_or_what_is_as_near(found, expected):
    assert find_themselves(Found([found]), ["a"]) == expected


def test_each_check_has_its_own_refusal():
    good = Checks(1000, 990, 10, 0, 200, 198)
    assert good.refusals(0.02) == []
    assert Checks(1000, 989, 11, 0, 200, 200).refusals(0.02) == [
        "11 of 1,000 images failed, which is more than 1%"
    ]
    assert Checks(1000, 999, 0, 1, 200, 200).refusals(0.02) == ["999 rows are stored, and 1,000 should be"]
    assert Checks(10, 11, 0, 0, 10, 10).refusals(0.02) == ["11 rows are stored, and 10 should be"]
    assert Checks(1000, 1000, 0, 0, 200, 197).refusals(0.02) == ["only 197 of 200 rows find themselves"]
    fell = Checks(9, 9, 0, 0, 9, 9, Recall(50, 0.87, 0.9))
    assert fell.refusals(0.02) == ["recall@10 fell from 0.900 to 0.870, by more than 0.02"]
    assert fell.refusals(0.04) == []
    unknown = Recall(50, 0.1, None, "no such file")
    assert Checks(9, 9, 0, 0, 9, 9, unknown).refusals(0.0) == []
    assert str(unknown).endswith("0.100, the old model cannot be measured: no such file")


KILLED = """
    import sys
    sys.path.insert(0, {tests!r})
    from two_models import Turned
    from t2i_pipelines.jobs.reembed import reembed
    Turned.pause = 0.1
    tell = lambda outcome: print(outcome.id, outcome.status, flush=True)
    reembed(uri={uri!r}, collection_name="photos", model_name="turned", batch_size=5, progress=tell)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 31])
def test_a_run_that_is_killed_is_ended_by_the_next(place, tmp_path, after):
    for number in range(60):
        paint(tmp_path / "many" / f"{number}.png", (number + 5, 200 - number, 100))
    insert(str(tmp_path / "many"), place)
    expected = rows(place, "photos")
    close()
    code = KILLED.format(tests=str(Path(__file__).parents[1]), uri=str(place["uri"]))
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as process:
        told = [process.stdout.readline() for _ in range(after)]
        process.kill()
        told += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    told = {line.split()[0] for line in told if line.endswith("inserted\n")}
    assert after <= len(told) < 60, "the kill came too early or too late to prove anything"
    new = generation("photos", Turned.space)
    kept = rows(place, new)
    assert told <= kept.keys()
    assert stands_for(place) != new
    done = reembed(model_name="turned", **place)
    assert done.report.counts == {**STATUSES, "unchanged": len(kept), "inserted": 60 - len(kept)}
    assert rows(place, "photos") == expected
    assert stands_for(place) == new


def test_each_step_that_writes_refuses_the_old_model_once_the_name_is_moved(place, pictures):
    insert(str(pictures), place)
    done = reembed(model_name="turned", **place)
    step = MilvusInsert(model_name="colour", **place)
    one = {"id": "x", "path": "x.png", "vector": np.ones(3, np.float32)}
    for late in ([one], Batch([Record("x.png", "x", vector=one["vector"])])):
        with pytest.raises(ModelMismatchError, match="holds vectors of 'turned'"):
            step(late)
    assert "x" not in {**rows(place, done.old), **rows(place, done.new)}


class Killed(Exception):
    """Where the process would have ended."""


def test_a_run_that_was_killed_at_the_move_is_ended_by_the_next(place, pictures, monkeypatch):
    insert(str(pictures), place)
    late = str(paint(pictures / "late.png", (1, 2, 3)))

    def die(collection):
        if stands_for(place) == generation("photos", Turned.space):
            raise Killed

    move = aliases.move
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "wait_for_others", die)
        patch.setattr(aliases, "move", lambda *some: (insert([late], place), move(*some)))
        with pytest.raises(Killed):
            reembed(model_name="turned", **place)
    insert([str(paint(pictures / "newer.png", (3, 2, 1)))], place, model_name="turned")
    assert late not in {row["path"] for row in rows(place, "photos").values()}
    assert reembed(model_name="turned", **place).report.counts == {**STATUSES, "unchanged": 7, "inserted": 1}
    assert {Path(row["path"]).name for row in rows(place, "photos").values()} == {
        *(f"{name}.png" for name in COLOURS), "late.png", "newer.png",
    }  # fmt: skip
    open_collection(**place).delete(list(rows(place, "photos")))
    assert reembed(model_name="turned", **place).report.counts == STATUSES, "deleted rows came back"


def test_a_process_that_was_suspended_while_a_renaming_was_announced_finds_the_new_name(
    place, pictures, monkeypatch
):
    insert(str(pictures), place)
    searcher = Searcher(model_name="colour", **place)
    assert answer(searcher, "red") == "right"
    collection, renamed = open_collection(**place), generation("photos", open_collection(**place).space())
    with collection.connection.kept_open():
        collection.write("alter_collection_properties", properties={RENAMED: renamed})
        aliases._ask(collection, "rename_collection", "photos", renamed)
    assert answer(searcher, "red") == "right"
    assert answer(Searcher(model_name="auto", **place), "red") == "right"
    collection.connection.entries.clear()
    collection.connection.renamed.clear()
    assert answer(searcher, "red") == "right"


def test_a_name_that_was_lost_between_two_names_is_found_again(place, pictures, monkeypatch):
    insert(str(pictures), place)
    ask = aliases._ask

    def die(collection, method, *arguments, **more):
        if method == "create_alias":
            raise Killed
        return ask(collection, method, *arguments, **more)

    with Searching("colour", **place) as here, monkeypatch.context() as patch:
        patch.setattr(aliases, "_ask", die)
        with pytest.raises(Killed):
            reembed(model_name="turned", **place)
        assert answer(Searcher(model_name="colour", **place), "red") == "right", "this process knows the name"
    assert set(here.answers) == {"right"}
    reembed(model_name="turned", **place)
    assert answer(Searcher(model_name="turned", **place), "red") == "right"


def test_a_service_goes_on_by_the_model_that_it_has(place, pictures, tmp_path):
    insert(str(pictures), place)
    with serving(tmp_path, settings=place, roots=[pictures]) as http:
        (before, *_) = search(http, text="red", limit=1)
        reembed(model_name="turned", **place)
        assert search(http, text="red", limit=1) == [before]
        assert http.get(before["links"]["image"]).json()["path"] == "pictures/red.png"
        assert http.get(before["links"]["thumbnail"]).status_code == 200
        http.app.state.service._believed_until = 0.0
        assert http.get("/readyz").status_code == 200


def test_what_cannot_be_moved_is_said(place, pictures):
    with pytest.raises(CollectionNotFoundError, match=r"there is no database .*milvus\.db; insert"):
        reembed(model_name="turned", **place)
    assert not place["uri"].exists()
    with pytest.raises(CollectionNotFoundError, match="there is no database"):
        roll_back(**place)
    insert(str(pictures), place)
    with pytest.raises(ConfigError, match="'photos' stands for 'photos', and for nothing before"):
        roll_back(**place)
    assert drop_old(**place) == []
    with pytest.raises(ConfigError, match="tolerance must be"):
        reembed(model_name="turned", tolerance=2, **place)
    taken = generation("photos", open_collection(**place).space())
    insert(str(pictures), {**place, "collection_name": taken})
    with pytest.raises(StoreError, match=f"would be called '{taken}', which is there already"):
        reembed(model_name="turned", **place)
    assert answer(Searcher(model_name="colour", **place), "red") == "right"


def test_a_name_is_the_same_at_every_run_and_never_too_long():
    name = generation("photos", Turned.space)
    assert re.fullmatch(r"photos_[0-9a-f]{12}", name)
    assert len(generation("x" * 255, Turned.space)) == 255
    other = {"weights": "w", "preprocessing": "p", "dim": 4}
    names = {
        generation("photos", type(Turned.space)(**{**vars(Turned.space), **{k: v}})) for k, v in other.items()
    }
    assert len(names | {name}) == 4


def test_the_command_embeds_rolls_back_and_drops(t2i, pictures):  # noqa: F811
    colour = ["--model-name", "colour"]
    assert t2i("insert", "pictures", *colour)[0] == 0
    code, out, err = t2i("reembed", "--model-name", "turned", "--report", "r.json")
    assert (code, out) == (0, "")
    said = [line.strip() for line in err.splitlines()]
    assert "7 images: 7 inserted, 0 unchanged, 0 failed" in said[-6]
    assert said[-3:-1] == ["7 of 7 rows are in the new collection", "7 of 7 find themselves first"]
    assert re.fullmatch(r"image_collection is image_collection_\w{12}", said[-1])
    assert json.loads(Path("r.json").read_text())["counts"]["inserted"] == 7
    assert "red.png" in t2i("search", "red", "--model-name", "turned")[1]
    code, _, err = t2i("reembed", "--roll-back")
    assert (code, bool(re.match(r"image_collection is \w+ again, no longer \w+", err))) == (0, True)
    code, _, err = t2i("reembed", "--drop-old")
    assert (code, bool(re.match(r"dropped image_collection_\w{12}", err))) == (0, True)
    assert t2i("reembed", "--drop-old")[2].strip() == "dropped nothing"


def test_the_command_says_what_failed_and_what_it_needs(t2i, pictures):  # noqa: F811
    t2i("insert", "pictures", "--model-name", "colour")
    for wrong in ([], ["--roll-back", "--drop-old"], ["--model-name", "turned", "--roll-back"]):
        code, _, err = t2i("reembed", *wrong)
        assert (code, "takes one of --model-name, --roll-back and --drop-old" in err) == (2, True)
    (pictures / "red.png").unlink()
    code, _, err = t2i("reembed", "--model-name", "turned")
    assert (code, "1 of 7 images failed" in err, "--force" in err) == (2, True, True)
    code, _, err = t2i("reembed", "--model-name", "turned", "--force")
    assert (code, "failed cannot read image" in err) == (1, True)


def test_an_account_knows_what_is_new_changed_gone_done_and_lacking():
    def row(id, size=1, content=1):
        return {"id": id, "size": size, "mtime": 1, "digest": f"{content:032x}:"}

    def to_do():
        return [id for some in account.ids("todo", 1) for id in some]

    report = InsertReport(keep_rows=True)
    account = Account(report, None)
    assert account.look([[row("a"), row("b")], [row("c"), row("d")]]) == []
    assert to_do() == ["a", "b", "c", "d"]
    for id, status in (("a", "inserted"), ("b", "failed"), ("c", "inserted"), ("d", "inserted")):
        account.tell(Outcome(f"/{id}", id, status, ""))
    assert account.look([[row("a"), row("b", size=2), row("c", content=2), row("e")]]) == ["d"]
    assert (to_do(), len(account)) == (["b", "c", "e"], 4)
    assert set(account.of(["a", "b", "nobody"], "todo")) == {"b"}
    account.tell(Outcome("/d", "d", "deleted", ""))
    account.tell(Outcome("/b", "b", "updated", ""))
    assert [(one.id, one.status) for one in report.rows] == [
        ("a", "inserted"), ("c", "inserted"), ("d", "deleted"), ("b", "updated"),
    ]  # fmt: skip
    assert (report.counts["inserted"], report.counts["failed"], report.failed) == (2, 0, [])
    account.tell(Outcome("/c", "c", "failed", ""))
    assert account.compare([[row("a"), row("z")], [row("b")]]) == ["z"]
    assert (account.stored, account.missing()) == (3, (1, 1)), "c failed, and e is lost"
    assert sorted(account.sample(9)) == ["a", "b"]
    assert account.sample(1) == account.sample(1)
    assert account.compare([]) == []
    assert account.missing() == (1, 3)
