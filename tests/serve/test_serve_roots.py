"""Nothing outside the folders that are served is read, shown or named."""

import json
import os
from contextlib import suppress
from urllib.parse import quote

import pytest
from conftest import paint
from serving import insert, problem, search, serving

from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.errors import ConfigError, ImageDecodeError, QueryError
from t2i_pipelines.search.query import Q
from t2i_pipelines.serve import ServeOptions
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.serve.schemas import Asked


@pytest.fixture
def secret(tmp_path):
    """An image that is in no root."""
    return paint(tmp_path / "private" / "magenta.png", "magenta")


@pytest.fixture
def http(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as client:
        yield client


OUTSIDE = [
    # beside the root, and up from it
    "private/magenta.png", "./private/magenta.png", "../private/magenta.png",
    "pictures/../private/magenta.png",
    "pictures/./../private/magenta.png", "pictures//../private/magenta.png", "pictures/..", "pictures/../..",
    "pictures/../pictures/red.png", "pictures/red.png/../../private/magenta.png", "./../private/magenta.png",
    "pictures/x/../../private/magenta.png", "pictures/.././private/magenta.png", "pictures/...//...//private",
    "pictures/..//private/magenta.png", "pictures/../../../../../../../../etc/passwd", "..", "../..", "./..",
    "pictures/....//private/magenta.png", "pictures/..;/private/magenta.png",
    "pictures/.. /private/magenta.png",
    # links
    "pictures/link", "pictures/link/magenta.png", "pictures/magenta-link.png",
    "pictures/link/../private/magenta.png",
    "pictures/chain.png", "pictures/slash/etc/passwd", "pictures/link/.", "pictures//link//",
    # absolute, and in other ways to write so
    "{outside}", "file://{outside}", "file:{outside}", "//{outside}", "///{outside}", "FILE://{outside}",
    "file://localhost{outside}", "file:///{outside}", "local://{outside}", "pictures:{outside}", "/", "//",
    "/etc/passwd",
    "/proc/self/root{outside}", "/proc/self/environ", "/proc/self/fd/0", "/dev/stdin", "/dev/zero",
    "/./{outside}",
    "~/x.png", "~root/x.png", "$HOME/x.png", "${{HOME}}/x.png",
    # encoded once, twice, and in no valid way
    "pictures/%2e%2e/private/magenta.png", "pictures/..%2fprivate/magenta.png",
    "%2e%2e%2fprivate%2fmagenta.png",
    "pictures/%252e%252e/private/magenta.png", "pictures/..%252fprivate/magenta.png",
    "pictures%2f..%2fprivate",
    "pictures/%c0%ae%c0%ae/private/magenta.png", "pictures/..%c0%afprivate/magenta.png", "%2fetc%2fpasswd",
    "pictures/%u002e%u002e/private/magenta.png", "pictures/&#46;&#46;/private/magenta.png",
    "pictures/%2e./private",
    # characters that look or fold like dots and slashes
    "pictures/\uff0e\uff0e/private/magenta.png", "pictures/..\uff0fprivate/magenta.png",
    "pictures/\u2025/private",
    "pictures/..\u2215private/magenta.png", "pictures/..\u2044private/magenta.png",
    "pictures/\u2024\u2024/private",
    "pictures/.\u200b./private/magenta.png", "\u202epictures/../private/magenta.png",
    "pictures/..\u29f8private",
    # of other systems
    "pictures\\..\\private\\magenta.png", "pictures/..\\private\\magenta.png", "..\\private\\magenta.png",
    "\\\\server\\share\\magenta.png", "//server/share/magenta.png", "C:\\private\\magenta.png",
    "C:/private/magenta.png",
    "\\\\?\\C:\\private\\magenta.png", "\\\\.\\pipe\\x", "PICTURES/red.png", "Pictures/red.png", "CON",
    "pictures/red.png::$DATA",
    # NUL, ends of lines, and what surrounds a name
    "pictures/magenta.png\0.png", "pictures/../private/magenta.png\0red.png",
    "pictures/red.png\0/../../private",
    "{outside}\0.png", "\0{outside}", "pictures\0/red.png", "pictures/..\n/private/magenta.png",
    "\tpictures/../private",
    " pictures/red.png", "pictures /red.png", "", " ", ".", "./", "./.", "pictures/*.png", "pictures/?ed.png",
    # places that a library would open
    "tar://x::{outside}", "tar://../private/magenta.png::pictures/a.tar", "s3://bucket/a.png",
    "memory://a.png",
    "https://example.org/a.png", "simplecache::file://{outside}", "zip://a.png::{outside}",
    "ftp://example.org/a.png",
    "filecache::file://{outside}", "data:image/png;base64,AAAA", "github://o:r@main/a.png",
    "reference://{outside}",
    "dir://x::file://{outside}", "jar:file://{outside}!/a.png", "smb://server/share/a.png", "hf://o/r/a.png",
]  # fmt: skip


def set_traps(root, secret):
    """Make links in the root that lead out of it."""
    (root / "link").symlink_to(secret.parent)
    (root / "magenta-link.png").symlink_to(secret)


@pytest.fixture
def traps(pictures, secret):
    """Links in the root that lead out of it."""
    set_traps(pictures, secret)
    return secret


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    """A service with such links, which tests leave as it was, and the image that they lead to."""
    folder = tmp_path_factory.mktemp("served")
    secret = paint(folder / "private" / "magenta.png", "magenta")
    root = paint(folder / "pictures" / "red.png", "red").parent
    set_traps(root, secret)
    (root / "chain.png").symlink_to(root / "magenta-link.png")
    (root / "slash").symlink_to("/")
    with serving(folder, roots=[root]) as client:
        yield client, secret


@pytest.mark.parametrize("source", OUTSIDE)
def test_nothing_outside_the_roots_is_inserted(trapped, source):
    http, secret = trapped
    source = source.format(outside=secret)
    assert "it begins with the name of a folder that is served: pictures" in problem(
        http.post("/v1/insert", json={"source": source}), 422, "invalid_query"
    )


@pytest.mark.parametrize("place", OUTSIDE)
def test_nothing_outside_the_roots_is_read_for_a_query(trapped, place, monkeypatch):
    http, secret = trapped
    monkeypatch.chdir(secret.parent)  # were it read from here, magenta.png would be a file
    place = place.format(outside=secret)
    for line in (place, f"./{place}", f'./"{place}"', "magenta.png"):
        answer = http.post("/v1/search", json={"expression": line})
        said = answer.json().get("detail", "")
        assert answer.status_code in (200, 403, 422), answer.text
        assert str(secret.parent) not in said.replace(str(secret), "")  # which the client wrote


@pytest.mark.parametrize("place", OUTSIDE)
def test_no_query_opens_or_decodes_a_file_outside_the_roots(trapped, place, monkeypatch):
    http, secret = trapped
    monkeypatch.chdir(secret.parent)
    reader = http.app.state.service.reader
    monkeypatch.setattr(reader, "_decode", None)  # whatever is read would be decoded
    place = place.format(outside=secret)
    for line in (place, f"./{place}", f'./"{place}"', "magenta.png", "red + magenta.png"):
        with suppress(QueryError, Refusal):
            query = reader.query(Asked(expression=line), until=0.0)
            assert {type(operand) for _, operand in query.terms} == {Q}


@pytest.mark.parametrize("place", OUTSIDE)
def test_an_id_is_no_path(trapped, place):
    http, secret = trapped
    place = place.format(outside=secret)
    for written in (quote(place, safe="") + "/file", quote(f"pictures/{place}", safe="/.%") + "/thumbnail"):
        answer = http.get(f"/v1/images/{written}")
        assert answer.status_code in (404, 422), (written, answer.text)
        assert secret.read_bytes() not in answer.content
        assert str(secret.parent) not in answer.text.replace(str(secret), "")  # which the client wrote


def test_rows_of_a_table_lead_nowhere_else(http, pictures, traps, caplog):
    rows = [traps, "../private/magenta.png", "link/magenta.png", "magenta-link.png", f"file://{traps}",
            "s3://bucket/a.png", "http://127.0.0.1:1/a.png", "/nothing/there.png", f"tar://a.png::{traps}",
            "red.png"]  # fmt: skip
    (pictures / "rows.csv").write_text("\n".join(["path", *map(str, rows)]))
    report = insert(http, source="pictures/rows.csv")
    assert report["counts"] == {"inserted": 1, "failed": 7, "skipped": 2}
    for failed in report["failed"]:
        assert failed["reason"].endswith("which is not allowed here"), failed
    told = json.dumps(report)
    assert str(traps.parent) not in told
    assert str(pictures) not in told
    assert "/nothing" not in told


def test_links_in_a_folder_lead_nowhere_else(http, traps):
    report = insert(http, source="pictures")
    assert report["counts"]["failed"] == 2
    assert all("magenta" in one["reason"] for one in report["failed"])
    assert all(one["reason"].endswith("which is not allowed here") for one in report["failed"])


def test_what_was_stored_from_elsewhere_is_found_but_not_shown(tmp_path, pictures, traps, settings):
    build_insert_pipeline(**settings)(
        [str(traps), str(pictures / "magenta-link.png"), str(pictures / "red.png")]
    )
    with serving(tmp_path, roots=[pictures]) as http:
        found = {hit["id"]: hit for hit in search(http, text="magenta", output_fields=["*"])}
        assert str(tmp_path) not in json.dumps(found)
        shown = 0
        for hit in found.values():
            for part in ("file", "thumbnail"):
                answer = http.get(hit["links"][part])
                shown += answer.status_code == 200
                if answer.status_code != 200:
                    assert problem(answer, 404, "image_not_shown")
        assert shown == 2  # of red.png
        assert sorted(str(hit["path"]) for hit in found.values()) == [
            "None",
            "pictures/magenta-link.png",
            "pictures/red.png",
        ]


def test_a_link_that_changes_after_it_was_looked_at_leads_nowhere(pictures, secret, monkeypatch):
    roots = Roots({"pictures": pictures})
    link = pictures / "now.png"
    link.symlink_to(pictures / "red.png")
    assert roots.read(str(link)) == (pictures / "red.png").read_bytes()
    admits = Roots.admits

    def then_changed(self, address):
        found = admits(self, address)
        link.unlink()
        link.symlink_to(secret)
        return found

    monkeypatch.setattr(Roots, "admits", then_changed)
    with pytest.raises(ImageDecodeError, match="in none of the folders"):
        roots.read(str(link))


def test_a_link_that_changes_back_leads_nowhere_either(pictures, secret, monkeypatch):
    """It leads out while it is opened, and is a good one again when it is looked at."""
    roots = Roots({"pictures": pictures})
    link = pictures / "now.png"
    link.symlink_to(pictures / "red.png")
    opening = os.open

    def opened(path, *rest, **more):
        if str(path) != str(link):
            return opening(path, *rest, **more)
        link.unlink()
        link.symlink_to(secret)
        handle = opening(path, *rest, **more)
        link.unlink()
        link.symlink_to(pictures / "red.png")
        return handle

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(ImageDecodeError, match="in none of the folders"):
        roots.read(str(link))


def test_what_is_outside_is_not_opened(pictures, secret, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    for way in (Roots({"pictures": pictures}).open, Roots({"pictures": pictures}).read):
        with pytest.raises(ImageDecodeError, match="in none of the folders that are served"):
            way(str(secret))


def test_pipes_folders_and_giants_are_no_files(pictures):
    roots = Roots({"pictures": pictures})
    os.mkfifo(pictures / "pipe.png")
    with (pictures / "giant.png").open("wb") as file:
        file.truncate((64 << 20) + 1)
    for name, said in (
        ("pipe.png", "not a file"),
        (".", "not a file|Is a directory"),
        ("giant.png", "larger than the"),
    ):
        with pytest.raises(ImageDecodeError, match=said):
            roots.read(str(pictures / name))


def test_a_folder_whose_name_begins_like_a_roots_is_not_in_it(tmp_path, pictures):
    beside = paint(tmp_path / "pictures-private" / "red.png", "red")
    roots = Roots({"pictures": pictures})
    assert not roots.holds(str(beside))
    assert roots.shown(str(beside)) is None
    assert roots.cleaned(f"cannot read {beside}") == "cannot read <path>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read image {root}/a b.png: no", "cannot read image pictures/a b.png: no"),
        ("at /var/lib/milvus.db failed", "at <path> failed"),
        ("'/etc/passwd', and ~/x", "'<path>', and <path>"),
        ("tar://a.png::/srv/x.tar", "tar://a.png::<path>"),
        ("https://user:pass@host.example/a.png?sig=secret is", "https://host.example/a.png is"),
        ("postgres://user:pass@db/x", "postgres://..."),
        ("http://user:pass@[x/a.png?sig=secret is", "http://... is"),
        ("year > 2015 and/or 3/4", "year > 2015 and/or 3/4"),
    ],
)
def test_messages_lose_paths_and_passwords(pictures, text, shown):
    assert Roots({"pictures": pictures}).cleaned(text.format(root=pictures)) == shown


def test_roots_are_folders_with_names_of_their_own(tmp_path, pictures):
    with pytest.raises(ConfigError, match="a root must be a folder that is there, got '.*nothing'"):
        ServeOptions(roots=[tmp_path / "nothing"])
    other = tmp_path / "other" / "pictures"
    other.mkdir(parents=True)
    with pytest.raises(ConfigError, match="two roots are called 'pictures'"):
        ServeOptions(roots=[pictures, other])
    assert ServeOptions(roots=[pictures, f"more={other}"]).named_roots == {
        "pictures": pictures,
        "more": other,
    }
    with pytest.raises(ConfigError, match="needs a name"):
        ServeOptions(roots=["/"])


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "a+" * 500_000, "/." * 500_000, "(~/" * 300_000], ids=lambda t: t[:3]
)
def test_long_messages_are_cleaned_in_one_pass(text):
    """A scheme that is looked for from each letter of a word makes this take hours."""
    assert Roots({}).cleaned(f"{text} https://u:secret@host/x?y").endswith(" https://host/x")
