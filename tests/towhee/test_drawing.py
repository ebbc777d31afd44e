"""A pipeline draws itself: its operators in their order, one branch after the other."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from t2i_pipelines import build_insert_pipeline, build_search_pipeline, harden, search_steps
from t2i_pipelines._towhee.door import ops, pipe, register
from t2i_pipelines._towhee.drawing import HEIGHT, INPUT, LETTERS, OPERATOR, OWN, WIDTH

SVG = "{http://www.w3.org/2000/svg}"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def boxes(pipeline):
    """(name, columns, left, top) of each box, as drawn."""
    drawn = []
    for group in ElementTree.fromstring(pipeline._repr_svg_()).iter(f"{SVG}g"):
        name, columns = [text.text for text in group.iter(f"{SVG}tspan")]
        place = group.find(f"{SVG}rect")
        drawn.append((name, columns, float(place.get("x")), float(place.get("y"))))
    return drawn


def branched(settings):
    start = pipe.input("words")
    photos = search_steps(start, query="words", hits="photos", **settings)
    drawings = search_steps(start, query="words", hits="drawings", **settings)
    both = photos.concat(drawings).map(("photos", "drawings"), "hits", lambda one, other: one + other)
    return harden(both.output("hits"))


@pytest.mark.parametrize(
    ("build", "name"), [(build_insert_pipeline, "insert"), (build_search_pipeline, "search")]
)
def test_a_pipeline_is_drawn_as_the_readme_draws_it(build, name, settings):
    shown = re.search(rf"^{name}   (.*)$", README, re.MULTILINE).group(1)
    operators = [one for one, *_ in boxes(build(**settings))[1:-1] if one != "outcomes"]
    assert operators == re.split(r" ─+▶ ", shown)[1:]


def test_each_box_says_what_it_takes_and_gives(settings):
    assert [columns for _, columns, *_ in boxes(build_search_pipeline(**settings))] == [
        "query", "query → query_vec", "query_vec → query_vec", "query_vec → query_vec",
        "query_vec, query → hits", "query, hits",
    ]  # fmt: skip


def test_each_step_is_below_those_that_it_follows_and_within_the_drawing(settings):
    pipeline = build_insert_pipeline(**settings)
    width, height = map(float, ElementTree.fromstring(pipeline._repr_svg_()).get("viewBox").split()[2:])
    drawn = boxes(pipeline)
    tops = [top for *_, top in drawn]
    assert tops == sorted(set(tops))
    for _, _, left, top in drawn:
        assert 0 <= left <= width - WIDTH
        assert 0 <= top <= height - HEIGHT


def test_branches_are_beside_each_other_and_nothing_overlaps(settings):
    drawn = boxes(branched(settings))
    assert len(drawn) == 12
    found = [(left, top) for name, _, left, top in drawn if name == "milvus_search"]
    assert found[0][1] == found[1][1]
    (_, _, begin, _), *_ = drawn
    assert begin == (found[0][0] + found[1][0]) / 2, "what both follow stands in the middle"
    for (*_, left, top), (*_, other_left, other_top) in combinations(drawn, 2):
        assert abs(left - other_left) >= WIDTH or abs(top - other_top) >= HEIGHT


def test_as_many_arrows_are_drawn_as_there_are_ways(settings):
    ways = sum(len(node.next_nodes or ()) for node in branched(settings).dag_repr.nodes.values())
    drawn = ElementTree.fromstring(branched(settings)._repr_svg_()).iter(f"{SVG}path")
    assert len(list(drawn)) == ways


def test_functions_and_operators_of_others_have_their_names_which_are_escaped():
    def brighten(image):
        """Twice as bright <&>."""
        return image

    brighten.__name__ = "<b>&brighten</b>"
    start = pipe.input("path").map("path", "image", ops.t2i.image_decode())
    pipeline = harden(start.map("image", "image", brighten).map("image", "n", lambda image: 1).output("n"))
    assert [name for name, *_ in boxes(pipeline)] == [
        "input", "image_decode", "<b>&brighten</b>", "lambda", "output",
    ]  # fmt: skip
    assert "Twice as bright &lt;&amp;&gt;." in pipeline._repr_svg_()


def test_columns_that_are_too_long_are_cut_and_whole_where_one_points_at_them():
    @register(name="drawn-by-somebody-else/brighten")
    def brighten(image):
        return image

    column = "an_image_" + "x" * 40
    start = pipe.input(column).map(column, column, ops.drawn_by_somebody_else.brighten())
    pipeline = harden(start.output(column))
    (_, _, *_), (name, columns, *_), _ = boxes(pipeline)
    assert name == "drawn_by_somebody_else.brighten"
    assert (columns[-1], len(name) + len(columns)) == ("…", LETTERS + 1)
    assert f"<title>{name} {column} → {column}</title>" in pipeline._repr_svg_()


def test_operators_of_yours_have_another_colour_than_ours(settings):
    @register(name="drawn-by-somebody-else/count")
    def count(hits):
        return len(hits)

    start = search_steps(pipe.input("words"), query="words", hits="hits", **settings)
    start = start.map("hits", "hits", lambda hits: hits[1:])
    pipeline = harden(start.map("hits", "n", ops.drawn_by_somebody_else.count()).output("n"))
    fills = [box.get("fill") for box in ElementTree.fromstring(pipeline._repr_svg_()).iter(f"{SVG}rect")]
    assert fills == [INPUT[0], *[OPERATOR[0]] * 4, OWN[0], OWN[0], INPUT[0]]


def test_a_terminal_shows_one_line(settings):
    assert repr(build_search_pipeline(**settings)) == (
        "(query) ─▶ read_query ─▶ clip ─▶ normalize ─▶ milvus_search ─▶ (query, hits)"
    )
    one = "read_query ─▶ clip ─▶ normalize ─▶ milvus_search"
    assert repr(branched(settings)) == f"(words) ─▶ {one} ─▶ {one} ─▶ concat ─▶ lambda ─▶ (hits)"
