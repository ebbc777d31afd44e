"""Whatever happens to a folder, and however a run ends: the next sync stores what a first one would."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import paint

from t2i_pipelines import close, sync
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder


def contents(uri: Path) -> dict[str, tuple]:
    fields = ["path", "size", "mtime", "digest", "vector"]
    return {
        row["id"]: (
            row["path"],
            row["size"],
            row["mtime"],
            row["digest"],
            *np.round(row["vector"], 4).tolist(),
        )
        for page in open_collection(uri=uri).scan(fields)
        for row in page
    }


def mutate(folder: Path, rng: random.Random) -> None:
    """Write, copy, rename, swap, touch, break, mend or delete one file, as chance will have it."""
    files = sorted(folder.iterdir())
    one, other = rng.choice(files), rng.choice(files)
    fresh = folder / f"{rng.randrange(40):02}.png"
    match rng.randrange(8):
        case 0 | 1:
            paint(fresh, tuple(rng.randrange(1, 6) * 50 for _ in range(3)))
        case 2:
            fresh.write_bytes(one.read_bytes())
        case 3:
            one.rename(fresh)
        case 4:
            between = folder.parent / "between"
            one.rename(between)
            if other != one:
                other.rename(one)
            between.rename(other)
        case 5:
            os.utime(one, ns=(0, rng.randrange(10**18)))
        case 6:
            one.write_bytes(b"broken" + rng.randbytes(4))
        case 7 if len(files) > 3:
            one.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_after_any_changes_the_collection_is_what_a_new_one_would_be(tmp_path, seed, batch_size):
    rng = random.Random(f"{seed} {batch_size}")
    folder = tmp_path / "photos"
    for n in range(12):
        paint(folder / f"{n:02}.png", tuple(rng.randrange(1, 6) * 50 for _ in range(3)))
    settings = {"uri": tmp_path / "old.db", "model_name": "colour", "batch_size": batch_size, "force": True}
    reports = [sync(folder, **settings)]
    for _ in range(6):
        for _ in range(rng.randrange(1, 9)):
            mutate(folder, rng)
        before = len(contents(settings["uri"]))
        planned = sync(folder, dry_run=True, **settings)
        reports.append(done := sync(folder, **settings))
        after = contents(settings["uri"])
        counts = done.counts
        assert len(after) == before + counts["inserted"] + counts["reused"] - counts["deleted"]
        assert done.total == len(list(folder.iterdir()))
        assert planned.counts["deleted"] == counts["deleted"]
    # a file that is broken now keeps the row that it had; a new collection has none of it
    broken = {one.id for report in reports for one in report.failed}
    sync(folder, **{**settings, "uri": tmp_path / "new.db"})
    fresh = contents(tmp_path / "new.db")
    found = contents(settings["uri"])
    assert {id: row for id, row in found.items() if id not in broken or id in fresh} == fresh
    assert found.keys() - fresh.keys() <= broken
    assert sync(folder, **settings).counts["failed"] == len(list(folder.iterdir())) - len(fresh)


CODE = """
    import sys
    import t2i_pipelines.testing
    from t2i_pipelines import sync
    told = lambda outcome: outcome.status == "unchanged" or print(outcome.id, outcome.status, flush=True)
    sync(sys.argv[1], uri=sys.argv[2], model_name="colour", batch_size=4, progress=told)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 30, 62, 85])
def test_a_run_that_is_killed_is_ended_by_the_next_as_if_nothing_had_been(tmp_path, after):
    """62 rows are stored anew before the 25 that have moved or gone are deleted."""
    folder = tmp_path / "photos"
    for n in range(100):
        paint(folder / f"{n:03}.png", (n + 50, 2 * n + 9, 128))
    uri = tmp_path / "x.db"
    sync(folder, uri=uri, model_name="colour")
    close()
    for n in range(20):
        (folder / f"{n:03}.png").rename(folder / f"was{n:03}.png")
    for n in range(20, 45):
        paint(folder / f"{n:03}.png", (7, n + 9, 200))
    for n in range(17):
        paint(folder / f"new{n:03}.png", (200, n + 9, 7))
    for n in range(95, 100):
        (folder / f"{n:03}.png").unlink()
    command = [sys.executable, "-c", textwrap.dedent(CODE), str(folder), str(uri)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    told = [line.split() for line in lines if line.endswith("\n")]
    assert after <= len(told)
    assert len(told) < 87 or after > 60, "the kill came too late to prove anything"
    collection = open_collection(uri=uri)
    collection.prepare(load_encoder("colour").space)
    kept = [id for id, status in told if status in ("inserted", "updated", "reused")]
    assert set(collection.ledger(kept)) == set(kept), "what was told is stored"
    assert len(kept) == 62 or not any(status == "deleted" for _, status in told), "deletions come last"
    report = sync(folder, uri=uri, model_name="colour")
    assert report.counts["failed"] == 0
    sync(folder, uri=tmp_path / "fresh.db", model_name="colour")
    assert contents(uri) == contents(tmp_path / "fresh.db")
    assert len(contents(uri)) == 112
