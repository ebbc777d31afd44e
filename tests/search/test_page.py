"""A page is one file that needs nothing else, and no text can break out of it."""

import base64
import io
import re

from conftest import paint
from PIL import Image

from t2i_pipelines import Hit
from t2i_pipelines.search.hits import Hits, render
from t2i_pipelines.search.render import LONGEST


def hit(path, score=0.5) -> Hit:
    return Hit("id", score, str(path))


def test_pictures_are_embedded_upright_and_small(tmp_path):
    wide = Image.new("RGB", (800, 400), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    page = render([("red", [hit(tmp_path / "turned.jpg")])])
    (data,) = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (LONGEST // 2, LONGEST)


def test_a_picture_that_is_gone_leaves_its_place_and_score():
    page = render([("red", [hit("/no/such.png", 0.25)])])
    assert ">missing<" in page
    assert "<b>0.250</b>" in page
    assert "such.png" in page


def test_a_picture_that_cannot_be_read_leaves_its_place(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert ">cannot be shown<" in render([("red", [hit(tmp_path / "a.png")])])


def test_a_negative_score_has_no_bar(tmp_path):
    page = render([("red", [hit(paint(tmp_path / "a.png", "red"), -0.2)])])
    assert "width: 0%" in page
    assert "<b>-0.200</b>" in page


def test_a_query_without_hits_says_so():
    assert "Nothing is stored that could match." in render([("red", [])])


def test_several_queries_stand_below_each_other_with_title_and_note(tmp_path):
    path = paint(tmp_path / "a.png", "red")
    page = render(
        [("ein Hund", [hit(path)]), ("一只狗", Hits([hit(path)]))], title="Two", note="of one model"
    )
    assert re.findall(r"<h1>(.*?)</h1>|class=\"note\">(.*?)<", page) == [("Two", ""), ("", "of one model")]
    assert page.index("ein Hund") < page.index("一只狗")
    assert page.count("<style>") == 1


def test_the_window_is_called_after_the_query_where_there_is_no_title(tmp_path):
    path = paint(tmp_path / "a.png", "red")
    page = render([("a red ball", [hit(path)])])
    assert "<title>a red ball</title>" in page
    assert "<h1>" not in page
