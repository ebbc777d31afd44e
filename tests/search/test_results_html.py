"""A result list shows itself in a notebook: everything is embedded, and no text does more than be read."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from PIL import Image
from reading_html import Parsed, assert_harmless

from t2i_pipelines import Hit
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.search.hits import Hits, ManyHits
from t2i_pipelines.search.query import Img, Like, Q

HOSTILE = [
    "<script>document.title = 'ran'</script>",
    '"><img src=x onerror="document.title = \'ran\'">',
    "'><svg/onload=document.title='ran'>",
    "javascript:document.title='ran'",
    "data:text/html,<script>document.title='ran'</script>",
    "</style><script>document.title='ran'</script><style>",
    "</title><script>document.title='ran'</script>",
    "--><script>document.title='ran'</script><!--",
    "{{ ''.__class__ }}{% raw %}",
    "&lt;script&gt;&#60;script&#62;",
    "red; background: url(https://example.org/x)",
    "caf\udce9 \ud83d",
    "\x00\x1b[31m\x9b\u202egnp.exe",
]


@pytest.fixture
def red(tmp_path) -> str:
    return str(paint(tmp_path / "red.png", "red"))


def noise(path: Path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def hostile_hits(red: str) -> Hits:
    """Each text wherever a text can stand; images that are there, gone, and elsewhere."""
    hits = [
        Hit(
            text,
            0.5,
            path,
            {text: text, "caption": text, "list": [text], "json": {text: text}},
            relevance=0.4,
        )
        for text in HOSTILE
        for path in (red, text, f"https://example.org/{text}", f"tar://{text}::/no/such.tar")
    ]
    return Hits(hits, query=HOSTILE[0])


def test_hostile_text_is_read_and_does_nothing(red, tmp_path):
    hits = hostile_hits(red)
    for text in HOSTILE:
        hits.query = text
        parsed = assert_harmless(hits[:8]._repr_html_())
        assert parsed.tags.count("li") == 8
    parsed = assert_harmless(hits.save_html(tmp_path / "a.html", HOSTILE[1], HOSTILE[2]).read_text("utf-8"))
    for text in HOSTILE[:11]:  # the others hold what cannot be shown
        assert parsed.sees(text)
    assert_harmless(hits.compare(hits[::-1], HOSTILE[:2])._repr_html_())
    assert_harmless(hits.compare(hits[:3]).save_html(tmp_path / "b.html").read_text("utf-8"))


@pytest.mark.parametrize("text", HOSTILE[-2:])
def test_what_cannot_be_shown_is_replaced(text, red):
    hits = Hits([Hit("id", 0.5, red, {"caption": text})], query=text)
    page = hits._repr_html_()
    json.dumps(page).encode("utf-8")
    assert "\ufffd" in page
    assert not set("\x00\x1b\x9b\u202e\udce9\ud83d") & set(page)
    assert not set("\x00\x1b\x9b\u202e\udce9\ud83d") & set(repr(hits))


@pytest.mark.slow
def test_no_browser_runs_anything_of_it(red, tmp_path):
    page = hostile_hits(red).save_html(tmp_path / "a.html", HOSTILE[0], HOSTILE[1])
    # our texts alone, without the policy that is there in case they fail
    page.write_text(page.read_text("utf-8").replace("Content-Security-Policy", "X-Off"), "utf-8")
    after = dom(page)
    assert html.unescape(re.search("<title>(.*?)</title>", after)[1]) == HOSTILE[0]
    seen = Parsed(after)
    assert "script" not in seen.tags
    assert not [name for _, name, _ in seen.attributes if name.startswith("on")]


@pytest.mark.slow
def test_what_would_run_is_noticed(tmp_path):
    page = tmp_path / "a.html"
    page.write_text(f"<title>quiet</title>{HOSTILE[0]}", "utf-8")
    after = dom(page)
    assert "<title>ran</title>" in after or "script" in Parsed(after).tags


def dom(page: Path) -> str:
    """The page as Chromium has it after all that it runs; as it is written where there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return page.read_text("utf-8")
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--no-first-run", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return done.stdout.decode("utf-8")


def test_each_hit_has_rank_score_relevance_path_and_fields(red):
    parsed = Parsed(
        Hits([Hit("id", 0.271, red, {"caption": "a red ball", "year": 2015}, 0.83)])._repr_html_()
    )
    for text in ("83%", "cosine 0.271", "red.png", "caption", "a red ball", "2015"):
        assert text in parsed.text
    assert red in parsed.values("title")
    assert "width: 83%; height: 4px; background: #3f7df0" in parsed.values("style")


def test_without_relevance_the_bar_is_the_cosine(red):
    parsed = Parsed(Hits([Hit("id", 0.271, red)])._repr_html_())
    assert "relevance" not in parsed.text
    assert "width: 27%; height: 4px; background: #3f7df0" in parsed.values("style")


def test_ranks_go_on_where_a_later_page_begins(red):
    hits = Hits([Hit("a", 0.5, red), Hit("b", 0.4, red)], options=SearchOptions(offset=10))
    assert "11" in Parsed(hits._repr_html_()).text
    assert "12" in Parsed(hits._repr_html_()).text


