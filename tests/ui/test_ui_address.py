"""The address of a search: it is read as what was written, and names what cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.errors import QueryError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Img, Like
from t2i_pipelines.ui.address import Link, link_of, read, write
from t2i_pipelines.ui.finding import MOST, Found, Start, Wanted

OWN = Wanted(limit=20)

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
columns = st.text(st.characters(categories=["L", "N"], include_characters="_=&.% "), min_size=1, max_size=20)
values = (
    texts
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
)
wanted = st.builds(
    Wanted,
    limit=st.integers(1, MOST),
    min_relevance=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    filter=st.sampled_from(["", "year > 2015", 'camera == "a&b=c#?"']),
    where=st.lists(st.tuples(columns.map(str.strip).filter(bool), values), max_size=4).map(tuple),
    fold=st.booleans(),
)


@given(texts.map(str.strip).filter(bool), wanted, st.integers(1, 300))
def test_what_is_written_is_read_as_the_same(words, wanted, page):
    for link in (Link(words, "", wanted, page), Link("", words, wanted, page)):
        back = read(write(link, OWN), OWN)
        assert back == link
        assert [type(value) for _, value in back.wanted.where] == [type(value) for _, value in wanted.where]


def test_an_address_tells_only_what_differs_from_the_pages_own_options():
    assert write(Link(wanted=OWN), OWN) == ""
    assert write(Link("a cat", "", OWN), OWN) == "?q=a+cat"
    asked = Wanted(limit=5, min_relevance=0.5, where=(("city", "Rome"), ("year", 2015), ("code", "7")))
    assert write(Link("猫", "", asked, 2), OWN) == (
        "?q=%E7%8C%AB&is.city=Rome&is.year=2015&is.code=%227%22&limit=5&min=0.5&page=2"
    )


def test_names_of_others_and_an_empty_address_are_the_start():
    assert read("", OWN) == read("?__theme=dark&utm_source=x", OWN) == Link(wanted=OWN)
    assert read("?q=+&like=a", OWN).like == "a"
    assert read("?is.a=" + "[" * 7000, OWN).wanted.where == (("a", "[" * 7000),)
    assert read("?q=cat&like=a", OWN) == Link("cat", "", OWN)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("?limit=900", "limit in the address must be 1 to 50, got '900'; search again"),
        ("?limit=-1", "limit in the address must be 1 to 50, got '-1'"),
        ("?min=nan", "min in the address must be 0 to 1, got 'nan'"),
        ("?min=much", "min in the address must be 0 to 1, got 'much'"),
        ("?fold=2", "fold in the address must be 0 to 1"),
        ("?page=820&limit=20", "page in the address must be 1 to 819, got '820'"),
        ("?is.=3", "the address has no name of a column in ''"),
        ('?is.a"b=3', "no name of a column in 'a\"b'"),
        ("?is.vector=3", "no name of a column in 'vector'"),
        ("?q=" + "x" * 8000, "the address is longer than 8,000 characters"),
    ],
)
def test_a_value_that_cannot_be_is_named(address, told):
    with pytest.raises(QueryError) as raised:
        read(address, OWN)
    assert told in str(raised.value)


def test_what_is_shown_has_an_address_but_an_uploaded_image():
    def shown(query, like="", at=0):
        return link_of(Found((), query, like, OWN, Hits(), at=at), OWN)

    assert shown("a cat", at=1) == "?q=a+cat&page=2"
    assert shown(Like("a/b.jpg"), "a/b.jpg") == "?like=a%2Fb.jpg"
    assert shown(Img(b"content")) is None
    assert (
        link_of(Start(Hits(), Wanted(limit=20, where=(("city", "Rome"),)), 3, "colour"), OWN)
        == "?is.city=Rome"
    )
