"""The page in a real Chromium: five languages, an image, pages, inserting, keyboard, phone."""

import csv
import os
import signal
from pathlib import Path

import pytest
from browser import GALLERY, MISSING, chromium, serving_ui
from PIL import Image

from t2i_pipelines.cli import demo
from t2i_pipelines.ui import EXAMPLES

pytestmark = pytest.mark.slow

PENGUIN = "012-penguin.jpg"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def captions():
    """A caption in each of five languages -> the name of the image in the gallery that it is of."""
    with GALLERY.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = {"en": 9, "es": 1, "zh": 12, "de": 3, "it": 2}
    return {rows[n][f"caption_{language}"]: Path(rows[n]["path"]).name for language, n in chosen.items()}


def test_each_of_five_languages_finds_its_picture_first(visit):
    tab = visit()
    assert len(captions()) == 5
    for text, name in captions().items():
        tab.ask(text)
        assert tab.names()[0] == name, text
        assert tab.hits.count() == 20
    first = tab.hits.first.inner_text()
    assert "match" in first
    assert "data/gallery/" in first


def test_examples_are_tried_by_a_click(visit):
    tab = visit()
    assert tab.page.get_by_text("Type what an image should show").is_visible()
    for text in EXAMPLES:
        tab.page.get_by_role("button", name=text).click()
        tab.wait_for_heading(text)
        assert tab.hits.count() == 20
        assert tab.words.input_value() == text
    assert tab.page.get_by_text("Type what an image should show").count() == 0


def test_a_picture_is_uploaded_then_paged_then_more_like_a_hit(visit):
    tab = visit()
    button = tab.page.get_by_role("button", name="Search by image")
    for name in (PENGUIN, "011-sailboat.webp"):
        button.focus()
        with tab.page.expect_file_chooser() as chooser:
            tab.page.keyboard.press("Enter")
        chooser.value.set_files(GALLERY / name)
        tab.wait_for_heading(name)
        assert tab.names()[0] == name
        assert tab.hits.first.locator(".t2i-numbers").get_by_text("1.00").count() == 1
        assert tab.page.locator("#t2i-found h2 img").evaluate("image => image.naturalWidth") > 0
    first = tab.names()
    tab.page.get_by_role("button", name="Next page").click()
    tab.page.get_by_text("21 to 40").wait_for()
    second = tab.names()
    assert not set(first) & set(second)
    like = tab.hits.nth(2).get_by_role("button", name="More like")
    assert like.get_attribute("aria-label") == f"More like {second[2]}"
    tab.page.get_by_role("button", name="Previous page").click()
    tab.page.get_by_text("1 to 20").wait_for()
    assert tab.names() == first
    tab.hits.nth(3).get_by_role("button", name="More like").click()
    tab.wait_for_heading(first[3])
    assert first[3] not in tab.names()


def test_a_folder_with_a_broken_file_is_inserted_and_the_failure_named(visit, tmp_path):
    evil = "<img src=x onerror=document.title='owned'>${document.title='owned'}.jpg"
    (tmp_path / "new" / "sub").mkdir(parents=True)
    Image.new("RGB", (80, 60), "orange").save(tmp_path / "new" / "orange.png")
    (tmp_path / "new" / "sub" / "broken.jpg").write_bytes((GALLERY / PENGUIN).read_bytes()[:100])
    (tmp_path / "new" / evil.replace("/", "")).write_bytes(b"no picture")
    (tmp_path / "new" / "film.mp4").write_bytes(b"film")
    tab = visit()
    tab.page.get_by_role("tab", name="Insert").click()
    source = tab.page.get_by_label("What to insert")
    source.fill(str(tmp_path / "nowhere"))
    source.press("Enter")
    assert tab.page.get_by_role("alert").inner_text().startswith("No such folder or file: 'nowhere'")
    source.fill(str(tmp_path / "new"))
    tab.page.get_by_role("button", name="Insert", exact=True).click()
    tab.page.get_by_text("Done. 3 images: 1 added, 2 could not be added.").wait_for()
    assert tab.page.get_by_text("1 skipped: 1 .mp4 (video)").is_visible()
    failed = tab.page.locator(".t2i-failed")
    assert failed.get_by_text("sub/broken.jpg").is_visible()
    assert failed.get_by_text("cannot read image broken.jpg").is_visible()
    assert failed.get_by_text(evil).first.is_visible()
    assert str(tmp_path) not in tab.page.locator("#t2i-run").inner_text()
    assert tab.page.title() == demo.TITLE
    tab.page.get_by_role("tab", name="Search").click()
    tab.ask("orange")
    assert tab.hits.count() == 20