@pytest.mark.slow
def test_fifty_hits_take_less_than_a_megabyte_whatever_pictures_and_texts(tmp_path):
    longest = '"' * 1000  # no character becomes longer in HTML
    fields = {f"{longest}{number}": longest for number in range(20)}
    for number in range(50):
        noise(tmp_path / f"{number}.png", number)
    hits = Hits(
        [Hit(f"id{number}", 0.5, f"{tmp_path}/{number % 50}.png", fields, 0.5) for number in range(60)],
        query=sum((Img(f"{tmp_path}/{number}.png") for number in range(20)), Q(longest)),
    )
    page = hits._repr_html_()
    assert len(page.encode()) < 1_000_000
    parsed = Parsed(page)
    assert parsed.tags.count("li") == 50
    assert len(parsed.values("src")) == 57
    for said in ("and 10 more", "and 13 more", "and 15 more"):  # hits, operands, fields
        assert said in parsed.text
    assert len(hits.compare(hits[::-1])._repr_html_().encode()) < 1_000_000
    hits.query = longest
    assert len(ManyHits([hits] * 60)._repr_html_().encode()) < 1_000_000


def test_a_page_has_every_hit(red, tmp_path):
    hits = Hits([Hit(str(number), 0.5, red) for number in range(60)])
    place = hits.save_html(tmp_path / "new" / "page.html", title="All of them")
    assert place == tmp_path / "new" / "page.html"
    parsed = assert_harmless(place.read_text("utf-8"))
    assert parsed.tags.count("li") == 60
    assert "All of them" in parsed.text


def test_it_survives_its_files(red):
    page = Hits([Hit("id", 0.5, red)])._repr_html_()
    Path(red).unlink()
    (source,) = Parsed(page).values("src")
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert picture.convert("RGB").getpixel((8, 6))[0] > 200


def test_a_deleted_file_is_marked_and_still_listed(red, tmp_path):
    hits = Hits([Hit("a", 0.6, red), Hit("b", 0.5, str(tmp_path / "gone.png"))])
    parsed = Parsed(hits._repr_html_())
    assert len(parsed.values("src")) == 1
    assert "missing" in parsed.text
    assert "gone.png" in parsed.text


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        (Hits(), "Nothing is stored that could match."),
        (Hits(options=SearchOptions()), "Nothing is stored that could match."),
        (Hits(options=SearchOptions(filter="year > 2015")), "Nothing that is stored meets the conditions."),
        (Hits(options=SearchOptions(radius=0.0)), "Nothing that is stored meets the conditions."),
        (Hits(options=SearchOptions(offset=10)), "There are no further hits."),
        (Hits(no_match=True), "Nothing matches."),
        (
            Hits([Hit("a", 0.1, "/no/such.png")], no_match=True),
            "Probably nothing matches. These are the nearest",
        ),
    ],
)
def test_it_says_when_nothing_matches_and_why_it_is_empty(hits, said):
    assert said in Parsed(hits._repr_html_()).text
    assert said in repr(hits)


def test_hits_that_match_say_nothing_of_the_kind(red):
    hits = Hits([Hit("a", 0.5, red)], no_match=False)
    assert "Nothing" not in Parsed(hits._repr_html_()).text
    assert "Nothing" not in repr(hits)


def test_the_query_line_shows_words_weights_and_pictures(red, tmp_path):
    blue = str(paint(tmp_path / "blue.png", "blue"))
    hits = Hits([Hit("a", 0.5, blue)], query=Q("a ball") * 2 + Img(red) - "fruit" + Like("a") * 0.5)
    parsed = Parsed(hits._repr_html_())
    assert " ".join(parsed.text.split()).startswith("a ball × 2 + − fruit + × 0.5 1 hit")
    assert parsed.values("alt")[:2] == ["red.png", "like a"]
    assert len(parsed.values("src")) == 3


@pytest.mark.parametrize(
    "given", ["path", "bytes", "pil", "array", "alpha"], ids=lambda name: f"a query by {name}"
)
def test_a_picture_that_was_searched_for_is_shown(given, red):
    picture = Image.open(red)
    query = {
        "path": Path(red),
        "bytes": Path(red).read_bytes(),
        "pil": picture,
        "array": np.asarray(picture),
        "alpha": picture.convert("RGBA"),
    }[given]
    parsed = Parsed(Hits(query=query)._repr_html_())
    (source,) = parsed.values("src")
    shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
    assert shown.size == picture.size
    assert shown.getpixel((8, 6))[0] > 200


def test_a_pil_image_that_was_searched_for_is_shown_upright_and_over_white():
    turned, clear = Image.new("RGB", (80, 40), "red"), Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    turned.getexif()[0x0112] = 6
    parsed = Parsed(Hits(query=Img(turned) + clear)._repr_html_())
    shown = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in parsed.values("src")]
    assert shown[0].size == (40, 80)
    assert shown[1].mode == "RGB"
    assert min(shown[1].getpixel((15, 15))) > 250


def test_showing_asks_nobody(red, monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    paths = ["https://example.org/a.jpg", "s3://bucket/b.jpg", "tar://c.jpg::https://example.org/d.tar"]
    hits = Hits([Hit(path, 0.5, path) for path in paths], query=Img("https://example.org/query.jpg"))
    for page in (
        hits._repr_html_(),
        hits.save_html(tmp_path / "a.html").read_text("utf-8"),
        hits.compare(hits)._repr_html_(),
    ):
        parsed = Parsed(page)
        assert parsed.values("src") == []
        assert "not fetched" in parsed.text
        assert "query.jpg" in parsed.text
    repr(hits)
