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
from t2i_pipelines.ui import EXAMPLES, address, build_ui, markup
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


def told(found=None, words="", limit=5):
    """What a tab tells with each question: its result, filters, words and options."""
    return found, (), words, limit, 0, True, ""


def asked(answer, *first, **tab):
    """The result as HTML, and as what can be gone on from."""
    return answer(*first, *told(**tab))[:2]


def inserted(page, source):
    """What an insert showed last."""
    from t2i_pipelines.ui.app import Latest

    return [html for html, *_ in page._insert(source, Latest()) if isinstance(html, str)][-1]


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
    told = {
        "fn_index": number,
        "data": [1, None, file, None, None, "", 5, 0, True, ""],
        "session_hash": "abc",
    }
    with served(page) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.post("/gradio_api/queue/join", json=told).status_code == 200
        with client.stream("GET", "/gradio_api/queue/data?session_hash=abc") as events:
            said = [json.loads(line[5:]) for line in events.iter_lines() if line.startswith("data:")]
    ended = next(one for one in said if one["msg"] == "process_completed")
    assert ended["success"] is False
    assert "red" not in json.dumps(ended)
    assert mine.exists()


def test_hits_come_with_image_match_name_and_path(filled, pictures):
    html = markup.found(Finder(Searcher(**filled)).words("a red ball", Wanted(limit=3)), "?q=a+red+ball")
    assert html.count('<li class="t2i-hit"') == html.count("data:image/webp;base64,") == 3
    assert re.search(r"<b>1\.00</b> <span class=\"t2i-label\">similarity", html)
    assert f'data-path="{pictures}/red.png"' in html
    assert html.count('aria-label="Enlarge ') == html.count("More like this</button>") == 3
    assert 'data-link="?q=a+red+ball"' in html
    assert "http" not in html
    for jargon in ("cosine", "relevance", "encoder", "threshold"):
        assert jargon not in html


def test_only_columns_that_were_asked_for_stand_below_an_image_and_all_in_its_details(filled):
    shown = Finder(Searcher(**filled)).words("red", Wanted(limit=1))
    plain, below = markup.found(shown, ""), markup.found(shown, "", ["place"])
    assert "<dt>place</dt><dd><bdi>4</bdi></dd>" in plain
    assert "<dt>File size</dt>" in plain
    assert "<dt>digest</dt>" not in plain
    assert '<div class="t2i-field" title="place"><bdi>4</bdi></div>' not in plain
    assert '<div class="t2i-field" title="place"><bdi>4</bdi></div>' in below


def test_what_others_wrote_is_shown_as_text(settings, tmp_path):
    path = paint(tmp_path / "in" / "<b>${alert(1)}{{7*7}}\"'.png", "red")
    row = {"path": str(path), "<i>": "<script>alert(2)</script>", "url_": "javascript:alert(3)"}
    build_insert_pipeline(**settings)([row]).to_list()
    finder = Finder(Searcher(**settings))
    found = finder.words('<script>red</script>" data-link="', Wanted())
    pages = markup.found(found, '?q="><b>', ["*"]), markup.start(finder.start(Wanted()), "", True)
    menus = markup.filters(finder.columns(), "<i>", finder.values("<i>"), [("<i>", "<u>")])
    for html in (*pages, menus):
        assert "<script" not in html
        assert not re.search(r"<(b>\$|i>|u>|bdi><)", html)
    assert "&lt;script&gt;red&lt;/script&gt;" in pages[0]
    assert "&lt;b&gt;${alert(1)}{{7*7}}&#34;&#39;.png" in pages[0]
    assert 'href="javascript' not in pages[0]
    assert 'data-web=""' in pages[0]


def test_pages_go_on_and_back(filled):
    finder = Finder(Searcher(**filled))
    whole = names(finder.words("red", Wanted(limit=7)))
    first = finder.words("red", Wanted(limit=3))
    second = finder.page(first, 1)
    third = finder.page(second, 1)
    assert names(first) + names(second) + names(third) == whole
    assert [one.may_go_on for one in (first, second, third)] == [True, True, False]
    assert names(finder.page(third, -1)) == names(second) == names(finder.words("red", Wanted(limit=3), 1))
    assert names(finder.page(first, -1)) == names(first)
    assert 'start="4"' in markup.found(second, "")


def test_more_like_a_hit_leaves_it_out(filled):
    finder = Finder(Searcher(**filled))
    red = finder.words("red", Wanted(limit=3)).hits[0]
    found = finder.like(red.id, Wanted(limit=7))
    assert (red.path.endswith("red.png"), len(found.hits)) == (True, 6)
    assert "red.png" not in names(found)
    assert 'alt="like' in markup.found(found, "")
    assert len(finder.like(red.id, Wanted(limit=4), 1).hits) == 2
    with pytest.raises(QueryError, match="that image is no longer in the collection; search for another one"):
        finder.like("nowhere", Wanted())


