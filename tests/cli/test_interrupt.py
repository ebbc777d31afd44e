"""Ctrl-C: whatever the process is doing, it ends with 130 and says what is in, and no row is lost."""

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import paint
from test_crash import PICTURES, acknowledged, command, contents, rerun, stored, undisturbed  # noqa: F401

from t2i_pipelines import close
from t2i_pipelines.collection import open_collection

pytestmark = pytest.mark.slow

NOTHING = "interrupted; nothing was changed\n"
# in native code, where Python hears no signal
FOR_EVER = "hashlib.pbkdf2_hmac('sha256', b'', b'', (1 << 31) - 1)"

IMPORTING = """
    import importlib.abc, sys, time
    class Slow(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "towhee":
                print("at work", flush=True)
                time.sleep(60)
    sys.meta_path.insert(0, Slow())
    import t2i_command
    t2i_command.main()
"""
WORKING = f"""
    import hashlib, sys
    import t2i_command
    from t2i_pipelines.encoders import register_encoder
    from t2i_pipelines.testing import ColourEncoder

    where, after = sys.argv.pop(), int(sys.argv.pop())

    def work(here):
        global after
        if here == where:
            after -= 1
        if here == where and after < 0:
            sys.stdout.write("at work\\n")  # at once: several threads may be
            sys.stdout.flush()
            {FOR_EVER}

    class Slow(ColourEncoder):
        @property
        def space(self):
            work("load")
            return ColourEncoder().space
        @space.setter
        def space(self, value):
            pass
        def fit(self, image):
            work("decode")
            return super().fit(image)
        def encode_images(self, images):
            work("encode")
            return super().encode_images(images)
        def encode_texts(self, texts):
            work("search")

    register_encoder("colour", lambda *_: Slow())
    t2i_command.main()
"""


def interrupted(code: str, *arguments: object, cwd: Path) -> tuple[int, str]:
    """Run until it says that it is at work, interrupt it there; exit code and what is on stderr."""
    program = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, cwd=cwd, **pipes, text=True) as process:
        try:
            assert process.stdout.readline() == "at work\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
    return process.returncode, err


@pytest.fixture
def photos(tmp_path) -> Path:
    for n in range(60):
        paint(tmp_path / "photos" / f"{n:02}.png", (n + 50, 2 * n, 9))
    return tmp_path


@pytest.mark.parametrize("name", ["insert", "sync", "search"])
def test_while_it_is_imported_it_ends_without_a_traceback(photos, name):
    assert interrupted(IMPORTING, name, "photos", cwd=photos) == (130, NOTHING)
    assert not (photos / "milvus.db").exists()


@pytest.mark.parametrize("name", ["insert", "sync"])
def test_while_native_code_loads_the_model_it_ends(photos, name):
    colour = ("--model-name", "colour")
    code, err = interrupted(WORKING, name, "photos", *colour, 0, "load", cwd=photos)
    assert (code, err.splitlines()[-1].startswith("interrupted; ")) == (130, True), err
    assert "Traceback" not in err
    assert re.search(r"nothing was changed|so far 0 images", err)


@pytest.mark.parametrize("name", ["insert", "sync"])
@pytest.mark.parametrize(("where", "after", "least"), [("decode", 1, 0), ("encode", 0, 0), ("encode", 10, 4)])
def test_while_native_code_is_at_work_it_ends_and_says_what_is_in(photos, name, where, after, least):
    settings = ("--model-name", "colour", "--batch-size", "4")
    code, err = interrupted(WORKING, name, "photos", *settings, after, where, cwd=photos)
    said = re.search(r"interrupted; so far (\d+) images: (\d+) inserted, 0 unchanged, 0 failed", err)
    assert (code, bool(said)) == (130, True), err
    assert "run it again to go on" in err
    assert "Traceback" not in err
    told = int(said[1])
    assert said[2] == said[1]
    assert least <= told <= 4 * after
    collection = open_collection(photos / "milvus.db")
    assert collection.count() >= told
    close()
    program = [sys.executable, "-c", textwrap.dedent(WORKING), name, "photos", *settings, "0", "nowhere"]
    done = subprocess.run(program, cwd=photos, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unchanged = re.search(r"60 images: \d+ inserted, (\d+) unchanged, 0 failed", done.stderr)
    assert int(unchanged[1]) >= told, "what the first run stored is not stored again"
    assert collection.count() == 60


def test_in_the_middle_it_says_what_is_in_and_the_next_run_ends_it(undisturbed, tmp_path):  # noqa: F811
    folder, expected = undisturbed
    uri = tmp_path / "x.db"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(folder, uri, pause=0.2), **pipes, text=True) as process:
        lines = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGINT)
        more, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    told = acknowledged(lines + more.splitlines(keepends=True))
    said = re.search(r"interrupted; so far (\d+) images: (\d+) inserted, 0 unchanged, 0 failed", err)
    assert said, err
    assert said[1] == said[2]
    # the 40th may have been told and not counted yet
    assert 39 <= int(said[1]) <= len(told) < PICTURES
    assert told <= stored(uri)
    rerun(folder, uri)
    assert contents(uri) == expected


def test_a_dry_run_says_so(photos):
    settings = ("--model-name", "colour", "--dry-run")
    code, err = interrupted(WORKING, "sync", "photos", *settings, 0, "load", cwd=photos)
    assert code == 130
    assert "interrupted; so far 0 images" in err
    assert "nothing was changed" in err


def test_what_keeps_it_from_speaking_does_not_keep_it_from_ending(tmp_path):
    code = """
        import threading, time
        from t2i_pipelines.cli import console
        console.end_at_once(threading.Event().wait)
        print("at work", flush=True)
        time.sleep(60)
    """
    assert interrupted(code, cwd=tmp_path) == (130, "")


def test_a_process_that_has_said_so_does_not_exit_as_if_all_were_well(tmp_path):
    code = """
        import os, threading, time
        from t2i_pipelines.cli import console
        at_it = threading.Event()
        console.end_at_once(lambda: (at_it.set(), time.sleep(0.5)))
        print("at work", flush=True)
        at_it.wait()
    """
    assert interrupted(code, cwd=tmp_path) == (130, "")


def test_in_the_last_moment_of_a_process_there_is_nothing_to_interrupt(tmp_path):
    code = """
        import os, signal, sys
        from t2i_pipelines.cli import console
        class Late:
            def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):
                kill(own, number)
        console.end_at_once(lambda: print("interrupted"))
        sys.late = Late()
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_command_that_cleans_up_hears_of_it_as_python_does(photos):
    for name in ("red", "green"):
        paint(photos / "few" / f"{name}.png", name)
    program = [sys.executable, "-c", textwrap.dedent(WORKING), "insert", "few", "--model-name", "colour"]
    subprocess.run([*program, "0", "nowhere"], cwd=photos, check=True, capture_output=True)
    code = """
        import signal, sys, time
        import t2i_command
        from t2i_pipelines.cli import search
        def work(*_, **__):
            try:
                print("at work", flush=True)
                time.sleep(60)
            finally:
                print("cleaned up", file=sys.stderr, flush=True)
        search.build_search_pipeline = work
        t2i_command.main()
    """
    assert interrupted(code, "search", "red", cwd=photos) == (130, "cleaned up\n")
