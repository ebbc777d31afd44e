"""What a pipeline returned is shown, and is there to be taken as before."""

import pytest
from conftest import paint

from t2i_pipelines import InsertReport, build_insert_pipeline, build_search_pipeline, harden
from t2i_pipelines._towhee.door import DataCollection, DataQueue, pipe


@pytest.fixture
def broken(pictures):
    """The images, and two of which one cannot be decoded and one cannot be embedded."""
    (pictures / "bad.png").write_bytes(b"no picture")
    paint(pictures / "gap.png", (0, 0, 0))
    return pictures


def test_an_insert_shows_its_counts_and_failures_and_is_there_to_be_collected(broken, settings):
    rows = build_insert_pipeline(**settings)(broken)
    shown = repr(rows).splitlines()
    assert shown[0] == "9 images: 7 inserted, 0 unchanged, 2 failed"
    assert shown[1].startswith("  decode: cannot ")
    assert shown[2].startswith("  encode: ")
    assert "gap.png" in shown[2]
    assert rows._repr_html_() is None
    report = InsertReport.collect(rows)
    assert repr(rows) == "<Result: 0 rows to get of (path, id, status, reason)>"
    assert (report.total, report.counts["failed"]) == (9, 2)
    assert str(report).splitlines()[:3] == shown[:3]


def test_a_search_shows_its_hits_and_is_there_to_be_taken(pictures, settings):
    build_insert_pipeline(**settings)(pictures)
    result = build_search_pipeline(**settings, limit=2)("red")
    assert isinstance(result, DataQueue)
    assert repr(result).splitlines()[:2] == ["<Result: 1 row to get of (query, hits)>", "  query: 'red'"]
    page = result._repr_html_()
    assert page.count('class="t2i-hit') == 2
    query, hits = result.get()
    assert (query, page) == ("red", hits._repr_html_())
    assert result.get() is None


def many():
    steps = pipe.input("n").flat_map("n", "i", lambda n: range(n))
    return harden(steps.map("i", "j", lambda i: -i).output("n", "i", "j"))


def test_looking_takes_nothing_away():
    result = many()(5)
    lines = repr(result).splitlines()
    assert lines[:4] == ["<Result: 5 rows to get of (n, i, j)>", "  n: 5", "  i: 0", "  j: 0"]
    assert (len(lines), lines[-1]) == (11, "  ...")
    assert (result.size, result.get()) == (5, [5, 0, 0])
    assert repr(result).startswith("<Result: 4 rows")
    assert [one.i for one in DataCollection(result)] == [1, 2, 3, 4]
    rows = many()(3)
    repr(rows)
    assert rows.to_list() == [[3, 0, 0], [3, 1, -1], [3, 2, -2]]


def test_a_chain_and_a_batch_show_theirs():
    chain = harden(pipe.input("x").map("x", "y", str.upper).output("x", "y"))
    assert repr(chain("a")) == "<Result: 1 row to get of (x, y)>\n  x: 'a'\n  y: 'A'"
    assert [repr(one).splitlines()[-1] for one in chain.batch(["a", "b"])] == ["  y: 'A'", "  y: 'B'"]
    assert repr(harden(pipe.input("x").map("x", "y", lambda x: None).output("y"))("a")).startswith(
        "<Result: 0 "
    )
