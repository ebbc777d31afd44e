"""What `where` may hold, and what it becomes. That no engine can be talked into more is in
test_collection_where.py."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.collection.rows import FIELDS
from t2i_pipelines.config.search import (
    NUMBERS,
    OPERATORS,
    TEXTS,
    SearchOptions,
    check_filter,
    expression,
    literal,
    parse_condition,
    read_where,
    template,
)
from t2i_pipelines.errors import ConfigError


def write(where, filter="", is_lite=False):
    return expression(filter, read_where(where), is_lite=is_lite)


@pytest.mark.parametrize(
    ("where", "written"),
    [
        ({"year": 2015}, '$meta["year"] == 2015'),
        ({"year": (">", 2015)}, '$meta["year"] > 2015'),
        ({"year": ("==", -1.5)}, '$meta["year"] == -1.5'),
        ({"ok": True}, '$meta["ok"] == true'),
        ({"camera": ("like", "Canon%")}, '$meta["camera"] like "Canon%"'),
        ({"camera model": "X"}, '$meta["camera model"] == "X"'),
        ({"year": ("!=", 1)}, '(exists $meta["year"]) and ($meta["year"] != 1)'),
        ({"year": None}, 'not (exists $meta["year"])'),
        ({"year": ("!=", None)}, 'exists $meta["year"]'),
        ({"path": ("in", ("a", "b"))}, 'path in ["a", "b"]'),
        ({"size": (">", 5)}, "size > 5"),
        ({"size": ("not in", [5])}, "not (size in [5])"),
        ({"place": ("in", [])}, 'id == ""'),
        ({"tags": ("contains", "red")}, 'json_contains($meta["tags"], "red")'),
        (
            {"year": [(">", 2010), ("<=", 2015)], "ok": False},
            '($meta["year"] > 2010) and ($meta["year"] <= 2015) and ($meta["ok"] == false)',
        ),
        ({"n": np.int64(3), "f": np.float32(0.5)}, '($meta["n"] == 3) and ($meta["f"] == 0.5)'),
        ({}, ""),
        (None, ""),
    ],
)
def test_conditions_are_written_in_milvus_language(where, written):
    assert write(where) == written


def test_a_list_of_several_types_is_asked_for_type_by_type():
    where = {"x": ("in", [1, "1", True, 2])}
    assert write(where) == '($meta["x"] in [1, 2]) or ($meta["x"] in ["1"]) or ($meta["x"] in [true])'


def test_milvus_lite_is_asked_for_each_value_of_metadata_by_itself():
    assert write({"x": ("in", [1, "a"])}, is_lite=True) == '($meta["x"] == 1) or ($meta["x"] == "a")'
    assert write({"path": ("in", ["a", "b"])}, is_lite=True) == 'path in ["a", "b"]'


def test_filter_and_where_must_both_hold():
    assert write({"year": 1}, "a == 1 or b == 2") == '($meta["year"] == 1) and (a == 1 or b == 2)'
    assert write({}, "a == 1") == "a == 1"


def test_a_template_holds_no_value():
    where = {"year": (">", 2015), "place": ("in", ["Rome", 7]), "ok": ("!=", True)}
    written, values = template("size > 3", read_where(where))
    assert written == (
        '(($meta["year"] > {where_0}) and (($meta["place"] in {where_1}) or ($meta["place"] in {where_2})) '
        'and ((exists $meta["ok"]) and ($meta["ok"] != {where_3}))) and (size > 3)'
    )
    assert values == {"where_0": 2015, "where_1": ["Rome"], "where_2": [7], "where_3": True}


def test_pymilvus_takes_the_values_of_a_template():
    from pymilvus.client.prepare import Prepare

    where = {"a": 1, "b": ("in", ["x", '"']), "c": 0.5, "d": True}
    sent = Prepare.prepare_expression_template(template("", read_where(where))[1])
    assert sent["where_0"].int64_val == 1
    assert list(sent["where_1"].array_val.string_data.data) == ["x", '"']


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("year > 2015", "where must be a mapping"),
        ({"year": (">", 1, 2)}, r"'year' needs a value or a pair .*got \('>', 1, 2\)"),
        ({"year": ("=>", 1)}, "the operator one of ==, !=, >, "),
        ({"year": ("or 1==1", 1)}, "the operator one of"),
        ({"year": ["a", "b"]}, None),
        ({"year": ("in", "Rome")}, "'year' in needs a list of values, got 'Rome'"),
        ({"year": ("like", 5)}, "'year' is compared with text, got 5"),
        ({"year": b"x"}, "'year' is compared with text, a number, True or False, got b'x'"),
        ({"year": {"a": 1}}, "'year' is compared with text"),
        ({"year": (">", None)}, "'year' is compared with text"),
        ({"year": float("nan")}, "'year' is compared with nan, which no row can hold"),
        ({"year": (">", float("inf"))}, "'year' is compared with inf, which no row can hold"),
        ({"é" * 128: 1}, "a column's name has no"),
        ({"year": 2**63}, "'year': 9223372036854775808 does not fit 64 bits"),
        ({"year": -(2**63)}, "'year': -9223372036854775808 does not fit 64 bits"),
        ({"x": "bad\udc80"}, "'x': .* is not valid Unicode: surrogates not allowed"),
        ({"size": "3"}, "'size' is compared with a whole number, got '3'"),
        ({"size": True}, "'size' is compared with a whole number, got True"),
        ({"path": 3}, "'path' is compared with text, got 3"),
        ({"path": None}, "'path' is compared with text, got None"),
        ({"path": ("contains", "a")}, "'path' is no list"),
        ({"vector": 1}, "vector cannot be compared"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(where, words):
    if words is None:  # a list is a list of conditions: each of these is a value to equal
        assert write(where) == '($meta["year"] == "a") and ($meta["year"] == "b")'
        return
    with pytest.raises(ConfigError, match=words):
        SearchOptions(where=where)


@pytest.mark.parametrize(
    "field",
    [
        "",
        " ",
        "a b ",
        '"',
        'a"] == 1 or $meta["b',
        "a\nb",
        "a\\",
        "a'b",
        "a" * 256,
        5,
    ],
)
def test_a_field_whose_name_is_no_name_is_refused(field):
    with pytest.raises(ConfigError, match="where: a column's name has no quotes, backslashes, brackets"):
        SearchOptions(where={field: 1})
    with pytest.raises(ConfigError, match="group_by: a column's name is made of letters, digits and _"):
        SearchOptions(group_by=field)


@pytest.mark.parametrize("field", ["1a", "35mm", "$meta", "*", "(a)", "GPS (lat)", "focal length %"])
def test_a_condition_may_name_any_column_that_can_be_quoted(field):
    assert expression("", read_where({field: 1}), is_lite=True) == f'$meta["{field}"] == 1'
    with pytest.raises(ConfigError, match="group_by: a column's name is made of letters, digits and _"):
        SearchOptions(group_by=field)


@pytest.mark.parametrize(
    "filter", ["a == 1) or (b == 2", "a == 1)", "(a == 1", 'a == "', "a == '(\\'", 'a == "\\")', ")("]
)
def test_a_filter_that_would_reach_over_its_parentheses_is_refused(filter):
    with pytest.raises(ConfigError, match="was refused: (its parentheses do not match|a quote in it)"):
        SearchOptions(filter=filter)


@pytest.mark.parametrize("filter", ["", "  ", "a == ')'", 'a == "(\\")"', "(a == 1) or (b == '\"')"])
def test_parentheses_in_quotes_do_not_count(filter):
    assert check_filter(filter) == filter.strip()


@given(st.text())
def test_a_text_is_one_literal_whatever_it_holds(text):
    written = literal(text)
    inner = written[1:-1]
    assert written[0] == written[-1] == '"'
    assert "\n" not in inner
    assert "\r" not in inner
    at = 0
    while at < len(inner):  # every quote in it is escaped, and no escape is left open
        assert inner[at] != '"'
        assert at + 1 < len(inner) or inner[at] != "\\"
        at += 2 if inner[at] == "\\" else 1
    assert json.loads(written, strict=False) == text


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("year > 2015", ("year", (">", 2015))),
        ("year>=2015", ("year", (">=", 2015))),
        ("place=Rome", ("place", ("==", "Rome"))),
        ("place == Rome", ("place", ("==", "Rome"))),
        ('year = "2015"', ("year", ("==", "2015"))),
        ("number = 007", ("number", ("==", "007"))),
        ("f < -0.5", ("f", ("<", -0.5))),
        ("ok = true", ("ok", ("==", True))),
        ("camera model like Canon%", ("camera model", ("like", "Canon%"))),
        ("place in Rome, Bari", ("place", ("in", ["Rome", "Bari"]))),
        ("year not  in 1, 2", ("year", ("not in", [1, 2]))),
        ("tags contains red", ("tags", ("contains", "red"))),
        ("note = a > b", ("note", ("==", "a > b"))),
        ("note = NaN", ("note", ("==", "NaN"))),
        ('note = " or id != ""', ("note", ("==", '" or id != ""'))),
    ],
)
def test_a_condition_is_read_from_the_command_line(text, condition):
    assert parse_condition(text) == condition


@pytest.mark.parametrize("text", ["", "year", "> 2015", "in Rome"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ConfigError, match="is no condition|a column's name"):
        parse_condition(text)


def test_the_fields_of_every_row_are_known_here_too():
    assert {*TEXTS, *NUMBERS, "vector"} == set(FIELDS)
    assert len(set(OPERATORS)) == 10
