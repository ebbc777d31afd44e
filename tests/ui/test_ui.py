"""`build_ui()`: what it is made of, what it finds, inserts and refuses, and where it can be reached."""

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
from conftest import paint

from t2i_pipelines import Searcher, build_insert_pipeline, testing
from t2i_pipelines.errors import ConfigError, MissingExtraError, QueryError
from t2i_pipelines.ui import EXAMPLES, build_ui, finding, markup
from t2i_pipelines.ui.finding import Finder, Wanted

assert testing

# gradio 6.31 leaves event loops open and sets an option that pandas 3 no longer has
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Close what gradio leaves open before the tests of other modules; collecting takes over a second."""
    yield
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture
def filled(pictures, settings):
    """The settings of a collection of seven colours, each with its number as `place`."""
    rows = [{"path": str(path), "place": n} for n, path in enumerate(sorted(pictures.iterdir()))]
    build_insert_pipeline(**settings)(rows).to_list()
    return settings


@contextmanager
def served(page):
    page.launch(prevent_thread_lock=True, inbrowser=False)
    try:
        yield page.local_url
    finally:
        page.close(verbose=False)


def names(found):
    return [hit.path.rpartition("/")[2] for hit in found.hits]


def test_it_is_gradio_blocks_of_a_searcher_or_of_settings(settings):
    import gradio

    assert isinstance(build_ui(Searcher(**settings)), gradio.Blocks)
    assert isinstance(build_ui(**settings), gradio.Blocks)
    with pytest.raises(ConfigError, match="give a searcher or settings, not both; got limit, uri as well"):
        build_ui(Searcher(**settings), uri="other.db", limit=3)


def test_importing_it_loads_no_gradio_and_without_gradio_one_sentence_says_what_to_run():
    code = """
import sys
from t2i_pipelines.ui import build_ui
assert not {"gradio", "starlette", "pandas"} & sys.modules.keys()
sys.modules["gradio"] = None
try:
    build_ui(model_name="t2i_mini")
except Exception as err:
    print(type(err).__name__, err)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == (
        f"{MissingExtraError.__name__} gradio is not installed; run: pip install 't2i-pipelines[ui]'"
    )


def test_there_is_no_telemetry_whatever_the_environment_says(settings, monkeypatch):
    asked = []
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setattr("gradio.analytics._do_analytics_request", lambda *told, **more: asked.append(told))
    monkeypatch.setattr("gradio.analytics.version_check", lambda: asked.append("version"))
    page = build_ui(**settings)
    with served(page):
        assert (page.analytics_enabled, asked) == (False, [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"share": True}, "share must be False: the page is for this machine alone"),
        ({"server_name": "0.0.0.0"}, "server_name must be one of 127.0.0.1, ::1, localhost, got '0.0.0.0'"),
        ({"server_name": "192.168.1.2"}, "got '192.168.1.2'"),
    ],
)
def test_other_machines_cannot_reach_it(settings, options, told):
    with pytest.raises(ConfigError, match=told):
        build_ui(**settings).launch(prevent_thread_lock=True, **options)


def test_gradios_environment_opens_nothing(settings, monkeypatch, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", str(tmp_path))
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    monkeypatch.setenv("GRADIO_NUM_WORKERS", "2")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    opened = []
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: opened.append("share"))
    monkeypatch.setattr(
        "gradio.routes.App.setup_mcp_server", lambda _, __, asked: opened.append(asked) or "/mcp"
    )
    page = build_ui(**settings)
    with served(page) as url:
        assert (page.server_name, page.share, set(opened)) == ("127.0.0.1", False, {False})
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            assert client.get("/").status_code == 200
            for path in (f"/gradio_api/file={secret}", f"/file={secret}", "/gradio_api/mcp", "/monitoring"):
                assert client.get(path).status_code == 404
    assert os.environ.get("NO_PROXY") is None