def test_an_image_finds_itself_and_is_named(filled, pictures):
    found = Finder(Searcher(**filled)).image((pictures / "blue.png").read_bytes(), "sea.png", Wanted())
    html = markup.found(found, address.link_of(found, Wanted()))
    assert names(found)[0] == "blue.png"
    assert "<bdi>sea.png</bdi>" in html
    assert html.count("data:image/webp;base64,") == 8
    assert "An uploaded image has no link to share." in html
    with pytest.raises(QueryError, match="cannot read image sea.png"):
        Finder(Searcher(**filled)).image(b"no picture", "sea.png", Wanted())


def test_new_options_search_again_for_the_same(filled):
    finder = Finder(Searcher(**filled))
    red = finder.words("red", Wanted(limit=3)).hits[0]
    found = finder.like(red.id, Wanted())
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
    assert names(own.words("red", Wanted(where=(("place", 0), ("place", 4))))) == []
    shown = own.words("red", Wanted(filter="place == 3"))
    assert len(names(shown)) == 1
    assert set(names(own.like(shown.hits[0].id, Wanted()))) == inside - set(names(shown))
    start = own.start(Wanted())
    assert ({hit.path.rpartition("/")[2] for hit in start.hits}, start.total) == (inside, len(inside))
    assert (own.hit(hidden), own.columns()) == (None, [])
    with pytest.raises(QueryError, match="no longer in the collection"):
        own.like(hidden, Wanted())
    with pytest.raises(QueryError, match="shows a part of the collection only"):
        own.values("place")
    with pytest.raises(ConfigError, match="its parentheses do not match"):
        own.words("red", Wanted(filter="place > 0) or (place < 9"))


def test_a_filter_that_is_not_understood_is_said_with_the_way_out(filled):
    told = "the filter 'place >' is not understood; write one such as year > 2015, or clear it and choose"
    with pytest.raises(QueryError, match=re.escape(told)):
        Finder(Searcher(**filled)).words("red", Wanted(filter="place >"))


def test_values_of_columns_are_chosen_from_menus(settings, pictures):
    paths = [str(path) for path in sorted(pictures.iterdir())]
    kinds = ["even", "odd"]
    rows = [
        {"path": path, "kind": kinds[n % 2], "tags": [f"t{n}", "all"], "its 'own'": n, "[0]": n}
        for n, path in enumerate(paths)
    ]
    build_insert_pipeline(**settings)(rows).to_list()
    finder = Finder(Searcher(**settings))
    assert finder.columns() == ["kind", "tags"]
    assert finder.values("kind") == [("even", 4), ("odd", 3)]

    def chosen(*where):
        return {
            paths.index(hit.path)
            for hit in Finder(Searcher(**settings)).words("red", Wanted(where=where)).hits
        }

    assert chosen(("kind", "odd")) == {1, 3, 5}
    assert chosen(("kind", "odd"), ("kind", "even")) == set(range(7))
    assert chosen(("kind", "odd"), ("tags", "t3")) == {3}
    assert chosen(("tags", "all"), ("tags", "t0")) == {0}
    start = finder.start(Wanted(where=(("kind", "odd"),)))
    assert (start.total, {paths.index(hit.path) for hit in start.hits}) == (3, {1, 3, 5})
    html = markup.filters(finder.columns(), "kind", finder.values("kind"), [("tags", "t3")])
    assert '<option value="even">even (4)</option>' in html
    assert 'aria-label="Remove the filter tags: t3"' in html


def test_near_duplicates_fold_into_one_hit(settings, tmp_path):
    shades = {
        "red": (250, 0, 0),
        "red2": (251, 1, 0),
        "red3": (250, 0, 1),
        "blue": (0, 0, 250),
        "green": (0, 250, 0),
    }
    for name, colour in shades.items():
        paint(tmp_path / "in" / f"{name}.png", colour)
    for name in ("yellow", "cyan", "magenta", "white"):
        paint(tmp_path / "in" / f"{name}.png", name)
    build_insert_pipeline(**settings)(tmp_path / "in").to_list()
    finder = Finder(Searcher(**settings))
    folded = finder.words("red", Wanted(limit=20))
    reds = {"red.png", "red2.png", "red3.png"}
    assert len(folded.hits) == 7
    assert [name for name in names(folded) if name in reds] == names(folded)[:1]
    ((id, members),) = folded.similar.items()
    assert id == folded.hits[0].id
    assert {names(folded)[0], *(hit.path.rpartition("/")[2] for hit in members)} == reds
    html = markup.found(folded, "")
    assert "+2 similar</button>" in html
    assert re.search(r'<li class="t2i-similar" id="t2i-similar-1" hidden>', html)
    assert html.count('src="image/small?id=') == 2
    whole = finder.words("red", Wanted(limit=20, fold=False))
    assert (len(whole.hits), whole.similar) == (9, {})


def test_the_start_tells_how_many_images_and_which_model_and_shows_a_few(filled):
    start = Finder(Searcher(**filled)).start(Wanted())
    html = markup.start(start, "", True)
    assert "7 images, model colour" in html
    assert 1 < html.count('<li class="t2i-hit"') <= 7
    assert "Type what an image should show" in html
    assert "t2i-numbers" not in html


