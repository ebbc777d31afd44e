"""`t2i search`: what a line of words, images and signs finds."""

import json
from pathlib import Path

import pytest
from test_cli import COLOUR, t2i  # noqa: F401 - a fixture

from t2i_pipelines.images import path_key


@pytest.fixture
def found(t2i, pictures):  # noqa: F811
    """Insert the coloured images; search, and give the names that were found, best first."""
    t2i("insert", "pictures", *COLOUR)

    def search(*arguments):
        code, out, err = t2i("search", "--limit", 3, "--json", *COLOUR, *arguments)
        assert code == 0, err
        answer = json.loads(out)
        return answer["query"], [Path(hit["path"]).stem for hit in answer["hits"]]

    return search


def test_words_pictures_and_stored_pictures_are_weighed_and_summed(found, pictures):
    assert found("something red")[1][0] == "red"
    assert found("yellow - red^0.7")[1][0] == "green"
    assert found("./pictures/cyan.png^2 + red^1.4 - green^1.3")[1][0] == "magenta"
    white = path_key(str((pictures / "white.png").absolute()))
    assert found(f"like:{white} - blue^0.577")[1][0] == "yellow"
    assert found("pictures/blue.png")[1][0] == "blue"
    assert found("--", "- red + white")[1][0] == "cyan"


def test_quotes_make_words_of_anything(found):
    query, names = found('"red - yellow"')
    assert query == '"red - yellow"'
    assert names[0] == "yellow"  # red and yellow are nearer to yellow than to red


def test_templates_are_named_or_written(found):
    assert found("red", "--templates", "photo")[1][0] == "red"
    assert found("red", "--templates", "{} and blue")[1][0] == "magenta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dog +"], "nothing stands behind a '+' in the query 'dog +'"),
        (["dog - ./gone.png"], "gone.png: No such file or directory"),
        (["like:gone"], "no image has the id 'gone'"),
        (["  "], "the query is empty"),
        (["dog", "--templates", "photos"], "templates must be 'photo' or texts of your own"),
    ],
)
def test_what_cannot_be_searched_for_ends_with_2_and_one_line(t2i, found, arguments, message):  # noqa: F811
    code, out, err = t2i("search", *arguments, *COLOUR)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_help_says_what_can_be_searched_for(t2i):  # noqa: F811
    _, out, _ = t2i("search", "--help")
    assert "golden retriever^2 + ./pool.jpg - fruit" in " ".join(out.replace("│", " ").split())
    assert "--templates" in out
