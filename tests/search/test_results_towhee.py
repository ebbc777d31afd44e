"""Result lists on their way through Towhee, which copies them deeply, and in its tables."""

import base64
import importlib
import io

import numpy as np
import pytest
from conftest import paint
from PIL import Image as Pillow
from reading_html import Parsed
from towhee import DataCollection, ops, pipe
from towhee.types import Image

from t2i_pipelines import Hit, build_insert_pipeline, build_search_pipeline, harden
from t2i_pipelines.search.hits import Hits, ManyHits


@pytest.fixture
def search(pictures, settings):
    build_insert_pipeline(**settings)(pictures)
    return build_search_pipeline(**settings, limit=2)


def test_a_search_gives_hits_that_know_their_query(search):
    text, hits = search("red").get()
    assert type(hits) is Hits
    assert hits.query == text == "red"
    assert [len(one) for one in (hits, hits.more(1), hits[:1])] == [2, 1, 1]
    assert hits.more(1)[0] not in hits


def test_several_queries_give_a_list_of_lists_that_shows_itself(search):
    _, found = search(["red", "blue"]).get()
    assert type(found) is ManyHits
    parsed = Parsed(found._repr_html_())
    assert parsed.tags.count("h3") == 2
    assert len(parsed.values("src")) == 4
    assert repr(found).count("<Hits: 2 hits for ") == 2


def test_a_terminal_shows_the_query_and_the_hits(search, capsys):
    DataCollection(search("red")).show()
    shown = capsys.readouterr().out
    assert "red" in shown
    assert "<Hits: 2 hits for 'red'>" in shown
    DataCollection(search(["red", "blue"])).show()
    assert "<Hits: 2 hits for 'red'>" in capsys.readouterr().out


def test_a_notebook_shows_the_grid(search, displayed):
    DataCollection(search("red")).show(tablefmt="html")
    (table,) = displayed
    parsed = Parsed(table)
    assert len(parsed.values("src")) == 2
    assert "red.png" in parsed.text
    assert "hits" in parsed.text, "the column"


def test_a_notebook_escapes_every_other_text(tmp_path, displayed):
    evil = "<script>x</script>"
    p = pipe.input("text").map("text", ("path", "list", "object"), lambda one: (one, [one, one], {one: one}))
    p = harden(p.output("text", "path", "list", "object"))
    DataCollection(p(evil)).show(tablefmt="html")
    DataCollection(p(evil)).show(tablefmt="html")
    assert len(displayed) == 2
    for table in displayed:
        assert "script" not in Parsed(table).tags
        assert Parsed(table).text.count(evil) == 6


def test_a_notebook_shows_pictures_in_their_colours_and_proportions(tmp_path, displayed):
    path = str(paint(tmp_path / "red.png", "red", size=(150, 300)))
    p = pipe.input("path").map("path", "rgb", ops.t2i.image_decode())
    p = p.map("rgb", ("bgr", "both"), lambda one: (Image(one[..., ::-1], "BGR"), [one, Image(one)]))
    DataCollection(harden(p.output("rgb", "bgr", "both"))(path)).show(tablefmt="html")
    shown = [decoded(source) for source in Parsed(displayed[0]).values("src")]
    assert [picture.shape for picture in shown] == [(64, 128, 3)] * 4
    assert all((picture == (255, 0, 0)).all() for picture in shown)


def test_a_notebook_shows_pictures_that_are_gray_or_not_bytes(displayed, monkeypatch):
    ramp = np.linspace(0, 255, 16, dtype=np.uint8).reshape(4, 4)
    html_table = importlib.import_module("towhee.utils.html_table")
    monkeypatch.setattr(html_table, "_image_to_html_cell", lambda image, *_: f"Towhee's own: {image.shape}")
    p = pipe.input("x").map("x", ("gray", "real"), lambda _: (Image(ramp, "GRAY"), Image(ramp / 255, "GRAY")))
    DataCollection(harden(p.output("gray", "real"))(1)).show(tablefmt="html")
    parsed = Parsed(displayed[0])
    (gray,) = map(decoded, parsed.values("src"))
    assert (gray == ramp[..., None]).all(), "neither mirrored nor enlarged"
    assert "Towhee's own: (4, 4)" in parsed.text


def decoded(source: str) -> np.ndarray:
    """RGB of an embedded PNG."""
    png = base64.b64decode(source.removeprefix("data:image/png;base64,").strip())
    return np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB"))


def test_hits_survive_the_deep_copies_of_towhee(search):
    p = pipe.input("hits").map("hits", "hits", Copied()).output("hits")
    hits = search("red").get()[1]
    (through,) = harden(p)(hits).get()
    assert type(through) is Hits
    assert through == hits
    assert through.query == "red"


class Copied:
    """Passes what it gets; Towhee deep-copies it with all that it holds."""

    def __init__(self) -> None:
        self.kept = Hits([Hit("a", 0.5, "/a")], query="kept")

    def __call__(self, hits: Hits) -> Hits:
        assert self.kept.query == "kept"
        return hits


def test_many_hits_are_a_list_of_the_same_kind():
    found = ManyHits([Hits([Hit("a", 0.5, "/a")], query="red"), Hits(query="blue")])
    assert type(found[:1]) is ManyHits
    assert found[1].query == "blue"
    assert found == [[Hit("a", 0.5, "/a")], []]
    assert repr(ManyHits()) == "<ManyHits: no queries>"
    assert Parsed(ManyHits()._repr_html_()).text.strip() == ""


def test_many_hits_show_no_more_than_a_notebook_bears(tmp_path):
    path = str(paint(tmp_path / "red.png", "red"))
    found = ManyHits(
        Hits([Hit(str(number), 0.5, path) for number in range(10)], query=f"q{query}") for query in range(60)
    )
    parsed = Parsed(found[:20]._repr_html_())
    assert parsed.tags.count("li") == 50
    assert parsed.text.count("and 5 more") == 10
    assert "and 10 more queries" in parsed.text
    assert "and 50 more queries" in Parsed(found._repr_html_()).text
    assert len(found._repr_html_()) < 1_000_000
    page = Parsed(found.save_html(tmp_path / "a.html", title="All").read_text("utf-8"))
    assert page.tags.count("li") == 600