@pytest.mark.parametrize("insert", [True, False])
def test_an_empty_collection_and_too_narrow_a_filter_are_said(filled, tmp_path, insert):
    empty = Finder(Searcher(uri=tmp_path / "empty.db", model_name="colour"))
    assert "There are no images here yet." in markup.found(empty.words("red", Wanted()), "")
    html = markup.start(empty.start(Wanted()), "", insert)
    assert "There are no images here yet" in html
    assert ("in the tab Insert" in html, "t2i insert FOLDER" in html) == (insert, not insert)
    finder = Finder(Searcher(**filled))
    html = markup.found(finder.words("red", Wanted(filter="place > 99")), "")
    assert "No image fits. Remove a filter" in html
    assert "data-step" not in html
    assert "No image fits the filters" in markup.start(finder.start(Wanted(filter="place > 99")), "", True)


def test_a_collection_of_no_model_yet_is_an_empty_start(tmp_path):
    start = Finder(Searcher(uri=tmp_path / "empty.db", model_name="auto")).start(Wanted())
    assert (list(start.hits), start.total) == ([], 0)


def test_what_cannot_be_inserted_is_one_sentence_without_a_path(settings, tmp_path):
    page = build_ui(**settings)
    assert "name a folder, a table or an image to insert" in inserted(page, "  ")
    html = inserted(page, str(tmp_path / "nowhere"))
    assert "no such folder or file: &#39;nowhere&#39;" in html
    assert str(tmp_path) not in html


def test_a_run_that_stops_says_why(pictures, settings):
    (pictures / "broken.jpg").write_bytes(b"no picture")
    page = build_ui(**settings, on_error="raise")
    html = inserted(page, str(pictures))
    assert 'role="alert"' in html
    assert "cannot read image broken.jpg" in html


def test_an_error_that_is_not_ours_is_logged_and_not_shown(settings, monkeypatch, caplog):
    page = build_ui(**settings)

    def fail(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(page._finder, "words", fail)
    html, state = asked(page._ask, words="red")
    assert "Something went wrong that this page did not expect." in html
    assert ("secret" in html, state) == (False, None)
    assert "ZeroDivisionError: secret" in caplog.text


def test_an_answer_that_is_overtaken_is_not_shown(filled):
    import gradio

    from t2i_pipelines.ui.app import Latest

    page = build_ui(**filled)
    ask, again = (next(fn.fn for fn in page.fns.values() if fn.name == name) for name in ("_ask", "_again"))
    latest = Latest()
    _, before, *_ = ask(1, latest, *told(words="red"))
    # asked third, and answered before the second is
    html, after, *_ = ask(3, latest, *told(words="blue"))
    assert ("blue" in html, names(after)[0]) == (True, "blue.png")
    assert html.startswith('<div data-turn="3">')
    assert set(map(str, again(2, latest, *told(found=before)))) == {str(gradio.skip())}


def test_a_search_that_is_stopped_is_not_shown(filled):
    import gradio

    from t2i_pipelines.ui.app import Latest

    page = build_ui(**filled)
    functions = {fn.name: fn for fn in page.fns.values()}
    latest = Latest()
    assert functions["_stop_search"].fn(2, latest) is None
    assert functions["_ask"].fn(1, latest, *told(words="red"))[0] == gradio.skip()


def test_an_uploaded_picture_is_gone_once_it_was_searched_for(filled, pictures, tmp_path):
    page = build_ui(**filled)
    for content in ((pictures / "red.png").read_bytes(), b"no picture"):
        upload = tmp_path / "sent.png"
        upload.write_bytes(content)
        html, _ = asked(page._upload, str(upload))
        assert ("sent.png" in html, upload.exists()) == (True, False)


def test_it_can_do_without_inserting(settings):
    assert "_insert" in [fn.name for fn in build_ui(**settings).fns.values()]
    assert "_insert" not in [fn.name for fn in build_ui(**settings, insert=False).fns.values()]


def test_examples_are_in_five_languages():
    assert len(EXAMPLES) == 5
    assert all(text in markup.chips(EXAMPLES) for text in EXAMPLES)


def test_the_page_serves_images_of_hits_and_says_in_one_sentence_what_it_cannot(settings, tmp_path):
    file = paint(tmp_path / "red.png", "red")
    build_insert_pipeline(**settings)([{"path": str(file), "id": "a/b c"}]).to_list()
    with (
        served(build_ui(**settings)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        found = client.get("/image/original", params={"id": "a/b c"})
        assert (found.status_code, found.content) == (200, file.read_bytes())
        assert "x-content-type-options" in found.headers
        missed = client.get("/image/view", params={"id": str(file)})
        assert (missed.status_code, missed.text) == (404, "This image cannot be shown.")
        assert client.get("/image/other", params={"id": "a/b c"}).status_code == 404
        assert client.post("/image/view", params={"id": "a/b c"}).status_code == 405