def test_a_file_of_the_server_can_be_passed_off_as_no_upload(filled, pictures):
    page = build_ui(**filled)
    number = next(one for one, fn in page.fns.items() if fn.name == "_upload")
    mine = pictures / "red.png"
    file = {"path": str(mine), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    told = {"fn_index": number, "data": [1, None, file, 5, 0, ""], "session_hash": "abc"}
    with served(page) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.post("/gradio_api/queue/join", json=told).status_code == 200
        with client.stream("GET", "/gradio_api/queue/data?session_hash=abc") as events:
            said = [json.loads(line[5:]) for line in events.iter_lines() if line.startswith("data:")]
    ended = next(one for one in said if one["msg"] == "process_completed")
    assert ended["success"] is False
    assert "red" not in json.dumps(ended)
    assert mine.exists()


def test_hits_come_with_picture_score_relevance_and_path(filled, pictures):
    html = markup.found(Finder(Searcher(**filled)).words("a red ball", Wanted(limit=3)))
    assert html.count('<li class="t2i-hit">') == html.count("data:image/webp;base64,") == 3
    assert html.index("red.png") < html.index("cosine") + 500
    assert re.search(r"1\.000</b> <span class=\"t2i-label\">cosine", html)
    assert f'title="{pictures}/red.png"' in html
    assert html.count("More like this</button>") == 3
    assert "http" not in html


def test_what_others_wrote_is_shown_as_text(settings, tmp_path):
    paint(tmp_path / "in" / "<b>${alert(1)}{{7*7}}.png", "red")
    build_insert_pipeline(**settings)(tmp_path / "in").to_list()
    found = Finder(Searcher(**settings)).words("<script>red</script>", Wanted())
    html = markup.found(found)
    assert "&lt;script&gt;red&lt;/script&gt;" in html
    assert "&lt;b&gt;${alert(1)}{{7*7}}.png" in html
    assert "<b>$" not in html


def test_pages_go_on_and_back(filled):
    finder = Finder(Searcher(**filled))
    whole = names(finder.words("red", Wanted(limit=7)))
    first = finder.words("red", Wanted(limit=3))
    second = finder.page(first, 1)
    third = finder.page(second, 1)
    assert names(first) + names(second) + names(third) == whole
    assert [one.may_go_on for one in (first, second, third)] == [True, True, False]
    assert names(finder.page(third, -1)) == names(second)
    assert names(finder.page(first, -1)) == names(first)
    assert 'start="4"' in markup.found(second)


def test_more_like_a_hit_leaves_it_out(filled):
    finder = Finder(Searcher(**filled))
    shown = finder.words("red", Wanted(limit=3))
    found = finder.like(shown, 1, Wanted(limit=7))
    assert (names(shown)[0], len(found.hits)) == ("red.png", 6)
    assert "red.png" not in names(found)
    assert 'alt="like' in markup.found(found)
    assert len(finder.like(finder.page(shown, 1), 4, Wanted(limit=7)).hits) == 6
    with pytest.raises(QueryError, match="no hit of rank 4 is shown; search again"):
        finder.like(shown, 4, Wanted())
    with pytest.raises(QueryError, match="no hit of rank 3 is shown"):
        finder.like(finder.page(shown, 1), 3, Wanted())


def test_a_picture_finds_itself_and_is_named(filled, pictures):
    found = Finder(Searcher(**filled)).image((pictures / "blue.png").read_bytes(), "sea.png", Wanted())
    html = markup.found(found)
    assert names(found)[0] == "blue.png"
    assert "<bdi>sea.png</bdi>" in html
    assert html.count("data:image/webp;base64,") == 8
    with pytest.raises(QueryError, match="cannot read image sea.png"):
        Finder(Searcher(**filled)).image(b"no picture", "sea.png", Wanted())


def test_new_wishes_search_again_for_the_same(filled):
    finder = Finder(Searcher(**filled))
    found = finder.like(finder.words("red", Wanted(limit=3)), 1, Wanted())
    again = finder.again(found, Wanted(limit=2))
    assert names(again) == names(found)[:2]
    assert again.asked == found.asked


def test_what_is_typed_cannot_undo_the_searchers_own_conditions(filled):
    whole = Finder(Searcher(**filled))
    ids = {hit.path.rpartition("/")[2]: hit.id for hit in whole.words("red", Wanted()).hits}
    inside = {name for n, name in enumerate(sorted(ids)) if 2 < n < 6}
    hidden = ids[sorted(ids)[4]]
    inside -= {sorted(ids)[4]}
    own = Finder(Searcher(**filled, filter="place > 2", where={"place": ("<", 6), "id": ("!=", hidden)}))
    assert set(names(own.words("red", Wanted()))) == inside
    assert set(names(own.words("red", Wanted(filter="place >= 0 or place < 0")))) == inside
    shown = own.words("red", Wanted(filter="place == 3"))
    assert len(names(shown)) == 1
    assert set(names(own.like(shown, 1, Wanted()))) == inside - set(names(shown))
    with pytest.raises(ConfigError, match="its parentheses do not match"):
        own.words("red", Wanted(filter="place > 0) or (place < 9"))


def test_an_empty_collection_and_too_high_a_wish_are_said(filled, tmp_path):
    empty = Finder(Searcher(uri=tmp_path / "empty.db", model_name="colour")).words("red", Wanted())
    assert "Nothing is stored that could match." in markup.found(empty)
    found = Finder(Searcher(**filled)).words("red", Wanted(filter="place > 99"))
    assert "Nothing that is stored meets the conditions." in markup.found(found)
    assert "<button" not in markup.found(found)


def test_inserting_tells_how_far_it_is_and_what_failed(pictures, settings):
    (pictures / "sub").mkdir()
    (pictures / "sub" / "broken.jpg").write_bytes(b"no picture")
    runs = list(finding.insert(f" {pictures} ", settings))
    html = markup.inserted(runs[-1], settings)
    assert (runs[-1].total, runs[-1].is_over) == (8, True)
    assert "8 images: 7 inserted, 0 unchanged, 1 failed" in html
    assert "<bdi>sub/broken.jpg</bdi></b>" in html
    assert '<span class="t2i-stage">decode</span>' in html
    assert "cannot read image broken.jpg: " in html
    assert str(pictures) not in html
    assert "<progress" not in html


def test_a_run_under_way_shows_its_bar(settings):
    run = finding.Run("photos", total=40)
    assert re.search(r'<progress .*max="40" value="0">', markup.inserted(run, settings))
    assert "0 of 40" in markup.inserted(run, settings)
    unknown = markup.inserted(finding.Run("photos.tar"), settings)
    assert "value=" not in unknown


def test_what_cannot_be_inserted_is_one_sentence_without_a_path(settings, tmp_path):
    page = build_ui(**settings)
    assert "name a folder, a glob, a table or an image to insert" in "".join(page._insert("  "))
    html = "".join(page._insert(str(tmp_path / "nowhere")))
    assert "no such folder or file: &#39;nowhere&#39;" in html
    assert str(tmp_path) not in html


def test_an_error_that_is_not_ours_is_logged_and_not_shown(settings, monkeypatch, caplog):
    page = build_ui(**settings)

    def fail(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(page._finder, "words", fail)
    html, state = page._ask("red", 5, 0, "")
    assert "for an unexpected reason" in html
    assert ("secret" in html, state) == (False, None)
    assert "ZeroDivisionError: secret" in caplog.text


def test_an_answer_that_is_overtaken_is_not_shown(filled):
    import gradio

    from t2i_pipelines.ui.app import Latest

    page = build_ui(**filled)
    ask, again = (next(fn.fn for fn in page.fns.values() if fn.name == name) for name in ("_ask", "_again"))
    latest = Latest()
    _, before = ask(1, latest, "red", 5, 0, "")
    # asked third, and answered before the second is
    html, after = ask(3, latest, "blue", 5, 0, "")
    assert ("blue" in html, names(after)[0]) == (True, "blue.png")
    assert again(2, latest, before, 5, 0.5, "") == (gradio.skip(), gradio.skip())


def test_a_run_that_stops_says_why(pictures, settings):
    (pictures / "broken.jpg").write_bytes(b"no picture")
    page = build_ui(**settings, on_error="raise")
    html = list(page._insert(str(pictures)))[-1]
    assert 'role="alert"' in html
    assert "cannot read image broken.jpg" in html


def test_an_uploaded_picture_is_gone_once_it_was_searched_for(filled, pictures, tmp_path):
    page = build_ui(**filled)
    for content in ((pictures / "red.png").read_bytes(), b"no picture"):
        upload = tmp_path / "sent.png"
        upload.write_bytes(content)
        html, _ = page._upload(str(upload), 5, 0, "")
        assert ("sent.png" in html, upload.exists()) == (True, False)


def test_it_can_do_without_inserting(settings):
    assert "_insert" in [fn.name for fn in build_ui(**settings).fns.values()]
    assert "_insert" not in [fn.name for fn in build_ui(**settings, insert=False).fns.values()]


def test_examples_are_in_five_languages():
    assert len(EXAMPLES) == 5
    assert all(text in markup.chips(EXAMPLES) for text in EXAMPLES)


@pytest.mark.parametrize("insert", [True, False])
def test_before_the_first_search_the_page_says_what_can_be_done(insert):
    html = markup.welcome(insert)
    assert "Type what an image should show" in html
    assert ("The tab Insert" in html) == insert
