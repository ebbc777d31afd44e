"""Queries: their algebra, what they take, and the line that the command line writes them as."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from t2i_pipelines.config.checks import PHOTO, templates_of
from t2i_pipelines.errors import ConfigError, QueryError
from t2i_pipelines.search.query import Img, Like, Q, Query, check_text, parse, query_of

WEIGHTS = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda weight: weight != 0)
VISIBLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)
TEXTS = st.builds(lambda words: " ".join(words), st.lists(VISIBLE, min_size=1, max_size=4))
OPERANDS = st.one_of(
    st.builds(Q, TEXTS),
    st.builds(Like, TEXTS),
    st.builds(Img, st.sampled_from(["./pool.jpg", "/a b/c - d^2.png", "https://x.org/a.jpg", '../"q".gif'])),
)


@st.composite
def sums(draw):
    """A sum in Python, and the weights and operands that it must have."""
    terms = draw(st.lists(st.tuples(WEIGHTS, OPERANDS), min_size=1, max_size=5))
    query = terms[0][1] * terms[0][0]
    for weight, operand in terms[1:]:
        query = query + operand * weight if draw(st.booleans()) else query - operand * -weight
    return query, tuple(terms)


@given(sums())
def test_a_sum_has_its_operands_and_weights_in_the_order_in_which_they_were_written(written):
    query, terms = written
    assert query.terms == terms


@given(sums(), sums(), WEIGHTS)
def test_a_weight_goes_to_every_operand_of_a_sum(left, right, weight):
    (left, _), (right, _) = left, right
    assert (weight * (left + right)).terms == (left * weight + right * weight).terms
    assert (left - right).terms == (left + -right).terms == (left + right * -1).terms
    negative = -left
    assert -negative == left == left * 1


@given(sums())
def test_what_is_printed_is_python_that_makes_the_same_query(written):
    query, _ = written
    assert eval(repr(query), {"Q": Q, "Img": Img, "Like": Like}) == query


def test_strings_and_pictures_on_either_side_are_operands():
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    assert "dog" - Q("cat") == Q("dog") - Q("cat") == Q("dog") - "cat"
    assert "dog" + Q("cat") == Q("dog") + "cat"
    assert Path("pool.jpg") + Q("dog") == Img("pool.jpg") + Q("dog")
    assert Q("dog") - Path("pool.jpg") == Q("dog") - Img("pool.jpg")
    assert (red + Q("dog")).terms == ((1, Img(red)), (1, Q("dog")))
    assert np.float32(0.5) * Q("dog") == Q("dog") * np.float64(0.5) == Q("dog") * 0.5


@pytest.mark.parametrize(
    "work",
    [
        lambda: Q("dog") + 1,
        lambda: 1 - Q("dog"),
        lambda: Q("dog") * "cat",
        lambda: Q("dog") * True,
        lambda: Q("dog") * Q("cat"),
        lambda: Q("dog") - ["cat"],
    ],
)
def test_what_is_no_operand_is_pythons_own_error(work):
    with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
        work()


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_finite_number_is_refused(weight):
    with pytest.raises(QueryError, match=rf"a weight is a finite number; got {weight} for Q\('dog'\)"):
        Q("dog") * weight
    with pytest.raises(QueryError, match="a weight is a finite number; got inf"):
        Q("dog") * 1e308 * 1e308


def test_queries_are_values():
    query = Q("dog") * 2 + Img("pool.jpg") - Like("a")
    assert copy.deepcopy(query) == pickle.loads(pickle.dumps(query)) == query
    assert len({query, Q("dog") * 2 + Img("pool.jpg") - Like("a"), Q("dog") * 3}) == 2
    with pytest.raises(AttributeError):
        Q("dog").text = "cat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the query is empty: ''; say what to look for, for example 'a white dog'"),
        (" \t\n", "the query is empty: "),
        ("\u200b\u00a0\u2060", "the query is empty: "),
        ("a\0b", r"the query has the control character U\+0000 at position 1, so it is no text: 'a\\x00b'"),
        ("\x1b[31mdog", r"the control character U\+001B at position 0"),
        ("dog\x7f", r"the control character U\+007F at position 3"),
        ("do\udc80g", r"the query has half a surrogate pair U\+DC80 at position 2"),
        (7, "a query is a text; got int"),
        (None, "a query is a text; got NoneType"),
    ],
)
def test_a_text_that_means_nothing_is_refused_wherever_it_comes_in(text, message):
    for take in (check_text, Q):
        with pytest.raises(QueryError, match=message):
            take(text)
    if isinstance(text, str):
        for take in (query_of, parse, lambda one: Q("dog") - one):
            with pytest.raises(QueryError, match=message):
                take(text)


@pytest.mark.parametrize("text", ["a dog\non grass\t!", "👨‍👩‍👧", "שלום\u200f", "12", "?", "a" * 10**5])
def test_other_texts_pass_as_they_are(text):
    assert check_text(text) is text


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "a query is words .*, an image .*, Like.id., or a sum of these; got int"),
        (None, "got NoneType"),
        (("dog", "cat"), "got tuple; several queries are a list"),
        ({"dog"}, "got set; several queries are a list"),
        (np.zeros((4, 4, 3), np.float32), r"\(H, W, 3\) uint8, RGB; got float32 \(4, 4, 3\)"),
        (np.zeros(512, np.float32), r"got float32 \(512,\); a stored vector is Like\(id\)"),
        (np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (b"", "the image of the query is empty: b''"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_with_what_can(item, message):
    with pytest.raises(QueryError, match=message):
        query_of(item)


def test_a_string_is_words_and_never_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("red.png").write_bytes(b"x")
    for text in ("red.png", "./red.png", "https://x.org/red.png", "like:5", "a - b"):
        assert query_of(text) == Q(text)
    assert query_of(Path("red.png")) == Img("red.png")
    assert query_of(b"bytes") == Img(b"bytes")


def test_img_and_like_refuse_what_they_are_not_for():
    with pytest.raises(QueryError, match="an image is a path, a URL, bytes, .* or a uint8 array; got int"):
        Img(7)
    with pytest.raises(QueryError, match="the image of the query is empty: ''"):
        Img("")
    with pytest.raises(QueryError, match=r"the id has the control character U\+0000 at position 1"):
        Like("a\0")
    with pytest.raises(QueryError, match="Like takes the id of a stored image, a str; got 7"):
        Like(7)
    from t2i_pipelines import Hit

    with pytest.raises(QueryError, match=r"got Hit.*; write Like\(hit.id\)"):
        Like(Hit("a", 0.5, "/a.png"))


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("a white dog", Q("a white dog")),
        ("golden retriever^2 + ./pool.jpg - fruit", Q("golden retriever") * 2 + Img("./pool.jpg") - "fruit"),
        ("  golden   retriever ^0.5  +  fruit^.25 ", Q("golden retriever") * 0.5 + Q("fruit") * 0.25),
        ("- fruit + dog", -Q("fruit") + "dog"),
        ("/a/b.jpg + ../c.png^3", Img("/a/b.jpg") + Img("../c.png") * 3),
        ("~/d.gif", Img(Path("~/d.gif").expanduser())),
        ("https://x.org/a.jpg?b=c^2", Img("https://x.org/a.jpg?b=c") * 2),
        ("s3://bucket/a b.jpg", Img("s3://bucket/a b.jpg")),
        ("like:5f3a^2 - snow", Like("5f3a") * 2 - "snow"),
        ("well-known spider-man+poster", Q("well-known spider-man+poster")),
        ("2^10", Q("2") * 10),
        ("a^b", Q("a^b")),
        ('"spider - man^2 + poster"', Q("spider - man^2 + poster")),
        ('"spider - man"^2 + "./a.jpg"', Q("spider - man") * 2 + Q("./a.jpg")),
        ('old "spider - man" poster', Q("old spider - man poster")),
        (r'"say \"a - b\" \\ loud"', Q(r'say "a - b" \ loud')),
        ('24" wheel - 26" tire', Q('24" wheel') - Q('26" tire')),
        ('./"Rome - Paris.jpg"^2', Img("./Rome - Paris.jpg") * 2),
        ('like:"a - b"', Like("a - b")),
        ('"never closed', Q('"never closed')),
    ],
)
def test_a_line_is_read_as_a_query(line, query):
    assert parse(line) == query
    assert parse(str(query)) == query


def test_a_name_with_a_suffix_is_a_picture_where_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("pool.jpg - dog") == Q("pool.jpg") - "dog"
    Path("pool.jpg").write_bytes(b"x")
    Path("dog").write_bytes(b"x")
    Path("a.d").mkdir()
    assert parse("pool.jpg - dog") == Img("pool.jpg") - "dog"
    assert parse('"pool.jpg"') == Q("pool.jpg")
    assert parse("a.d") == Q("a.d")
    assert parse("x" * 5000 + ".jpg") == Q("x" * 5000 + ".jpg")


@pytest.mark.parametrize("line", ["dog +", "dog + - cat", "+", "- ", "dog - + "])
def test_an_operand_that_is_missing_is_named(line):
    with pytest.raises(
        QueryError, match=r"nothing stands behind a '[+-]' in the query .*; words .* into double quotes"
    ):
        parse(line)


@given(sums())
@example((Q("- a"), ()))
@example((Q('"'), ()))
@example((Q("like:x") - Like('a "b" \\'), ()))
def test_a_query_written_as_a_line_is_read_as_the_same(written):
    assert parse(str(written[0])) == written[0]


def test_quotes_in_two_operands_do_not_meet():
    query = Q('"') + Q('"')
    assert parse(str(query)) == query


def test_a_picture_without_address_is_described_in_the_line():
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert str(Q("dog") * 2 - Img(pixels)) == "dog^2 - <image of 6 x 4 pixels>"
    assert str(Img(Image.fromarray(pixels))) == "<image of 6 x 4 pixels>"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert str(Img(file.getvalue())) == f"<image of {len(file.getvalue())} bytes>"
    assert repr(Img(pixels)) == "Img(<image of 6 x 4 pixels>)"


def test_templates_are_named_or_ones_own():
    assert templates_of(()) == ("{}",)
    assert templates_of("photo") == PHOTO
    assert templates_of(["{}", "photo"]) == ("{}", *PHOTO)
    assert templates_of("a sketch of {}") == ("a sketch of {}",)
    assert templates_of(["{}", "un disegno di {}"]) == ("{}", "un disegno di {}")
    for wrong in ("foto", "{} and {}", ["{}", 7], ["none"]):
        with pytest.raises(ConfigError, match=r"templates must be 'photo' or texts .* with one {} each"):
            templates_of(wrong)


def test_the_ensemble_is_made_of_radfords_prompts():
    """Without its article, each is one of the 80 as open_clip ships them."""
    import ast
    from importlib.util import find_spec

    source = Path(find_spec("open_clip").origin).with_name("zero_shot_metadata.py").read_text()
    assigned = {node.targets[0].id: node.value for node in ast.parse(source).body if hasattr(node, "targets")}
    prompts = [eval(ast.unparse(one))("{}") for one in assigned["OPENAI_IMAGENET_TEMPLATES"].elts]
    assert len(prompts) == 80
    assert set(PHOTO) <= {one.replace(" a {}", " {}").replace(" the {}", " {}") for one in prompts}


def test_every_query_is_a_query():
    for one in (Q("a"), Img("a"), Like("a"), Q("a") * 2):
        assert isinstance(one, Query)
