"""The table of a terminal."""

import json

import pytest
from conftest import paint

from t2i_pipelines import Hit
from t2i_pipelines.cli import console
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.render import percent


@pytest.fixture
def shown(monkeypatch, capsys, tmp_path):
    """Show hits on 160 columns, in a folder of its own; give the lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def show(query: str, hits: list[Hit]) -> list[str]:
        console.show_hits(query, hits)
        return capsys.readouterr().out.splitlines()

    return show


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def test_relevance_has_a_column_where_there_is_one(shown, tmp_path):
    path = str(paint(tmp_path / "red.png", "red"))
    lines = shown("red", [Hit("a", 0.27, path, {}, 0.83), Hit("b", 0.2, path)])
    assert cells(lines[2]) == ["#", "score", "relevance", "path"]
    assert cells(lines[4]) == ["1", "0.270", "83%", "red.png"]
    assert cells(lines[5]) == ["2", "0.200", "", "red.png"]
    assert cells(shown("red", [Hit("a", 0.27, path)])[2]) == ["#", "score", "path"]


@pytest.mark.parametrize(
    ("share", "text"), [(None, ""), (0.0, "0%"), (0.009, "<1%"), (0.01, "1%"), (0.834, "83%"), (1.0, "100%")]
)
def test_a_share_is_read_in_per_cent(share, text):
    assert percent(share) == text


def test_a_deleted_file_is_marked(shown, tmp_path):
    gone = str(tmp_path / "gone.png")
    assert cells(shown("red", [Hit("a", 0.27, gone)])[4]) == ["1", "0.270", "gone.png (missing)"]
    assert "missing" not in "".join(shown("red", [Hit("a", 0.27, "https://example.org/a.png")]))


def test_ranks_and_fields_are_those_of_the_list(shown):
    hits = Hits(
        [Hit("a", 0.3, "/a", {"x": 1}), Hit("b", 0.2, "/b", {"y": 2})], options=SearchOptions(offset=9)
    )
    lines = shown("red", hits)
    assert cells(lines[2]) == ["#", "score", "path", "x", "y"]
    assert cells(lines[4])[0] == "10"
    assert cells(lines[5])[3:] == ["", "2"]


def test_it_says_that_nothing_matches(shown):
    assert shown("qwertz", Hits(no_match=True)) == ["qwertz: nothing matches"]
    assert shown("red", Hits()) == ["red: nothing is stored that could match"]
    assert shown("red", []) == ["red: nothing is stored that could match"]
    assert (
        "Probably nothing matches. These are the nearest"
        in shown("red", Hits([Hit("a", 0.1, "/a")], no_match=True))[-1]
    )


def test_text_of_others_gives_the_terminal_no_orders(shown):
    evil = "\x1b]0;gone\x07\x1b[2J\x9b1mcaf\udce9\u202e[bold]x[/bold]"
    text = "\n".join(shown(evil, [Hit("a", 0.3, f"/{evil}", {evil: evil})]))
    assert not set("\x1b\x07\x9b\udce9\u202e") & set(text)
    assert "[bold]x[/bold]" in text


def test_json_can_be_written_whatever_the_path(tmp_path):
    text = console.as_json("né", [Hit("a", 0.3, "/caf\udce9")])
    assert json.loads(text.encode("utf-8"))["hits"][0]["path"] == "/caf\udce9"
    assert "né" in console.as_json("né", [])


def test_json_says_whether_anything_matches():
    assert json.loads(console.as_json("red", Hits(no_match=True)))["no_match"] is True
    assert "no_match" not in json.loads(console.as_json("red", Hits()))


def test_json_has_the_relevance_where_there_is_one():
    read = json.loads(console.as_json("red", [Hit("a", 0.3, "/a", {"x": 1}, 0.8), Hit("b", 0.2, "/b")]))
    assert read["hits"] == [
        {"id": "a", "score": 0.3, "relevance": 0.8, "path": "/a", "x": 1, "fields": {"x": 1}},
        {"id": "b", "score": 0.2, "path": "/b", "fields": {}},
    ]
