"""The page is one file that needs nothing else, and no text can break out of it."""

import base64
import io
import re

from conftest import paint
from PIL import Image

from t2i_pipelines import Hit
from t2i_pipelines.page import THUMBNAIL, render


def hit(path, score=0.5) -> Hit:
    return Hit("id", score, str(path))


def test_pictures_are_embedded_upright_and_small(tmp_path):
    wide = Image.new("RGB", (800, 400), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    page = render([("red", [hit(tmp_path / "turned.jpg")])])
    (data,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (THUMBNAIL // 2, THUMBNAIL)


def test_the_page_refers_to_nothing_outside(tmp_path):
    page = render([("red", [hit(paint(tmp_path / "a.png", "red"))])], title="t", note="n")
    assert not re.search(r"<script|<link|https?://|url\(|@import", page)
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', page)


def test_text_is_escaped_wherever_it_comes_from(tmp_path):
    evil = "<script>alert('x')</script>\" onload=\""
    path = paint(tmp_path / "<b>&'\".png", "red")
    page = render([(evil, [hit(path)])], title=evil, note=evil)
    assert "<script" not in page
    assert "<b>&'" not in page
    assert page.count("&lt;script&gt;") == 4  # head, heading, note and query


def test_a_picture_that_is_gone_leaves_its_place_and_score():
    page = render([("red", [hit("/no/such.png", 0.25)])])
    assert "cannot be shown" in page
    assert "<b>0.250</b> such.png" in page


def test_a_negative_score_has_no_bar(tmp_path):
    page = render([("red", [hit(paint(tmp_path / "a.png", "red"), -0.2)])])
    assert "width: 0%" in page
    assert "<b>-0.200</b>" in page


def test_a_query_without_hits_says_so():
    assert "Nothing is stored that could match." in render([("red", [])])
