"""`t2i sync`: what it prints, and how it exits."""

import json
import re

from conftest import paint
from test_cli import COLOUR, t2i  # noqa: F401 - a fixture

from t2i_pipelines.collection import open_collection
from t2i_pipelines.operators import image_decode


def test_sync_tells_what_it_did_and_leaves_unchanged_files_alone(t2i, pictures):  # noqa: F811
    code, out, err = t2i("sync", "pictures", *COLOUR)
    assert (code, out) == (0, "")
    assert err.splitlines()[-2].endswith("7 images: 7 inserted, 0 unchanged, 0 failed")
    assert re.match(r"7 images in [\d.,]+ s \([\d.,]+/s\): .*encoder idle \d+ %", err.splitlines()[-1])
    (pictures / "red.png").rename(pictures / "rot.png")
    paint(pictures / "blue.png", (1, 2, 3))
    code, _, err = t2i("sync", "pictures", *COLOUR)
    assert code == 0
    assert "7 images: 0 inserted, 1 updated, 1 reused, 5 unchanged, 1 deleted, 0 failed" in err


def test_a_dry_run_prints_a_line_for_each_change(t2i, pictures):  # noqa: F811
    t2i("sync", "pictures", *COLOUR)
    (pictures / "red.png").unlink()
    paint(pictures / "new.png", (1, 2, 3))
    code, out, err = t2i("sync", "pictures", "--dry-run", *COLOUR)
    assert code == 0
    assert out.splitlines() == ["inserted pictures/new.png", "deleted  pictures/red.png"]
    assert "nothing was changed, this is what would be" in err
    assert open_collection("milvus.db").count() == 7


def test_too_many_deletions_exit_with_2_and_name_the_way_out(t2i, pictures):  # noqa: F811
    t2i("sync", "pictures", *COLOUR)
    for name in ("red", "green"):
        (pictures / f"{name}.png").unlink()
    code, _, err = t2i("sync", "pictures", *COLOUR)
    assert (code, "error: the source lacks 2 of the 7 stored images" in err) == (2, True)
    assert "--force" in err
    code, _, err = t2i("sync", "pictures", "--dry-run", *COLOUR)
    assert (code, "the source lacks 2 of the 7 stored images" in err) == (0, True)
    code, _, err = t2i("sync", "pictures", "--force", *COLOUR)
    assert (code, "5 images: 0 inserted, 5 unchanged, 2 deleted, 0 failed" in err) == (0, True)


def test_failures_exit_with_1_and_are_in_the_report(t2i, pictures):  # noqa: F811
    (pictures / "bad.png").write_bytes(b"no picture")
    for command in ("sync", "insert"):
        code, _, err = t2i(command, "pictures", "--report", f"out/{command}.json", *COLOUR)
        assert (code, f"wrote out/{command}.json" in err) == (1, True)
        with open(f"out/{command}.json", encoding="utf-8") as file:  # noqa: PTH123
            found = json.load(file)
        assert found["counts"]["failed"] == 1
        assert found["failed"][0]["stage"] == "decode"
        assert found["failed"][0]["path"] == str(pictures / "bad.png")
    code, _, err = t2i("sync", "pictures", "--stop-at-error", *COLOUR)
    assert (code, "error: cannot read image" in err) == (2, True)


def test_decode_workers_reaches_the_decoder(t2i, pictures, monkeypatch):  # noqa: F811
    seen = []
    turns = image_decode._turns
    monkeypatch.setattr(image_decode, "_turns", lambda count: (seen.append(count), turns(count))[1])
    for command in ("sync", "insert"):
        code, _, err = t2i(command, "pictures", "--decode-workers", 3, "--uri", f"{command}.db", *COLOUR)
        assert code == 0, err
    assert seen == [3] * 14
    code, _, err = t2i("insert", "pictures", "--decode-workers", 0, *COLOUR)
    assert (code, "decode_workers must be" in err) == (2, True), err