def test_nothing_matches_is_said_and_errors_are_one_sentence(visit):
    tab = visit()
    # gradio sets what it first shows after a search once more, a frame later: no hand is as quick
    tab.page.get_by_role("button", name="More options").click()
    tab.ask("quarterly report")
    assert tab.page.get_by_text("Probably nothing matches. These come closest.").is_visible()
    tab.page.get_by_label("number input for Hide matches below").fill("90")
    tab.ask("insurance contract")
    assert tab.page.get_by_text("Nothing matches. Try other words").is_visible()
    assert tab.hits.count() == 0
    tab.page.get_by_label("number input for Hide matches below").fill("0")
    condition = tab.page.get_by_label("Advanced: a filter expression")
    condition.fill('caption_en like "%penguin%"')
    tab.ask("snow and ice")
    assert tab.names()
    assert all("penguin" in name for name in tab.names())
    condition.fill('caption_en like "%penguin')
    tab.words.press("Enter")
    said = tab.page.get_by_role("alert")
    assert "a quote in it is not closed" in said.inner_text()
    assert tab.hits.count() == 0


def test_it_works_by_keyboard(visit):
    tab = visit()
    assert tab.words.evaluate("field => field === document.activeElement")
    tab.page.keyboard.type("a penguin in the snow")
    tab.page.keyboard.press("Enter")
    tab.wait_for_heading("a penguin in the snow")
    focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
    passed = []
    while "More like" not in (passed or [""])[-1]:
        tab.page.keyboard.press("Tab")
        passed.append(tab.page.evaluate(focused).strip())
        assert len(passed) < 20, passed
    assert passed[:3] == ["Search", "Search by image", demo.QUERIES[0]]
    assert passed[-1] == f"More like {PENGUIN}"
    tab.page.keyboard.press("Enter")
    tab.wait_for_heading(PENGUIN)
    assert tab.page.evaluate("document.activeElement.tagName") == "H2"
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate(focused) == "Copy link"


def test_fifty_hits_fit_the_width_of_a_phone(visit):
    tab = visit(**PHONE)
    tab.page.get_by_role("button", name="More options").click()
    tab.page.get_by_label("number input for Images a page").fill("50")
    tab.ask("un gatto e un tulipano")
    assert tab.hits.count() == 50
    assert tab.page.locator(".t2i-frame img").evaluate_all(
        "all => all.every(image => image.naturalWidth > 0)"
    )
    wide = "[document.documentElement.scrollWidth, innerWidth]"
    assert tab.page.evaluate(wide) == [390, 390]
    left = tab.hits.evaluate_all("all => all.map(hit => Math.round(hit.getBoundingClientRect().left))")
    assert len(set(left)) == 2
    assert tab.page.get_by_role("button", name="Next page").is_enabled()
    tab.page.get_by_role("tab", name="Insert").tap()
    assert tab.page.evaluate(wide) == [390, 390]


def test_ctrl_c_ends_the_command_without_a_word(tmp_path):
    told = ("--uri", tmp_path / "milvus.db", "--model-name", "t2i_mini")
    with serving_ui(*told, UI_CONTACTS=str(tmp_path / "contacts")) as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_missing_browser_is_one_line_that_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "chrome"))
    with pytest.raises(RuntimeError) as told:
        chromium()
    assert str(told.value) == MISSING
    assert "apt-get install chromium" in MISSING
    (tmp_path / "chromium").write_text("#!/bin/sh\n")
    (tmp_path / "chromium").chmod(0o755)
    assert chromium() == os.fspath(tmp_path / "chromium")
