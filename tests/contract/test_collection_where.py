"""`where` finds what it says on every engine, and no text in it can make it find anything else."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stored import SPACE, emptied, random_units, row, unit

from t2i_pipelines.errors import ConfigError

pytest_plugins = ["milvus_backends"]

HOSTILE = [
    'a"b',
    "a'b",
    "back\\slash",
    "ends in a backslash\\",
    "two\\\\",
    "line\nbreak",
    "carriage\rreturn",
    "tab\tbed",
    "bell\a back\b form\f null\x00 delete\x7f",
    "é 猫 🐱 \u2028 \u202e",
    "{where_0}",
    "%",
    "_",
    '" or 1==1',
    '" or id != ""',
    '") or (id != ""',
    '\\" or id != \\"',
    '"] or id not in ["',
    "' or ''=='",
    "\\u0022 or \\x22 or \\42",
    "// comment",
    "$meta",
    "x" * 60_000,
]

ROWS = [
    row("plain", unit(0)[0], year=2015, place="Rome", camera="Canon 5D", ok=True, f=0.5, tags=["a", "b"]),
    row("later", unit(1)[0], year=2016, place="Bari", camera="Nikon", ok=False, f=-1e-7, tags=["b"]),
    row("text", unit(2)[0], year="2016", camera="Canon", size=7),
    row("bare", unit(3)[0]),
    row("odd", unit(4)[0], **{"camera model": "A-1", "like": 3, "né": 4, "and": "x", "big": 2**62 + 1}),
    *(row(f"h{number}", unit(5)[0], note=text) for number, text in enumerate(HOSTILE)),
]


@pytest.fixture(scope="module")
def store(milvus_backend):
    collection = milvus_backend.open("conditions")
    collection.drop()
    emptied(collection).upsert(ROWS)
    yield collection
    collection.drop()
    collection.close()


def found(store, where=None, **more):
    (hits,) = store.search(unit(0), where=where, limit=100, **more)
    return {hit.id for hit in hits}


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"year": 2015}, {"plain"}),
        ({"year": "2016"}, {"text"}),
        ({"year": (">", 2015)}, {"later"}),
        ({"year": [(">=", 2015), ("<", 2016)]}, {"plain"}),
        ({"year": ("!=", 2015)}, {"later", "text"}),
        ({"year": ("in", [2015, "2016", 1.5])}, {"plain", "text"}),
        ({"year": ("not in", [2015, "2016"])}, {"later"}),
        ({"year": ("in", [])}, set()),
        ({"year": ("not in", [])}, {"plain", "later", "text"}),
        ({"year": ("!=", None)}, {"plain", "later", "text"}),
        ({"year": None, "camera model": ("!=", None)}, {"odd"}),
        ({"camera": ("like", "Canon%")}, {"plain", "text"}),
        ({"ok": True}, {"plain"}),
        ({"ok": ("!=", True)}, {"later"}),
        ({"f": -1e-7}, {"later"}),
        ({"f": (">", -0.25)}, {"plain", "later"}),
        ({"tags": ("contains", "a")}, {"plain"}),
        ({"camera model": "A-1"}, {"odd"}),
        ({"camera model": ("in", ["A-1", "B"])}, {"odd"}),
        ({"like": (">", 2)}, {"odd"}),
        ({"and": "x"}, {"odd"}),
        ({"né": 4}, {"odd"}),
        ({"big": 2**62 + 1}, {"odd"}),
        ({"big": ("<", 2**62)}, set()),
        ({"size": (">", 5)}, {"text"}),
        ({"path": ("in", ["bare.jpg", "no.jpg"])}, {"bare"}),
        ({"id": ("not in", [one["id"] for one in ROWS if one["id"] != "bare"])}, {"bare"}),
        ({"path": ("like", "pl%")}, {"plain"}),
        ({"year": (">", 2000), "camera": ("like", "N%")}, {"later"}),
    ],
)
def test_conditions_find_what_they_say(store, where, ids):
    assert found(store, where) == ids


def test_a_condition_on_a_column_that_no_row_has_finds_nothing_and_warns(store):
    with pytest.warns(UserWarning, match="no row has a column 'yeer'; the nearest are year"):
        assert found(store, {"yeer": (">", 2000)}) == set()


def test_filter_and_where_must_both_hold(store):
    assert found(store, {"year": (">", 2000)}, filter="year == 2016 or year == 2015") == {"plain", "later"}
    assert found(store, {"year": 2015}, filter="year == 2016 or year == 2015") == {"plain"}
    assert found(store, {"camera": "Nikon"}, filter="year == 2015") == set()


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_text_is_only_a_text(store, number):
    text, only = HOSTILE[number], {f"h{number}"}
    noted = {f"h{other}" for other in range(len(HOSTILE))}
    assert found(store, {"note": text}) == only
    assert found(store, {"note": ("in", [text, "nobody's"])}) == only
    assert found(store, {"note": ("!=", text)}) == noted - only
    assert found(store, {"note": ("not in", [text])}) == noted - only
    assert found(store, {"place": text}) == set()
    assert found(store, {"path": text[:2000]}) == set()
    assert found(store, {"id": text[:2000], "year": ("!=", text)}) == set()
    assert found(store, {"place": ("!=", text)}) == {"plain", "later"}
    assert found(store, {"tags": ("contains", text)}) == set()
    assert found(store, {"note": text}, filter='id != ""') == only


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_pattern_is_only_a_pattern(store, number):
    # what it matches is Milvus's matter, and an old one knows prefixes only; but it never leaves its field
    where = {"place": ("like", HOSTILE[number]), "id": ("in", ["plain", "bare"])}
    try:
        ids = found(store, where)
    except ConfigError as err:
        ids, refusal = set(), str(err)
        assert re.search("was refused.*unsupported pattern", refusal, re.DOTALL)
    assert ids <= {"plain"}


def test_a_text_of_a_million_letters_is_only_a_text(store):
    assert found(store, {"note": '" or id != "' * 80_000}) == set()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(
        alphabet=st.one_of(st.sampled_from("\"'\\()[]{}=!%\n\r\t$ or1"), st.characters(codec="utf-8"))
    )
)
def test_any_text_that_no_row_has_finds_no_row(store, text):
    assume(text not in {"Rome", "Bari"})  # hypothesis draws constants of the tests, too
    assert found(store, {"place": text}) == set()
    assert found(store, {"year": 2015, "place": ("!=", text)}) == {"plain"}


@pytest.mark.parametrize(
    "filter", ['year == 2015) or (id != ""', 'id == "x" or (id != ""', 'id == "', "year == 2015 // )("]
)
def test_a_filter_cannot_reach_over_where(store, filter):
    with pytest.raises(ConfigError, match="was refused"):
        found(store, {"year": 2016}, filter=filter)


def test_an_id_with_any_character_is_looked_up_and_deleted(milvus_backend):
    collection = emptied(milvus_backend.open("conditions_ids"))
    ids = [text[:40] for text in HOSTILE if text[:40]]
    collection.upsert([row(id, unit(0)[0]) for id in ids])
    assert set(collection.ledger(ids)) == set(ids)
    assert sorted(one["id"] for page in collection.scan([]) for one in page) == sorted(set(ids))
    collection.delete(ids[:5])
    assert set(collection.ledger(ids)) == set(ids[5:])
    collection.drop()


def test_many_values_are_asked_for_at_once(store):
    assert found(store, {"year": ("in", list(range(2016, 5000)))}) == {"later"}


class AsNewer:
    """The store, told that its server knows filter templates."""

    def __init__(self, store, answers):
        self.calls, self._store, self._answers = [], store, answers
        self.is_lite, self.version, self.patience, self.rows = False, (2, 5), 60.0, store.rows

    def read(self, method, **arguments):
        from t2i_pipelines.collection.failures import RefusedError

        self.calls.append(arguments)
        if "filter_params" in arguments and not self._answers:
            raise RefusedError("no templates here")
        return [[]]


@pytest.mark.parametrize("understands", [True, False])
def test_a_server_that_knows_templates_gets_the_values_apart(understands):
    from t2i_pipelines.collection.catalog import Entry
    from t2i_pipelines.collection.search import Finder
    from t2i_pipelines.config.search import SearchOptions

    newer = AsNewer(type("Store", (), {"rows": None}), understands)
    options = SearchOptions(where={"place": '" or 1==1'}, filter="a == 1")
    Finder(newer, Entry(1, "c", SPACE, "FLAT"), options).find(np.atleast_2d(random_units(1)))
    first, *rest = newer.calls
    assert first["filter"] == '($meta["place"] == {where_0}) and (a == 1)'
    assert first["filter_params"] == {"where_0": '" or 1==1'}
    assert [one["filter"] for one in rest] == (
        [] if understands else ['($meta["place"] == "\\" or 1==1") and (a == 1)']
    )
