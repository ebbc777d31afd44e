"""However a run ends, no row is lost or twice, and the next run ends where an undisturbed one would."""

import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import paint

from t2i_pipelines import build_insert_pipeline, close
from t2i_pipelines.collection import open_collection
from t2i_pipelines.collection.failures import translate
from t2i_pipelines.errors import StoreError

pytest_plugins = ["milvus_backends"]

PICTURES = 150

TELLING = """
    import sys, time
    import t2i_command
    from t2i_pipelines import harden, insert_steps
    from t2i_pipelines.cli import console
    from t2i_pipelines._towhee.door import pipe
    from t2i_pipelines.encoders import register_encoder
    from t2i_pipelines.testing import ColourEncoder

    seconds, how, *arguments = sys.argv[1:]

    class Slow(ColourEncoder):
        def encode_images(self, images):
            time.sleep(float(seconds))
            return super().encode_images(images)

    register_encoder("colour", lambda *_: Slow())
    tell = lambda id, status: print(id, status, flush=True)
    if how == "t2i":
        count = console.Tally.__call__
        console.Tally.__call__ = lambda self, one: (tell(one.id, one.status), count(self, one))
        sys.argv = ["t2i", "insert", *arguments]
        t2i_command.main()
    else:
        settings = dict(uri=arguments[2], model_name="colour", batch_size=5)
        steps = insert_steps(pipe.input("source"), **settings).map(("id", "status"), (), tell).output()
        (harden(steps) if how == "hardened" else steps)(arguments[0])
"""
QUOTA = """
    import resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


def command(
    folder: Path, uri: object, how: str = "t2i", *, pause: float = 0.0, before: str = ""
) -> list[str]:
    """A process that inserts, pausing ``pause`` seconds at each batch of 5, and tells each outcome."""
    code = textwrap.dedent(before) + textwrap.dedent(TELLING)
    place = ["--uri", str(uri), "--model-name", "colour", "--batch-size", "5"]
    return [sys.executable, "-c", code, str(pause), how, str(folder), *place]


def rerun(folder: Path, uri: object) -> str:
    done = subprocess.run(command(folder, uri), check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def acknowledged(lines: list[str]) -> set[str]:
    told = [line.split() for line in lines if line.endswith("\n")]
    return {id for id, status in told if status == "inserted"}


def contents(uri: object) -> list[tuple]:
    """Every row with all that it says of its image; a row that is there twice is so here."""
    fields = ["path", "size", "mtime", "digest", "vector"]
    rows = [row for page in open_collection(uri=uri).scan(fields) for row in page]
    texts = [tuple(str(row[field]) for field in ("id", *fields[:-1])) for row in rows]
    vectors = [np.round(row["vector"], 4).tolist() for row in rows]
    found = sorted([(*text, *vector) for text, vector in zip(texts, vectors, strict=True)])
    close()
    return found


def stored(uri: object) -> set[str]:
    return {row[0] for row in contents(uri)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple]]:
    """A folder, and the rows that an undisturbed run makes of it."""
    root = tmp_path_factory.mktemp("undisturbed")
    for n in range(PICTURES):
        paint(root / "pictures" / f"{n:03}.png", (n + 5, 250 - n, 128))
    build_insert_pipeline(uri=root / "x.db", model_name="colour")(str(root / "pictures"))
    rows = contents(root / "x.db")
    assert len({row[0] for row in rows}) == len(rows) == PICTURES
    return root / "pictures", rows


@pytest.mark.slow
@pytest.mark.parametrize("how", ["t2i", "hardened", "plain"])
@pytest.mark.parametrize("after", [1, 61, 145])
def test_a_run_that_is_killed_is_ended_by_the_next(undisturbed, tmp_path, how, after):
    """After 145 outcomes the last batch is stored and written out."""
    folder, expected = undisturbed
    uri = tmp_path / "x.db"
    with subprocess.Popen(
        command(folder, uri, how, pause=0.05), stdout=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stdout.readline() for _ in range(after)]
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    told = acknowledged(lines)
    assert after <= len(told) < PICTURES, "the kill came too early or too late to prove anything"
    kept = contents(uri)
    assert told <= {row[0] for row in kept}
    assert set(kept) <= set(expected)
    assert len(kept) == len(set(kept))
    build_insert_pipeline(uri=uri, model_name="colour")(str(folder))
    assert contents(uri) == expected


@pytest.fixture(params=["40k", "64k", ""], ids=["no room to insert", "no room to flush", "files limited"])
def little_room(request, tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, what a process has to run before it finds little room there, and what gives room.

    A small file system where this user may mount one, else a limit to the size of each file.
    """
    size = request.param
    folder = tmp_path / "little"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if (
        not size
        or shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        yield folder, QUOTA + "\n    limit(20_000)\n", ["true"]
        return
    try:
        yield folder, "", ["mount", "-o", "remount,size=64m", str(folder)]
    finally:
        close()
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_with_room_the_next_run_ends_it(undisturbed, little_room):
    folder, expected = undisturbed
    little, before, give_room = little_room
    uri = little / "x.db"
    full = command(folder, uri, before=before)
    done = subprocess.run(full, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    (said,) = re.findall(r"^error: .*", done.stderr, re.MULTILINE)
    assert re.match(r"error: (insert|flush) in collection 'image_collection' at ", said)
    assert f"{uri} failed: the disk is full, or a file there may not grow" in said
    assert "Traceback" not in done.stderr
    assert "make room and run it again" in said
    told = acknowledged(done.stdout.splitlines(keepends=True))
    assert 5 <= len(told) < PICTURES, "the disk was full too early or too late to prove anything"
    subprocess.run(give_room, check=True)
    assert told <= stored(uri)
    rerun(folder, uri)
    assert contents(uri) == expected


ONE_PROCESS = """
    import os
    import numpy as np
    from t2i_pipelines.collection import open_collection
    from t2i_pipelines.errors import StoreError
    from t2i_pipelines.types import Space

    def rows(start, count):
        same = {"vector": np.ones(16, np.float32), "path": "p", "size": 1, "mtime": 2, "digest": "d"}
        return [{**same, "id": str(n)} for n in range(start, start + count)]

    uri, broken, end = sys.argv[1:]
    collection = open_collection(uri)
    collection.prepare(Space("fake", "a1" * 32, "squash 64", 16))
    collection.upsert(rows(0, 1000))
    limit(1000 if broken == "flush" else 150_000)
    try:
        collection.flush() if broken == "flush" else collection.upsert(rows(1000, 1000))
    except StoreError as err:
        print(err)
    limit(resource.RLIM_INFINITY)
    assert collection.count() == 1000
    collection.upsert(rows(2000, 300))
    if end == "flush":
        collection.flush()
    print(collection.count(), flush=True)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "exit", "flush"])
@pytest.mark.parametrize("broken", ["insert", "flush"])
def test_what_is_stored_before_and_after_the_disk_was_full_stays(tmp_path, broken, end):
    uri = tmp_path / "x.db"
    code = textwrap.dedent(QUOTA) + textwrap.dedent(ONE_PROCESS)
    ran = [sys.executable, "-c", code, str(uri), broken, end]
    done = subprocess.run(ran, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr
    said, count = done.stdout.splitlines()
    assert said.startswith(f"{broken} in collection 'image_collection' at {uri} failed: the disk is full")
    assert count == "1300"
    ids = [row["id"] for page in open_collection(uri).scan(["path"]) for row in page]
    assert sorted(ids, key=int) == [str(n) for n in (*range(1000), *range(2000, 2300))]


@pytest.mark.parametrize("cause", ["[Errno 28] No space left on device", "[Errno 122] Disk quota exceeded"])
def test_a_disk_without_room_is_named_with_the_way_out(cause):
    err = translate(OSError(cause), doing="flush", where="x.db", timeout=1)
    assert type(err) is StoreError
    assert re.search(r"flush at x\.db failed: the disk is full, .*; make room and run it again", str(err))


@pytest.mark.slow
def test_a_server_that_is_killed_ends_the_run_and_the_next_one_completes_it(
    undisturbed, tmp_path, dead_port, lite_servers
):
    folder, expected = undisturbed
    uri = f"http://127.0.0.1:{dead_port}"
    server = lite_servers.start(tmp_path / "server.db", dead_port)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(folder, uri, pause=0.1), **pipes, text=True) as process:
        lines = [process.stdout.readline() for _ in range(40)]
        lite_servers.stop(server)
        more, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert f"error: no Milvus server answers at {uri}" in err
    told = acknowledged(lines + more.splitlines(keepends=True))
    assert 40 <= len(told) < PICTURES
    lite_servers.start(tmp_path / "server.db", dead_port)
    assert told <= stored(uri)
    rerun(folder, uri)
    assert contents(uri) == expected
