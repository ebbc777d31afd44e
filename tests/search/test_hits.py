"""A result list is a list, keeps what made it, and goes on where it ends."""

import copy
import pickle

import pytest

from t2i_pipelines import Hit
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ConfigError, QueryError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Q

STORED = [Hit(f"id{rank}", 1 - rank / 100, f"/pictures/{rank}.jpg") for rank in range(40)]


def search(options: SearchOptions) -> Hits:
    found = STORED[options.offset : options.offset + options.limit]
    return Hits(found, query="a dog", options=options, again=search, no_match=False)


def test_it_is_a_list_of_hits():
    hits = search(SearchOptions(limit=3))
    assert hits == STORED[:3]
    assert isinstance(hits, list)
    assert [hit.id for hit in hits] == ["id0", "id1", "id2"]
    assert Hits() == []
    assert Hits().query is None
    assert Hits().no_match is None


def test_more_goes_on_where_the_list_ends():
    hits = search(SearchOptions(limit=10))
    following = hits.more(5)
    assert following == STORED[10:15]
    assert following.more(2) == STORED[15:17]
    assert hits.more() == STORED[10:20]
    assert following.query == "a dog"
    assert following.first_rank == 11


def test_more_past_the_end_is_empty():
    assert search(SearchOptions(limit=40)).more() == []


def test_more_past_the_window_of_milvus_says_what_goes_further():
    with pytest.raises(ConfigError, match=r"16,384.*Searcher\.iterate goes further"):
        search(SearchOptions(limit=10)).more(16384)


def test_a_part_keeps_query_and_verdict_and_goes_on_where_it_ends():
    hits = search(SearchOptions(limit=10, filter="year > 2015"))
    part = hits[2:5]
    assert type(part) is Hits
    assert (part.query, part.no_match) == ("a dog", False)
    assert part == STORED[2:5]
    assert part.first_rank == 3
    assert part.more(2) == STORED[5:7]
    assert part.options.filter == "year > 2015"
    assert hits[4:].more(3) == STORED[10:13]
    assert hits[0] is STORED[0]
    assert hits[-1] is STORED[9]


def test_the_end_of_a_list_that_was_thinned_out_goes_on_behind_what_was_asked_for():
    hits = Hits(STORED[:3], options=SearchOptions(limit=10, min_relevance=0.5), again=search)
    assert hits[1:].more(2) == hits.more(2) == STORED[10:12]


def test_a_part_of_an_empty_list_is_empty():
    assert Hits(options=SearchOptions())[:3] == []
    assert search(SearchOptions())[20:] == []


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda hits: pickle.loads(pickle.dumps(hits)), Hits.copy]
)
def test_a_copy_holds_all_but_the_connection(again):
    hits = search(SearchOptions(limit=3, offset=2))
    twin = again(hits)
    assert type(twin) is Hits
    assert twin == hits
    assert (twin.query, twin.no_match, twin.options) == ("a dog", False, SearchOptions(limit=3, offset=2))
    with pytest.raises(QueryError, match="copied, unpickled.*search again with offset=5"):
        twin.more(2)


def test_hits_put_together_by_hand_cannot_look_for_more():
    with pytest.raises(QueryError, match="put together by hand"):
        Hits(STORED[:3], query="a dog").more()


def test_every_other_hit_cannot_look_for_more():
    with pytest.raises(QueryError, match="cut with a step"):
        search(SearchOptions())[::2].more()


def test_it_reads_as_a_line_for_each_hit():
    hits = search(SearchOptions(limit=12))
    lines = repr(hits).splitlines()
    assert lines[0] == "<Hits: 12 hits for 'a dog'>"
    assert lines[1].split() == ["1", "1.000", "/pictures/0.jpg"]
    assert lines[10].split() == ["10", "0.910", "/pictures/9.jpg"]
    assert lines[11:] == ["  ... and 2 more"]
    assert repr(Hits()) == "<Hits: 0 hits. Nothing is stored that could match.>"
    one = Hits([Hit("a", -0.25, "/a", {"year": 2015}, 0.5)], query=Q("a dog") * 2 - "cat")
    assert repr(one) == "<Hits: 1 hit for 'a dog^2 - cat'>\n  1  -0.250   50%  /a  year=2015"


def test_to_pandas_has_a_row_for_each_hit():
    hits = Hits(
        [Hit("a", 0.5, "/a", {"year": 2015, "path": "mine"}, 0.9), Hit("b", 0.4, "/b", {"tag": "x"})],
        query="a dog",
        options=SearchOptions(offset=3),
        no_match=False,
    )
    table = hits.to_pandas()
    assert table.index.name == "rank"
    assert list(table.index) == [4, 5]
    assert list(table.columns) == ["id", "score", "relevance", "path", "year", "fields.path", "tag"]
    assert table.loc[4, ["id", "score", "relevance", "path", "year"]].tolist() == ["a", 0.5, 0.9, "/a", 2015]
    assert table["relevance"].isna().tolist() == [False, True]
    assert table["fields.path"].tolist()[0] == "mine"
    assert (table.attrs["query"], table.attrs["no_match"]) == ("a dog", False)


def test_to_pandas_of_nothing_has_the_same_types():
    empty, one = Hits().to_pandas(), Hits([Hit("a", 0.5, "/a")]).to_pandas()
    assert len(empty) == 0
    assert list(empty.columns) == ["id", "score", "relevance", "path"]
    assert empty.dtypes["score"] == one.dtypes["score"] == one.dtypes["relevance"] == "float64"
