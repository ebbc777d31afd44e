"""Relevance as a search gives it: where it comes from, how long it holds, and that it never breaks one."""

import json
import logging
import re
import threading

import numpy as np
import pytest
from conftest import memory_uri
from worded import THINGS, WordedEncoder, finder, rows_of, stored

from t2i_pipelines import Img, Like, Q, cli
from t2i_pipelines.collection import Collection, close, open_collection
from t2i_pipelines.errors import StoreError
from t2i_pipelines.search import relevance
from t2i_pipelines.search.relevance import NO_MATCH

FOREIGN = ["thimble", "sofa bed", "kumquat", "hurdle", "asdkjh", "xoxoq wpfl", "zzkrt", "marmot", "a lathe"]


@pytest.fixture
def settings(tmp_path):
    return {"uri": memory_uri(tmp_path), "model_name": "worded"}


@pytest.fixture
def filled(settings):
    """A collection that shows each of the things twice."""
    collection = open_collection(settings["uri"])
    collection.prepare(WordedEncoder.space)
    collection.upsert(list(rows_of(THINGS, 2)))
    return collection


@pytest.fixture
def search(filled, settings):
    return finder(settings)


@pytest.fixture
def made(monkeypatch):
    """How often a calibration is made."""
    calls = []
    real = relevance._made

    def count(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(relevance, "_made", count)
    return calls


def test_what_is_there_matches_and_what_is_not_does_not(search):
    found = {query: search(query) for query in [*THINGS, *FOREIGN]}
    others = []
    for query, hits in found.items():
        relevance = [hit.relevance for hit in hits]
        assert len(hits) == 10
        assert relevance == sorted(relevance, reverse=True)
        assert all(0 <= one <= 1 for one in relevance)
        assert hits.no_match == (relevance[0] < NO_MATCH)
        if query in THINGS:
            assert not hits.no_match
            assert {hit.id for hit in hits[:2]} == {f"{query}-0", f"{query}-1"}
            assert relevance[1] > 0.95
            others += relevance[2:]
    # one unrelated query in twenty may match
    assert np.mean([one >= 0.5 for one in others]) < 0.05
    assert sum(found[query][0].relevance < 0.5 for query in FOREIGN) >= len(FOREIGN) - 1
    assert np.mean([found[query].no_match for query in FOREIGN]) > 0.6


def test_things_that_the_background_names_match_too(settings, filled):
    named = [query for query in relevance.background().everyday if re.fullmatch("[a-z]{3,}", query)]
    filled.upsert(list(rows_of(named, 2)))
    search = finder(settings)
    assert [query for query in [*named, *THINGS] if search(query).no_match] == []


def test_hits_below_min_relevance_are_left_out(search, settings):
    everything = search("anchor")
    strict = finder(settings, min_relevance=0.5)
    assert [hit.id for hit in strict("anchor")] == [hit.id for hit in everything if hit.relevance >= 0.5]
    assert len(strict("anchor")) == 2
    nothing = strict("marmot")
    assert (list(nothing), nothing.no_match) == ([], True)
    assert len(finder(settings, min_relevance=0)("marmot")) == 10


def test_the_command_line_leaves_them_out_too(filled, settings, capsys, monkeypatch):
    close()

    def t2i(*arguments):
        options = ["--uri", settings["uri"], "--model-name", "worded", "--json"]
        monkeypatch.setattr("sys.argv", ["t2i", "search", *arguments, *options])
        with pytest.raises(SystemExit):
            cli.main()
        return json.loads(capsys.readouterr().out)

    found = t2i("anchor", "--min-relevance", "0.5")
    assert [hit["id"] for hit in found["hits"]] == ["anchor-0", "anchor-1"]
    assert all(hit["relevance"] > 0.95 for hit in found["hits"])
    assert found["no_match"] is False
    assert t2i("marmot", "--min-relevance", "0.5") == {"query": "marmot", "no_match": True, "hits": []}
    assert len(t2i("marmot")["hits"]) == 10


def test_many_queries_are_judged_one_by_one(search):
    queries = ["anchor", "marmot", "a drum"]
    together = search(queries)
    for hits, query in zip(together, queries, strict=True):
        assert [hit.relevance for hit in hits] == pytest.approx(
            [hit.relevance for hit in search(query)], abs=1e-6
        )
    assert [hits.no_match for hits in together] == [False, True, False]


@pytest.mark.parametrize(
    "query",
    [
        np.full((4, 4, 3), 7, np.uint8),
        Like("drum-0"),
        Img(np.full((4, 4, 3), 7, np.uint8)) + Q("drum"),
        Q("drum") - Q("anchor"),
    ],
)
def test_only_words_are_calibrated_and_nothing_else_is_left_out(settings, filled, query):
    hits = finder(settings, min_relevance=0.99)(query)
    assert len(hits) == 10
    assert [hit.relevance for hit in hits] == [None] * 10
    assert hits.no_match is None


def test_words_in_templates_are_not_calibrated_for(settings, filled):
    hits = finder(settings, templates="photo", min_relevance=0.99)("anchor")
    assert ([hit.relevance for hit in hits], hits.no_match) == ([None] * 10, None)


def test_sums_of_words_are_words(search):
    assert search(Q("drum") + Q("anchor")).no_match is False
    assert search(Q("marmot") + Q("thimble")).no_match is True


def test_the_calibration_is_stored_with_the_collection_and_no_row(search, filled, settings, made):
    before = filled.count()
    first = [hit.relevance for hit in search("anchor")]
    assert stored(filled).rows == filled.count() == before == 2 * len(THINGS)
    assert {row["id"] for page in filled.scan([]) for row in page} == {
        row["id"] for row in rows_of(THINGS, 2)
    }
    assert filled.space() == WordedEncoder.space
    close()
    assert [hit.relevance for hit in search("anchor")] == pytest.approx(first, abs=1e-6)
    assert len(made) == 1


def test_it_is_made_anew_once_the_collection_has_grown_or_shrunk(search, filled, made, monkeypatch):
    monkeypatch.setattr(relevance, "RECHECK", 0.0)
    rows = 2 * len(THINGS)
    search("anchor")
    for more, makes in ((0.4, 1), (0.2, 2), (0.6, 2), (1.0, 3)):
        new = [f"thing{filled.count() + number}" for number in range(int(more * rows))]
        filled.upsert(list(rows_of(new)))
        time_passes(filled)
        search("anchor")
        assert len(made) == makes, filled.count()
    assert stored(filled).rows == filled.count()
    filled.delete(
        [row["id"] for row in rows_of(THINGS, 2)] + [f"thing{number}-0" for number in range(60, 100)]
    )
    time_passes(filled)
    assert search("anchor").no_match
    assert len(made) == 4
    assert stored(filled).rows == filled.count()


def time_passes(collection) -> None:
    relevance._kept[collection].until = 0.0


def test_it_is_looked_at_again_only_after_a_while(search, filled, monkeypatch):
    search("anchor")
    monkeypatch.setattr(filled, "count", pytest.fail)
    assert search("anchor")[0].relevance > 0.5


def test_a_collection_that_was_dropped_and_made_again_is_another_one(search, filled, made):
    before = search("anchor")
    filled.drop()
    filled.prepare(WordedEncoder.space)
    filled.upsert(list(rows_of([f"other{number}" for number in range(60)])))
    after = search("anchor")
    assert len(made) == 2
    assert after[0].relevance < 0.5 < before[0].relevance


def test_too_few_pictures_are_not_calibrated_for(settings, made):
    collection = open_collection(settings["uri"])
    collection.prepare(WordedEncoder.space)
    collection.upsert(list(rows_of(THINGS[: relevance.LEAST_ROWS - 1])))
    hits = finder(settings, min_relevance=0.9)("anchor")
    assert len(hits) == relevance.LEAST_ROWS - 1
    assert (hits[0].relevance, hits.no_match) == (None, None)
    assert (made, stored(collection)) == ([], None)


def test_where_there_is_no_collection_nothing_is_said(settings, made):
    hits = finder(settings, min_relevance=0.9)("anchor")
    assert (list(hits), hits.no_match, made) == ([], None, [])


def test_where_it_cannot_be_stored_it_stays_in_memory(search, filled, made, monkeypatch, caplog):
    def refuse(*arguments):
        raise StoreError("no right to change the collection")

    monkeypatch.setattr(Collection, "write_note", refuse)
    caplog.set_level(logging.INFO, "t2i_pipelines.search.relevance")
    for _ in range(2):
        assert search("anchor")[0].relevance > 0.5
        time_passes(filled)
    assert (len(made), stored(filled)) == (1, None)
    assert "stays in memory: no right to change the collection" in caplog.text
    monkeypatch.setattr(relevance._kept[filled], "state", object())  # another collection of that name
    assert search("anchor")[0].relevance > 0.5
    assert len(made) == 2


def test_a_failure_leaves_hits_without_relevance_and_one_warning(search, filled, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError("the model's file is gone")

    monkeypatch.setattr(relevance, "embedded", fail)
    for _ in range(3):
        hits = search("anchor")
        assert (len(hits), hits[0].relevance, hits.no_match) == (10, None, None)
        time_passes(filled)
    (warning,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert warning.name == "t2i_pipelines.search.relevance"
    assert "no relevance for" in warning.message
    assert "OSError: the model's file is gone" in warning.message


def test_a_failed_look_leaves_what_is_known_of_the_same_collection_only(search, filled, monkeypatch):
    before = search("anchor")[0].relevance

    def fail(*arguments):
        raise StoreError("no answer")

    monkeypatch.setattr(Collection, "read_note", fail)
    time_passes(filled)
    assert search("anchor")[0].relevance == pytest.approx(before, abs=1e-6)
    filled.drop()
    filled.prepare(WordedEncoder.space)
    filled.upsert([{**row, "path": "/elsewhere.jpg"} for row in rows_of(THINGS, 1)])
    monkeypatch.setattr(relevance._kept[filled], "state", object())  # as a server tells of the new collection
    assert search("anchor")[0].relevance is None


def test_a_failure_is_not_met_again_by_every_search(search, made, monkeypatch):
    monkeypatch.setattr(relevance, "embedded", lambda encoder: [][0])
    for _ in range(3):
        search("anchor")
    assert len(made) == 1


def test_what_is_stored_by_another_model_or_background_is_not_used(search, filled, made, monkeypatch):
    search("anchor")
    before = relevance.background()
    other = relevance.Background(before.everyday[5:], before.elsewhere)
    close()
    monkeypatch.setattr(relevance, "background", lambda: other)
    search("anchor")
    assert len(made) == 2
    assert stored(filled).background == other.digest != before.digest


def test_threads_that_come_first_together_make_one(search, made):
    gate = threading.Barrier(8)
    found = []

    def ask():
        gate.wait()
        found.append(search("anchor")[0].relevance)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(found) == 8
    assert len(set(found)) == 1
