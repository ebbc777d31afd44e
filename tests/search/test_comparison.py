"""Two result lists side by side: what moved, what is new, what is gone."""

import pandas as pd
import pytest
from conftest import paint
from reading_html import Parsed, assert_harmless

from t2i_pipelines import Hit
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.search.hits import Comparison, Hits


def hits_of(names: str, **about: object) -> Hits:
    return Hits([Hit(name, 1 - rank / 10, f"/{name}.png") for rank, name in enumerate(names)], **about)


A, B = hits_of("abcd", query="a dog"), hits_of("cbxa", query="ein Hund")


def test_each_picture_has_its_rank_in_both():
    table = A.compare(B).to_pandas()
    expected = pd.DataFrame(
        {
            "id": list("abcdx"),
            "path": [f"/{name}.png" for name in "abcdx"],
            "rank_a": pd.array([1, 2, 3, 4, None], "Int64"),
            "rank_b": pd.array([4, 2, 1, None, 3], "Int64"),
            "change": pd.array([-3, 0, 2, None, None], "Int64"),
            "score_a": [1.0, 0.9, 0.8, 0.7, None],
            "score_b": [0.7, 0.9, 1.0, None, 0.8],
            "relevance_a": [float("nan")] * 5,
            "relevance_b": [float("nan")] * 5,
        }
    )
    pd.testing.assert_frame_equal(table, expected)
    assert table.attrs["labels"] == ("a dog", "ein Hund")
    assert A.compare(B).shared == 3


def test_relevance_is_that_of_each_list():
    one = Hits([Hit("a", 0.5, "/a", relevance=0.9)]).compare(Hits([Hit("a", 0.4, "/a", relevance=0.3)]))
    assert one.to_pandas()[["relevance_a", "relevance_b"]].values.tolist() == [[0.9, 0.3]]


def test_it_reads_as_a_line_for_each_picture():
    assert repr(A.compare(B)).splitlines() == [
        "<Comparison of 'a dog' and 'ein Hund': 3 of 4 in both>",
        "    1 -> 4    -3  /a.png",
        "    2 -> 2        /b.png",
        "    3 -> 1    +2  /c.png",
        "    4 -> -        /d.png",
        "    - -> 3        /x.png",
    ]
    assert repr(hits_of("abcdefghijklmnopqrstuvwxyz").compare(A)).splitlines()[-1] == "  ... and 6 more"


def test_a_page_shows_both_with_what_moved(tmp_path):
    path = str(paint(tmp_path / "c.png", "red"))
    right = Hits([Hit("c", 0.9, path), *B[1:]], query="ein Hund")
    place = A.compare(right).save_html(tmp_path / "out" / "page.html")
    for page in (A.compare(right)._repr_html_(), place.read_text("utf-8")):
        parsed = assert_harmless(page)
        assert parsed.tags.count("li") == 8
        assert "3 of 4 in both" in parsed.text
        assert [parsed.text.count(note) for note in ("▲ 2", "▼ 3", "=", "only here")] == [1, 1, 1, 2]
        assert len(parsed.values("src")) == 1


def test_two_models_are_told_apart_by_labels():
    one = A.compare(hits_of("ba", query="a dog"), labels=("ViT-B/32", "SigLIP"))
    assert one.labels == ("ViT-B/32", "SigLIP")
    text = Parsed(one._repr_html_()).text
    assert text.count("a dog") == 2
    assert "ViT-B/32" in text
    assert "SigLIP" in text
    assert A.compare(hits_of("ba", query="a dog")).labels == ("A", "B")
    assert A.compare(hits_of("ba")).labels == ("A", "B")


@pytest.mark.parametrize("labels", ["ab", ["one"], ["one", "two", "three"]])
def test_there_are_two_labels(labels):
    with pytest.raises(ConfigError, match="labels must be two names, got "):
        A.compare(B, labels=labels)


def test_a_picture_under_another_id_is_the_same_by_its_path():
    other = Hits([Hit("9", 0.5, "/b.png"), Hit("8", 0.4, "/a.png")])
    assert A[:2].compare(other).to_pandas()["change"].tolist() == [-1, 1]


def test_of_two_that_are_alike_the_better_counts():
    twice = Hits([Hit("8", 0.9, "/a.png"), Hit("9", 0.5, "/a.png")])
    assert A[:1].compare(twice).to_pandas()["rank_b"].tolist()[0] == 1


def test_ranks_are_those_of_the_lists():
    later = hits_of("ab", options=SearchOptions(offset=10))
    assert later.compare(hits_of("ba")).to_pandas()["rank_a"].tolist() == [11, 12]


def test_lists_without_hits_are_compared():
    assert Hits().compare(Hits()).shared == 0
    assert A.compare(Hits()).to_pandas()["rank_b"].isna().all()
    assert Hits().compare(A).to_pandas()["rank_a"].isna().all()
    assert "Nothing is stored that could match." in Parsed(Comparison(Hits(), A)._repr_html_()).text
