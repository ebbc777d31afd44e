"""Conditions, pages, groups and choices through the pipeline, the searcher and the command."""

import csv
import json
import pickle

import pytest
from conftest import COLOURS

from t2i_pipelines import Searcher, build_insert_pipeline, build_search_pipeline, cli
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ConfigError, QueryError


@pytest.fixture
def filled(pictures, settings):
    """Seven colours, each with a number, and most with a shade."""
    with (pictures / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "number", "shade", "note"])
        for number, name in enumerate(sorted(COLOURS)):
            writer.writerow(
                [f"{name}.png", number, "" if name == "white" else number % 2, f'{name}" or 1==1']
            )
    build_insert_pipeline(**settings)(str(pictures / "list.csv"))
    return settings


def names(hits):
    return [hit.path.rpartition("/")[2].removesuffix(".png") for hit in hits]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group_by": "shade"},
        {"collapse": 0.9},
        {"diversity": 0.5},
        {"radius": 0.0},
        {"where": {"number": ("!=", 3)}},
    ],
)
def test_more_hits_go_on_where_the_page_ends(filled, options):
    search = Searcher(**filled)
    whole = search("red", limit=7, **options)
    first = search("red", limit=2, **options)
    more = first.more(3)
    assert names(first) + names(more) == names(whole)[:5]
    assert names(first) + names(more) + names(more.more(9)) == names(whole)
    assert more.options.offset == 2
    assert len(whole) >= 3


def test_the_pipelines_hits_go_on_too_and_copies_say_why_they_cannot(filled):
    _, hits = build_search_pipeline(**filled, limit=2)("red").get()
    assert names(hits) + names(hits.more(2)) == names(Searcher(**filled)("red", limit=4))
    with pytest.raises(QueryError, match="copied, unpickled"):
        pickle.loads(pickle.dumps(hits)).more()


def test_a_list_of_queries_goes_on_one_by_one(filled):
    reds, blues = Searcher(**filled, limit=2)(["red", "blue"])
    assert names(blues) + names(blues.more(1)) == names(Searcher(**filled)("blue", limit=3))
    assert names(reds)[0] == "red"


def test_conditions_are_settings_of_the_pipeline(filled):
    search = build_search_pipeline(**filled, where={"number": ("in", [0, 2]), "shade": 0})
    assert names(search("red").get()[1]) == names(
        Searcher(**filled)("red", filter="number in [0, 2] and shade == 0")
    )
    with pytest.raises(ConfigError, match="'number' needs a value or a pair"):
        build_search_pipeline(**filled, where={"number": ("=>", 2)})


def test_the_words_of_users_stay_words(filled):
    search = Searcher(**filled)
    for text in ('red" or 1==1', '" or id != ""', "red') or ('' == ''"):
        found = search("red", where={"note": text})
        assert names(found) == (["red"] if text == 'red" or 1==1' else [])


@pytest.fixture
def t2i(filled, monkeypatch, capsys):
    """``t2i search red`` with these options, as ids' names."""

    def run(*arguments):
        options = ["--uri", filled["uri"], "--model-name", "colour", "--json", *arguments]
        monkeypatch.setattr("sys.argv", ["t2i", "search", "red", *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        if ended.value.code:
            return printed.err
        return [
            hit["path"].rpartition("/")[2].removesuffix(".png") for hit in json.loads(printed.out)["hits"]
        ]

    return run


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("--offset", 2, "--limit", 3), {"offset": 2, "limit": 3}),
        (("--where", "number > 2", "--where", "number<=5"), {"filter": "number > 2 and number <= 5"}),
        (("--where", 'note = red" or 1==1'), {"where": {"note": 'red" or 1==1'}}),
        (("--radius", 0.2, "--range-filter", 0.9), {"radius": 0.2, "range_filter": 0.9}),
        (("--group-by", "shade"), {"group_by": "shade"}),
        (("--collapse", 0.8), {"collapse": 0.8}),
        (("--diversity", 0.9, "--limit", 4), {"diversity": 0.9, "limit": 4}),
    ],
)
def test_the_command_has_the_options_too(t2i, filled, arguments, options):
    plain, found = t2i(), t2i(*arguments)
    assert found == names(Searcher(**filled)("red", **options)) != plain


def test_the_command_refuses_what_is_no_condition(t2i):
    assert "where 'number' is no condition; write for example 'year > 2015'" in t2i("--where", "number")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"offset": 16_384}, "offset must be .*16384"),
        ({"offset": 16_380, "limit": 5}, r"offset \+ limit must be at most 16,384, got 16380 \+ 5"),
        ({"range_filter": 0.5}, "needs a lower radius; got radius=None, range_filter=0.5"),
        ({"radius": 0.5, "range_filter": 0.5}, "needs a lower radius; got radius=0.5, range_filter=0.5"),
        ({"radius": -1.1}, "radius must be a number from -1 to 1, got -1.1"),
        ({"collapse": 1.1}, "collapse must be a number from 0 to 1, got 1.1"),
        ({"collapse": -0.1}, "collapse must be a number from 0 to 1, got -0.1"),
        ({"diversity": 2}, "diversity must be a number from 0 to 1, got 2"),
        ({"min_relevance": None}, "min_relevance must be a number from 0 to 1, got None"),
        ({"filter": "(year > 1"}, "its parentheses do not match"),
        ({"where": {"year": ("=>", 1)}}, "the operator one of"),
        ({"group_by": "vector"}, "group_by: vector cannot be compared"),
    ],
)
def test_an_option_that_cannot_work_is_named_with_what_it_may_be(options, words):
    with pytest.raises(ConfigError, match=words):
        SearchOptions(**options)


def test_an_unknown_option_is_named_beside_the_known():
    with pytest.raises(ConfigError, match="limitt.*limit, offset, "):
        SearchOptions.of(limitt=3)


def test_the_outermost_of_what_is_allowed_is_taken():
    asked = SearchOptions(offset=16_383, limit=1, radius=-1.0, range_filter=1.0, collapse=0.0, diversity=1.0)
    assert (asked.offset, asked.limit) == (16_383, 1)
    assert SearchOptions(limit=16_384).limit == 16_384
