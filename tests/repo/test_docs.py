"""The site builds without a warning, asks no other host, and shows what happens."""

import ast
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from old_notebooks import forgotten
from typer.main import get_command

from t2i_pipelines import errors
from t2i_pipelines.cli import app
from t2i_pipelines.errors import T2IError
from t2i_pipelines.serve.problems import MEANINGS, STATUS_CODES
from tools import reference, settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "tutorials" not in page.parts)
REFERENCE = DOCS / "reference"
COMMANDS = get_command(app).commands

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


def blocks(page, language):
    return re.findall(
        rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as ``make docs`` does."""
    out = tmp_path_factory.mktemp("site")
    sphinx = ("-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env")
    built = subprocess.run(
        [sys.executable, *sphinx, "-d", str(out / "trees"), "docs", str(out / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return out / "site"


class Page(HTMLParser):
    """What a page has and where it leads.

    :ivar ids: anchors.
    :ivar leads: links that a reader may follow.
    :ivar loads: what a browser fetches by itself.
    """

    def __init__(self, text):
        super().__init__()
        self.ids, self.leads, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.leads.add(given["href"])
        elif tag == "link" and "canonical" not in (given.get("rel") or ""):
            self.loads.add(given.get("href", ""))
        elif given.get("src"):
            self.loads.add(given["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {page: Page(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}


@pytest.mark.slow
@pytest.mark.xdist_group("docs")
def test_no_page_asks_another_host(site, pages):
    for path, page in pages.items():
        assert [one for one in page.loads if urlsplit(one).netloc] == [], path
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), (
            style
        )


@pytest.mark.slow
@pytest.mark.xdist_group("docs")
def test_every_link_and_anchor_leads_somewhere(pages):
    wrong = defaultdict(set)
    for path, page in pages.items():
        for link in page.leads | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                wrong[path.name].add(link)
    assert dict(wrong) == {}


@pytest.mark.slow
@pytest.mark.xdist_group("docs")
def test_every_public_name_and_error_has_its_place(site):
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    placed = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    # a name that two rooms have is described by one of them, and linked to by the other
    linked = set(re.findall(r"{py:obj}`([\w.]+) <", "".join(text for _, text in reference.python())))
    missing = [
        f"{module}.{name}"
        for module in reference.ROOMS
        for name, _ in reference.public(module)
        if f"{module}.{name}" not in placed | linked
    ]
    missing += [
        name
        for name, one in vars(errors).items()
        if isinstance(one, type)
        and issubclass(one, T2IError)
        and f"t2i_pipelines.errors.{name}" not in placed
    ]
    assert missing == []


def test_the_reference_is_what_the_code_says():
    written = {
        REFERENCE / "settings.md": settings.reference(),
        REFERENCE / "cli.md": reference.command_line(),
        REFERENCE / "http.md": reference.http(),
        **{REFERENCE / "api" / name: text for name, text in reference.python()},
    }
    stale = [str(page) for page, text in written.items() if page.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make reference`"


def test_every_setting_command_and_option_has_its_place():
    shown = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    kinds = [kind for kind, _ in [*settings.PARTS.values(), *settings.OTHERS.values()]]
    assert [one.name for kind in kinds for one in fields(kind) if f"| `{one.name}` |" not in shown] == []
    parts = (REFERENCE / "cli.md").read_text(encoding="utf-8").split("\n## `t2i ")
    by_name = {part.partition("`")[0]: part for part in parts[1:]}
    assert set(by_name) == set(COMMANDS)
    for name, command in COMMANDS.items():
        flags = [flag for one in command.params for flag in one.opts if flag.startswith("--")]
        assert [flag for flag in flags if flag not in by_name[name]] == [], name


def codes():
    """Every code that a problem of the service may have."""
    found = {meaning.code for meaning in MEANINGS.values()} | set(STATUS_CODES.values())
    for file in (ROOT / "t2i_pipelines" / "serve").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Refusal"):
                given = [one.value for one in node.keywords if one.arg == "code"]
                found |= {one.value for one in given if isinstance(one, ast.Constant)}
    return found - {""}


def test_every_code_of_a_problem_has_its_place():
    shown = set(
        re.findall(r"^\| `(\w+)` \|", (REFERENCE / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert shown >= codes()
    assert codes() >= {"hidden_field", "too_busy", "invalid_query"}


def messages():
    """Every text of the package, in a line each; what is filled in is left out."""
    for file in (ROOT / "t2i_pipelines").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    getattr(one, "value", "") for one in node.values if isinstance(one, ast.Constant)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^### "(.+)"$', page, re.MULTILINE)
    assert len(quoted) >= 19
    said = "\n".join(messages())
    unsaid = [one for one in quoted if not re.search(".*".join(map(re.escape, one.split("..."))), said)]
    assert unsaid == []


SAID = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
"""What a comment says that its line prints."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python")],
    ids=lambda page: str(page.relative_to(DOCS)),
)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys):
    """The blocks of a page are one program; what it registers with Towhee is forgotten."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "photos").symlink_to(ROOT / "data" / "photographs")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python"))
    with forgotten():
        exec(compile(code, str(page), "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [said for said in SAID.findall(code) if said not in printed] == []


@each_page
def test_towhee_is_imported_after_the_library_which_silences_its_warnings(page):
    code = "\n".join(blocks(page, "python"))
    imported = re.findall(r"^(?:from|import) (towhee|t2i_pipelines)\b", code, re.MULTILINE)
    assert imported[:1] != ["towhee"]


def lines(page):
    """The commands of a page, continued lines joined."""
    text = "".join(blocks(page, "console")).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


@each_page
def test_every_command_that_is_shown_is_understood(page):
    if page.name == "cli.md":  # which Typer writes, with usages in place of calls
        return
    for line in lines(page):
        program, *arguments = shlex.split(line, comments=True)
        if program == "t2i" and arguments[0] != "--help":
            COMMANDS[arguments[0]].make_context(arguments[0], arguments[1:])


def asked(line):
    """The method and path of a request to the service that a line makes with curl; None for others."""
    program, *arguments = shlex.split(line, comments=True)
    urls = [urlsplit(one) for one in arguments if re.match(r"https?://[^/]+:800\d/", one)]
    if program != "curl" or not urls:
        return None
    sends = {"-d", "-F", "--data"} & set(arguments) and "--get" not in arguments
    method = arguments[arguments.index("-X") + 1] if "-X" in arguments else "POST" if sends else "GET"
    return f"{method} {urls[0].path}"


@each_page
def test_every_request_that_is_shown_has_its_route(page):
    text = (REFERENCE / "http.md").read_text(encoding="utf-8")
    routes = re.findall(r"^## ([A-Z]+ /.*)$", text, re.MULTILINE)
    known = re.compile("|".join(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route)) for route in routes))
    requests = [one for one in map(asked, lines(page)) if one]
    assert [one for one in requests if not known.fullmatch(one)] == []
    assert requests or page.name != "service.md"


@each_page
def test_every_target_extra_and_script_that_is_shown_exists(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([\w-]+)", text)) <= targets
    extras = set(re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:t2i-pipelines|\.)\[([\w,]+)\]", text)
    assert {one for names in named for one in names.split(",")} <= extras
    for module in re.findall(r"python -m ((?:benchmarks|tools)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(DOCS.glob("start*.md")), ids=lambda page: page.stem)
def test_the_quick_start_works_in_each_language(page, tmp_path, monkeypatch):
    """What needs no network and ends by itself is carried out, and the first hits are right."""
    (tmp_path / "Pictures").symlink_to(ROOT / "data" / "photographs")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    carried_out = []
    for line in lines(page):
        if line.startswith("t2i search") or "--model-name t2i_mini" in line:
            arguments = [one.replace("~/Pictures", "Pictures") for one in shlex.split(line)[1:]]
            command = [sys.executable, "-W", "ignore", str(ROOT / "t2i_command.py"), *arguments]
            ran = subprocess.run(command, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr
            carried_out.append(ran.stdout + ran.stderr)
    inserted, cats, _, owls = carried_out
    assert "76 images: 76 inserted, 0 unchanged, 0 failed" in inserted
    assert re.search(r"1 │.*Pictures/cat", cats)
    assert re.search(r"1 │.*Pictures/owl.webp", owls)
    assert "owl.webp" in (tmp_path / "hits.html").read_text(encoding="utf-8")
