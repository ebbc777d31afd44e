"""The `t2i` command: what it prints, where it writes, and how it exits."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tarfile
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner
from web import serving

from t2i_pipelines import cli, close
from t2i_pipelines.cli import console, demo
from t2i_pipelines.collection import open_collection
from t2i_pipelines.config import Settings
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.images import folder


@pytest.fixture
def t2i(monkeypatch, capsys, tmp_path):
    """Run the command in a folder of its own; give (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["t2i", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


COLOUR = ("--model-name", "colour")


def test_insert_then_search_from_a_folder_to_a_table(t2i, pictures):
    code, _, err = t2i("insert", "pictures", *COLOUR)
    assert code == 0
    assert err.splitlines()[-2].endswith("7 images: 7 inserted, 0 unchanged, 0 failed")
    assert re.match(r"7 images in [\d.,]+ s \([\d.,]+/s\): .*encoder idle \d+ %", err.splitlines()[-1])
    code, out, _ = t2i("search", "a red ball", "--limit", 2, *COLOUR)
    assert code == 0
    rows = re.findall(r"│\s+(\d)\s+│\s+([\d.]+)\s+│\s+(\S+)\s+│", out)
    assert rows[0] == ("1", "1.000", "pictures/red.png")
    assert len(rows) == 2


def test_a_second_insert_says_that_nothing_changed(t2i, pictures):
    t2i("insert", "pictures", *COLOUR)
    code, _, err = t2i("insert", "pictures", *COLOUR)
    assert (code, "7 images: 0 inserted, 7 unchanged, 0 failed" in err) == (0, True)


def test_a_source_whose_length_nobody_knows_is_inserted_and_refreshed(t2i, pictures):
    with tarfile.open("a.tar", "w") as tar:
        for path in sorted(pictures.iterdir()):
            tar.add(path, path.name)
    code, _, err = t2i("insert", "a.tar", *COLOUR)
    assert (code, "7 images: 7 inserted, 0 unchanged, 0 failed" in err) == (0, True)
    code, out, _ = t2i("search", "red", "--limit", 1, "--json", *COLOUR)
    assert f"tar://red.png::{Path('a.tar').absolute()}" in out
    changing = Path("changing.bmp")
    cv2.imwrite(str(changing), np.full((4, 4, 3), (0, 0, 255), np.uint8))
    t2i("insert", changing, *COLOUR)
    was = changing.stat()
    cv2.imwrite(str(changing), np.full((4, 4, 3), (255, 0, 0), np.uint8))
    os.utime(changing, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert "1 unchanged" in t2i("insert", changing, *COLOUR)[2]
    assert "1 updated" in t2i("insert", changing, "--refresh", *COLOUR)[2]


@pytest.mark.parametrize("command", ["insert", "sync"])
def test_a_folder_is_listed_once_and_the_settings_are_checked_once(t2i, pictures, monkeypatch, command):
    (pictures / "sub").mkdir()
    (pictures / "red.png").rename(pictures / "sub" / "red.png")
    entries, seen = folder._entries, []
    monkeypatch.setattr(folder, "_entries", lambda path: (seen.append(Path(path).name), entries(path))[1])
    of, checks = Settings.of.__func__, []
    monkeypatch.setattr(
        Settings, "of", classmethod(lambda cls, **given: (checks.append(1), of(cls, **given))[1])
    )
    code, _, err = t2i(command, "pictures", *COLOUR)
    assert (code, "7 images: 7 inserted, 0 unchanged, 0 failed" in err) == (0, True)
    assert sorted(seen) == ["pictures", "sub"]
    assert len(checks) == 1


def test_failures_are_listed_and_exit_with_1(t2i, pictures):
    (pictures / "bad.png").write_bytes(b"bad")
    code, _, err = t2i("insert", "pictures", *COLOUR)
    assert code == 1
    assert "8 images: 7 inserted, 0 unchanged, 1 failed" in err
    assert f"failed cannot read image {pictures / 'bad.png'}: not an image in a known format" in err


def test_only_the_first_twenty_failures_are_listed(t2i, pictures):
    for n in range(25):
        (pictures / f"bad{n}.png").write_bytes(b"bad")
    _, _, err = t2i("insert", "pictures", *COLOUR)
    assert err.count("failed cannot read") == 20
    assert "... and 5 more" in err


def test_stop_at_error_exits_with_2_and_names_the_file(t2i, pictures):
    (pictures / "bad.png").write_bytes(b"bad")
    code, _, err = t2i("insert", "pictures", "--stop-at-error", *COLOUR)
    assert code == 2
    assert "error: cannot read image" in err
    assert "bad.png" in err


def test_json_is_one_object_with_the_fields_asked_for(t2i, pictures):
    (pictures / "list.csv").write_text("path,caption\nred.png,rot & grün\n", encoding="utf-8")
    t2i("insert", "pictures/list.csv", *COLOUR)
    code, out, _ = t2i("search", "red", "--json", "--output-fields", "caption", *COLOUR)
    found = json.loads(out)
    assert (code, found["query"], len(found["hits"])) == (0, "red", 1)
    hit = found["hits"][0]
    assert (hit["path"], hit["caption"]) == (str(pictures / "red.png"), "rot & grün")
    assert hit["score"] == pytest.approx(1)
    assert set(hit) == {"id", "score", "path", "caption", "fields"}
    assert hit["fields"] == {"caption": "rot & grün"}


def test_json_keeps_a_hits_own_keys_where_columns_have_the_same_names(t2i, pictures):
    (pictures / "list.csv").write_text("path,score,relevance\nred.png,1000,2000\n", encoding="utf-8")
    t2i("insert", "pictures/list.csv", *COLOUR)
    fields = ["--output-fields", "score", "--output-fields", "relevance"]
    hit = json.loads(t2i("search", "red", "--json", *fields, *COLOUR)[1])["hits"][0]
    assert hit["score"] == pytest.approx(1)
    assert hit["fields"] == {"score": 1000, "relevance": 2000}


def test_html_writes_a_page_with_the_pictures(t2i, pictures):
    t2i("insert", "pictures", *COLOUR)
    code, _, err = t2i("search", "red", "--html", "out/hits.html", *COLOUR)
    page = Path("out/hits.html").read_text(encoding="utf-8")
    assert (code, "wrote out/hits.html" in err) == (0, True)
    assert page.count("data:image/webp;base64,") == 7


def test_pictures_on_the_web_are_fetched_for_the_page_when_asked_for(t2i, pictures):
    with serving() as web:
        web.pages["/red.png"] = (pictures / "red.png").read_bytes()
        t2i("insert", f"{web.url}/red.png", *COLOUR)
        t2i("search", "red", "--html", "without.html", *COLOUR)
        assert web.asked == {"/red.png": 1}
        t2i("search", "red", "--html", "with.html", "--fetch", *COLOUR)
        assert web.asked == {"/red.png": 2}
    without, with_it = (Path(name).read_text(encoding="utf-8") for name in ("without.html", "with.html"))
    assert (without.count("<img"), without.count("not fetched")) == (0, 1)
    assert (with_it.count("<img"), with_it.count("not fetched")) == (1, 0)


def run_in_terminal(columns: int, *arguments: object) -> str:
    """Run the command on a terminal of its own; give all that it writes there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, columns * 8, 640))
    start = "import t2i_pipelines.testing; from t2i_pipelines.cli import main; main()"
    command = [sys.executable, "-c", start, *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    env["TERM"] = "xterm-256color"
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while part := os.read(master, 65536):
            written += part
    os.close(master)
    assert process.wait(timeout=60) == 0, written.decode()
    return written.decode()


@pytest.mark.slow
def test_a_terminal_shows_thumbnails_beside_the_paths(t2i, pictures):
    t2i("insert", "pictures", *COLOUR)
    close()
    shown = run_in_terminal(100, "search", "red", "--limit", 1, *COLOUR)
    assert "pictures/red.png" in shown
    assert "\x1b[38;5;196;48;5;196m▀" in shown, "a half cell of the red image"


@pytest.mark.slow
def test_a_terminal_that_does_not_know_its_size_shows_the_table_alone(t2i, pictures):
    t2i("insert", "pictures", *COLOUR)
    close()
    assert "red.png" in run_in_terminal(0, "search", "red", "--limit", 1, *COLOUR)


def test_nothing_stored_is_said(t2i):
    code, out, err = t2i("search", "red", *COLOUR)
    assert (code, out) == (2, "")
    assert "there is no database" in err
    open_collection("milvus.db").prepare(load_encoder("colour").space)
    code, out, _ = t2i("search", "red", *COLOUR)
    assert (code, out.strip()) == (0, "red: nothing is stored that could match")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("insert", "gone", *COLOUR), "error: no such folder or file: 'gone'"),
        (("search", " ", *COLOUR), "error: the query is empty"),
        (("search", "red", "--limit", 0, *COLOUR), "error: limit must be between 1 and 16384, got 0"),
        (("search", "red", "--model-name", "nope"), "error: unknown model 'nope'"),
        (("search", "red", "--uri", "http://127.0.0.1:1", *COLOUR), "http://127.0.0.1:1"),
        (("search",), "Missing argument"),
        (("dance",), "No such command 'dance'"),
    ],
)
def test_wrong_usage_and_no_service_exit_with_2_in_one_message(t2i, arguments, message):
    code, out, err = t2i(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err


def test_help_names_the_commands_and_what_they_are_for(t2i):
    code, out, _ = t2i("--help")
    assert code == 0
    assert "Text-to-image search: type words, get the matching images." in out
    purposes = {"insert": "Insert images.", "search": "Find images by words", "demo": "Insert photographs"}
    for command, purpose in purposes.items():
        assert re.search(rf"{command}\s.*{purpose}", out)


def test_the_version_is_that_of_the_package(t2i):
    from importlib.metadata import version

    assert t2i("--version")[:2] == (0, f"t2i-pipelines {version('t2i-pipelines')}\n")


def test_a_token_comes_from_the_environment_and_is_never_shown(t2i, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    code, out, err = t2i("search", "red", "--uri", "http://127.0.0.1:1", *COLOUR)
    assert code == 2
    assert "secret" not in out + err + t2i("search", "--help")[1]


def test_the_demo_asks_questions_in_five_languages_and_writes_a_page(t2i, pictures, monkeypatch):
    monkeypatch.setattr(demo, "MODEL", "colour")
    code, out, _ = t2i("demo", "--source", "pictures")
    assert code == 0
    assert len(demo.QUERIES) == 8
    for query in demo.QUERIES:
        assert query in out
    page = Path(demo.PAGE).read_text(encoding="utf-8")
    stored = len(list(Path("pictures").iterdir()))
    assert page.count('<section class="t2i-list">') == len(demo.QUERIES)
    assert page.count("<img") == len(demo.QUERIES) * min(stored, demo.LIMIT)
    assert "it is not CLIP" in page
    for _, command in demo.STEPS:
        assert command in out
        assert command in page


def test_in_a_log_each_step_is_a_line(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=log))
    with console.doing() as say:
        say("making [8] images")
        say("measuring")
    assert log.getvalue() == "making [8] images\nmeasuring\n"


def test_help_lists_every_command_in_the_order_of_a_users_day():
    shown = CliRunner().invoke(cli.app, ["--help"]).output
    listed = re.findall(r"^│ ([a-z][a-z-]+) {2,}", shown, re.MULTILINE)
    assert sorted(listed) == sorted(get_command(cli.app).commands)
    assert listed[:3] == ["insert", "search", "sync"]
    assert listed[-1] == "demo"


def test_commands_and_options_stay():
    """`options.txt` is what scripts of users rely on; a new option is a new word in it."""
    commands = get_command(cli.app).commands
    found = {
        name: {"/".join(sorted(one.opts + one.secondary_opts)) for one in commands[name].params}
        for name in commands
    }
    lines = Path(__file__).with_name("options.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name: set(options.split()) for name, _, options in (line.partition(": ") for line in lines)}
    assert {name: options - {"--help"} for name, options in found.items()} == pinned
