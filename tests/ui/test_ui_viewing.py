"""Hits enlarged, folded, filtered, shared and stopped, in a real Chromium; and what axe-core says of it."""

import re
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import serving_ui
from PIL import Image
from playwright.sync_api import expect

from t2i_pipelines import build_insert_pipeline, close

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=document.title='owned'>"
COLUMN = "<img src=x onerror=document.title=1>"  # a filter cannot name one with quotes
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Photographs on a page, and three near copies of one."""
    folder = tmp_path_factory.mktemp("viewing")
    settings = {"uri": folder / "milvus.db", "model_name": "t2i_mini"}
    build_insert_pipeline(**settings)("data/photographs.csv").to_list()
    with Image.open("data/photographs/castle.webp") as castle:
        for quality in (60, 70, 80):
            castle.convert("RGB").save(folder / f"castle-{quality}.jpg", quality=quality)
    rows = [{"path": str(path), "note": EVIL, COLUMN: 1} for path in sorted(folder.glob("*.jpg"))]
    build_insert_pipeline(**settings)(rows).to_list()
    close()
    told = ("--uri", settings["uri"], "--model-name", "t2i_mini", "--limit", 12)
    with serving_ui(*told, UI_CONTACTS=str(folder / "contacts")) as (url, _):
        yield url
        assert (folder / "contacts").read_text() == ""


@pytest.fixture
def tab(visit):
    return visit(viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])


def viewer(tab):
    return tab.page.get_by_role("dialog")


def clipboard(tab):
    return tab.page.evaluate("navigator.clipboard.readText()")


def test_the_start_tells_how_many_images_and_shows_a_few(tab):
    assert tab.page.get_by_text("79 images, model t2i_mini").is_visible()
    assert tab.hits.count() == 12
    tab.hits.nth(2).get_by_role("button", name="Enlarge").click()
    assert viewer(tab).get_by_text("3 of 12").is_visible()


def test_a_hit_is_enlarged_looked_through_and_left_by_keyboard(tab):
    tab.ask("a penguin in the snow")
    names = tab.names()
    tab.hits.first.get_by_role("button", name="Enlarge").focus()
    tab.page.keyboard.press("Enter")
    dialog = viewer(tab)
    assert dialog.get_by_role("heading").inner_text() == names[0]
    tab.page.wait_for_function("document.querySelector('dialog img').src.includes('image/view?id=')")
    assert dialog.get_by_role("img").evaluate("image => image.naturalWidth") > 256
    assert dialog.get_by_text("caption_en").is_visible()
    assert dialog.get_by_role("button", name="Previous image").is_disabled()
    for name in names[1:3]:
        tab.page.keyboard.press("ArrowRight")
        assert dialog.get_by_role("heading").inner_text() == name
    tab.page.keyboard.press("ArrowLeft")
    assert dialog.get_by_role("heading").inner_text() == names[1]
    # focus stays inside, and in the browser's own bar
    for _ in range(12):
        tab.page.keyboard.press("Tab")
        assert tab.page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    tab.page.keyboard.press("Escape")
    assert dialog.count() == 0
    # the event that follows the end of a dialog moves the focus
    expect(tab.page.get_by_role("button", name=f"Enlarge {names[1]}", exact=True)).to_be_focused()


def test_a_hit_is_opened_downloaded_and_its_path_copied(tab):
    tab.ask("a penguin in the snow")
    name = tab.names()[0]
    tab.hits.first.get_by_role("button", name="Enlarge").click()
    dialog = viewer(tab)
    dialog.get_by_role("button", name="Copy path").click()
    told = dialog.get_by_role("status")
    told.get_by_text("Path copied.").wait_for()
    assert told.get_attribute("aria-live") == "polite"
    path = clipboard(tab)
    assert path.endswith(f"/data/photographs/{name}")
    content = Path(path).read_bytes()
    with tab.page.expect_download() as download:
        dialog.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == name
    assert download.value.path().read_bytes() == content
    with tab.context.expect_page() as opened:
        dialog.get_by_role("link", name="Open in a new tab").click()
    opened.value.wait_for_load_state()
    assert opened.value.evaluate("document.images[0].naturalWidth") > 256
    assert opened.value.evaluate("window.opener") is None
    opened.value.close()
    dialog.get_by_role("button", name="More like this").click()
    tab.wait_for_heading(name)
    assert name not in tab.names()
    assert dialog.count() == 0


def test_near_duplicates_fold_and_unfold(tab):
    tab.ask("a castle")
    castles = [name for name in tab.names() if name.startswith("castle")]
    assert len(castles) == 1
    more = tab.page.get_by_role("button", name="+3 similar")
    assert more.get_attribute("aria-expanded") == "false"
    more.click()
    assert more.get_attribute("aria-expanded") == "true"
    shown = {name for name in tab.names() if name.startswith("castle")}
    assert shown == {"castle.webp", "castle-60.jpg", "castle-70.jpg", "castle-80.jpg"}
    small = tab.page.locator(".t2i-similar:visible img")
    loaded = "[...document.querySelectorAll('.t2i-similar:not([hidden]) img')].every(one => one.naturalWidth)"
    tab.page.wait_for_function(loaded)
    assert small.count() == 3
    small.first.click()
    assert viewer(tab).get_by_role("heading").inner_text().startswith("castle")
    tab.page.keyboard.press("Escape")
    more.click()
    assert len([name for name in tab.names() if name.startswith("castle")]) == 1
    tab.page.get_by_role("button", name="More options").click()
    tab.page.get_by_label("Show near duplicates as one image").uncheck()
    more.wait_for(state="detached")
    assert len([name for name in tab.names() if name.startswith("castle")]) == 4
    assert tab.page.url.endswith("/?q=a+castle&fold=0")


def test_what_others_wrote_runs_nowhere(tab):
    tab.ask(EVIL)
    assert tab.page.title() == f"{EVIL} – Type words, get the matching images"
    tab.ask("a castle")
    tab.page.get_by_role("button", name="More options").click()
    tab.page.get_by_label("Show near duplicates as one image").uncheck()
    copy = tab.page.get_by_role("button", name="Enlarge castle-60.jpg")
    tab.page.wait_for_url("**/?q=a+castle&fold=0")
    copy.click()
    viewer(tab).get_by_text("note", exact=True).wait_for()
    assert viewer(tab).get_by_text(EVIL, exact=True).is_visible()
    assert viewer(tab).get_by_text(COLUMN, exact=True).is_visible()
    tab.page.keyboard.press("Escape")
    tab.page.locator("select[data-column]").select_option(COLUMN)
    tab.page.locator("select[data-value]").select_option("1")
    tab.page.get_by_role("button", name=f"Remove the filter {COLUMN}: 1").wait_for()
    tab.page.reload()
    tab.page.get_by_role("button", name=f"Remove the filter {COLUMN}: 1").wait_for()
    assert tab.page.title() == "a castle – Type words, get the matching images"
    assert tab.page.locator("[onerror]").count() == 0


def test_a_search_is_shared_reloaded_and_gone_back_to(tab, visit):
    tab.ask("a bird")
    first = tab.names()
    tab.page.get_by_role("button", name="Next page").click()
    tab.page.get_by_text("13 to 24").wait_for()
    second = tab.names()
    assert tab.page.url.endswith("/?q=a+bird&p=2")
    tab.page.get_by_role("button", name="Copy link").click()
    tab.page.get_by_text("Link copied.").wait_for()
    link = clipboard(tab)
    tab.page.locator("select[data-column]").select_option("credit")
    tab.page.locator("select[data-value]").select_option(index=1)
    tab.page.get_by_role("button", name="Remove the filter credit").wait_for()
    tab.page.get_by_text("1 to 12").wait_for()
    filtered, address = tab.names(), tab.page.url
    assert "?q=a+bird&is.credit=" in address
    tab.page.go_back()
    tab.page.get_by_text("13 to 24").wait_for()
    assert (tab.names(), tab.page.locator(".t2i-chosen").count()) == (second, 0)
    tab.page.go_back()
    tab.page.get_by_text("1 to 12").wait_for()
    assert tab.names() == first
    tab.page.go_back()
    tab.page.get_by_text("A few of your images").wait_for()
    assert tab.words.input_value() == ""
    tab.page.goto(address)
    tab.wait_for_heading("a bird")
    assert tab.names() == filtered
    tab.page.reload()
    tab.wait_for_heading("a bird")
    assert (tab.names(), tab.words.input_value()) == (filtered, "a bird")
    other = visit(viewport=WIDE)
    other.page.goto(link)
    other.page.get_by_text("13 to 24").wait_for()
    assert other.names() == second
    other.page.goto(link.replace("p=2", "limit=99"))
    other.page.get_by_role("alert").get_by_text("limit in the address must be 1 to 50, got '99'").wait_for()


def test_an_uploaded_image_keeps_the_address_clean_and_a_like_has_one(tab):
    tab.ask("a bird")
    with tab.page.expect_file_chooser() as chooser:
        tab.page.get_by_role("button", name="Search by image").click()
    chooser.value.set_files("data/photographs/castle.webp")
    tab.wait_for_heading("castle.webp")
    assert tab.page.get_by_text("An uploaded image has no link to share.").is_visible()
    assert tab.page.url.endswith("/")
    tab.hits.nth(1).get_by_role("button", name="More like").click()
    tab.page.wait_for_url("**/?like=*")
    like = tab.names()
    tab.page.reload()
    tab.page.locator("#t2i-found h2").wait_for()
    assert tab.names() == like


def test_filters_are_chosen_from_menus_and_taken_away(tab):
    menu = tab.page.get_by_label("Filter by")
    assert set(menu.locator("option").all_inner_texts()) >= {"caption_en", "credit", "note"}
    menu.focus()
    menu.select_option("note")
    values = tab.page.get_by_label("Value of note")
    values.wait_for()
    assert tab.page.evaluate("document.activeElement.dataset.value") == "note"
    assert values.locator("option").all_inner_texts() == ["choose a value", f"{EVIL} (3)"]
    values.select_option(index=1)
    tab.page.get_by_text("3 images, model t2i_mini").wait_for()
    assert tab.page.get_by_role("heading", name="Some that fit the filters").is_visible()
    tab.ask("a castle")
    assert {name.partition("-")[0] for name in tab.names()} == {"castle"}
    tab.page.get_by_role("button", name="Remove the filter note").click()
    tab.page.get_by_text("1 to 12").wait_for()
    assert "is." not in unquote_plus(tab.page.url)


def test_a_search_is_stopped(tab):
    tab.ask("a bird")
    before, held = tab.names(), []

    def hold(route):
        held.append(route) if not held else route.fallback()

    tab.page.route("**/gradio_api/queue/join*", hold)
    tab.words.fill("a castle")
    tab.words.press("Enter")
    stop = tab.page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for()
    stop.click()
    tab.page.get_by_text("Stopped.").wait_for()
    stop.wait_for(state="hidden")
    held[0].fallback()
    tab.page.wait_for_timeout(1500)
    assert (tab.names(), tab.page.url.endswith("?q=a+bird")) == (before, True)
    tab.ask("a dog")


def test_an_insert_shows_its_progress_and_is_stopped(tab, tmp_path):
    for n in range(900):
        Image.new("RGB", (64, 64), (n % 256, n // 256, 99)).save(tmp_path / f"{n:03}.png")
    tab.page.get_by_role("tab", name="Insert").click()
    tab.page.get_by_label("What to insert").fill(str(tmp_path))
    tab.page.get_by_role("button", name="Insert", exact=True).click()
    tab.page.locator("progress[max='900']").wait_for()
    tab.page.get_by_role("button", name="Stop", exact=True).click()
    told = tab.page.get_by_text("Stopped after")
    told.wait_for()
    counted = re.fullmatch(
        r"Stopped after (\d+) of 900 images: (\d+) added\. Insert it again to go on\.", told.inner_text()
    )
    assert counted
    assert counted[1] == counted[2]
    assert 0 <= int(counted[1]) < 900
    assert tab.page.get_by_role("button", name="Insert", exact=True).is_enabled()
    tab.page.goto(tab.page.url)
    tab.page.get_by_text(f"{79 + int(counted[1]):,} images, model t2i_mini").wait_for()


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(visit, scheme, viewport, tmp_path):
    tab = visit(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    axe, found = Axe(), {}

    def check(state):
        tab.page.wait_for_timeout(300)  # what fades in has less contrast meanwhile
        run = axe.run(tab.page).response
        assert len(run["passes"]) > 15, state
        found[state] = [(one["id"], [node["html"] for node in one["nodes"]]) for one in run["violations"]]

    check("start")
    tab.ask("a castle")
    check("results")
    tab.page.get_by_role("button", name="+3 similar").click()
    check("near duplicates")
    tab.hits.first.get_by_role("button", name="Enlarge").click()
    viewer(tab).get_by_role("button", name="Copy path").click()
    check("enlarged")
    tab.page.keyboard.press("Escape")
    tab.page.get_by_label("Filter by").select_option("credit")
    tab.page.get_by_label("Value of credit").select_option(index=1)
    tab.page.get_by_role("button", name="Remove the filter credit").wait_for()
    tab.page.get_by_role("button", name="More options").click()
    check("filters and options")
    tab.page.get_by_label("Advanced: a filter expression").fill("year >")
    tab.words.press("Enter")
    tab.page.get_by_role("alert").wait_for()
    check("error")
    tab.page.get_by_role("tab", name="Insert").click()
    check("insert")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    tab.page.get_by_label("What to insert").fill(str(tmp_path))
    tab.page.get_by_role("button", name="Insert", exact=True).click()
    tab.page.get_by_text("Done.").wait_for()
    check("insert done")
    assert found == {state: [] for state in found}
    assert tab.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
