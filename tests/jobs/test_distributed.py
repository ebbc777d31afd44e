"""An insert on Ray does what one in this process does, also when its processes die."""

import csv
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from ray_processes import kill_one, workers

from t2i_pipelines import InsertReport, build_insert_pipeline, cli, close
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.errors import (
    ClusterError,
    ImageDecodeError,
    ModelMismatchError,
    SourceError,
    StoreUnavailableError,
)
from t2i_pipelines.jobs.ray import insert_distributed
from t2i_pipelines.testing import ColourEncoder

pytest_plugins = ["milvus_backends", "ray_here"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

MINI = {"model_name": "t2i_mini", "precision": "fp32"}
COLOUR = {"model_name": "colour", "batch_size": 3}


def outcomes(rows: list) -> list[tuple[str, str, str, str]]:
    return sorted((row[0], row[1], row[2], str(row[3])) for row in rows)


def stored(place: dict) -> dict[str, dict]:
    """Every row by its id."""
    collection = open_collection(place["uri"], place.get("token", ""), place["collection_name"])
    fields = ["path", "size", "mtime", "digest", "vector", "year"]
    rows = [row for page in collection.scan(fields) for row in page]
    close()
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows) == len({row["path"] for row in rows}), "a row is there twice"
    return found


def same(one: dict[str, dict], other: dict[str, dict]) -> None:
    assert one.keys() == other.keys()
    for key, row in one.items():
        np.testing.assert_allclose(row.pop("vector"), other[key].pop("vector"), atol=1e-5)
        assert row == other[key]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with images, two of the same bytes, and what is none."""
    folder = tmp_path / "mixed"
    shutil.copytree(Path(__file__).parents[2] / "data" / "gallery", folder)
    some = sorted(folder.rglob("*.*"))
    for one in some[24:]:
        one.unlink()
    shutil.copy(some[0], folder / f"again{some[0].suffix}")
    (folder / "broken.png").write_bytes(some[0].read_bytes()[:100])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_ids_outcomes_and_vectors_are_those_of_a_run_in_this_process(mixed, lite_server_backend):
    here = {"uri": lite_server_backend.uri, "collection_name": "here", **MINI}
    ray = {**here, "collection_name": "on_ray"}
    expected = build_insert_pipeline(**here)(str(mixed)).to_list()
    told = []
    report = insert_distributed(mixed, report=InsertReport(keep_rows=True), progress=told.append, **ray)
    assert outcomes(report.rows) == outcomes(expected)
    assert sorted(told) == sorted(report.rows)
    assert report.counts["failed"] == 3
    assert [one.path for one in report.failed] == [row[0] for row in expected if row[2] == "failed"]
    assert report.failed[0].reason.stage == "decode"
    assert {"read", "look up", "decode", "encode", "insert"} <= report.stages.keys()
    same(stored(ray), stored(here))


def test_what_is_stored_is_passed_by_without_being_read(pictures, tmp_path, lite_server_backend):
    place = {"uri": lite_server_backend.uri, "collection_name": "ledger", "batch_size": 1}
    place["model_name"] = "noted"
    loads = tmp_path / "loads"

    def noted(*_: object) -> ColourEncoder:
        with loads.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return ColourEncoder()

    register_encoder("noted", noted)
    writers = []
    first = insert_distributed(
        pictures, writers=3, progress=lambda _: writers.append(len(workers("MapBatches(Writer)"))), **place
    )
    assert first.counts["inserted"] == 7
    assert set(writers) == {1}, "milvus-lite server loses rows of a second writer"
    processes = loads.read_text().split()
    assert len(processes) == len(set(processes)) >= 3, "a process loaded its model for each batch"
    rows = stored(place)
    red, blue = pictures / "red.png", pictures / "blue.png"
    was = red.stat()
    red.write_bytes(b"x" * was.st_size)
    os.utime(red, ns=(was.st_atime_ns, was.st_mtime_ns))
    paint(blue, "green", (20, 20))
    again = insert_distributed(pictures, **place)
    assert again.counts["unchanged"] == 6, "red.png was read, or another was not known"
    assert again.counts["updated"] == 1
    after = stored(place)
    assert after.keys() == rows.keys()
    assert {id for id in rows if rows[id]["digest"] != after[id]["digest"]} == {
        id for id, row in rows.items() if row["path"] == str(blue)
    }


def test_every_row_of_tables_and_tars_ends_once_with_its_metadata(pictures, tmp_path, lite_server_backend):
    files = sorted(pictures.iterdir())
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for file in files[number * 2 : number * 2 + 2]:
                tar.add(file, file.name)
    (tmp_path / "3.tar").write_bytes(b"no tar")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "id", "year"])
        rows.writerows([files[n % 7], f"n{n % 7}", 2000 + n % 7] for n in range(9))
        rows.writerow([files[0], "n1", 1999])
        rows.writerow([tmp_path / "none.png", "gone", 1])
    place = {"uri": lite_server_backend.uri, "collection_name": "tables", "model_name": "colour"}
    report = insert_distributed(tmp_path / "{0..3}.tar", **place)
    assert (report.counts["inserted"], report.counts["failed"]) == (6, 1)
    assert str(tmp_path / "3.tar") in report.failed[0].reason
    report = insert_distributed([tmp_path / "rows.csv", pictures / "red.png"], **place)
    assert report.total == 12
    assert (report.counts["inserted"], report.counts["skipped"]) == (8, 2)
    assert [one.id for one in report.failed] == ["n1", "gone"]
    assert "ids must be unique" in report.failed[0].reason
    assert report.failed[1].reason.metadata == {"year": 1}
    collection = open_collection(place["uri"], collection_name="tables")
    kept = {row["id"]: row.get("year") for page in collection.scan(["year"]) for row in page}
    assert len(kept) == 6 + 8
    assert {key: year for key, year in kept.items() if key.startswith("n")} == {
        f"n{n}": 2000 + n for n in range(7)
    }


def test_errors_of_ours_arrive_as_ours(pictures, tmp_path, lite_server_backend, dead_port):
    place = {"uri": lite_server_backend.uri, "collection_name": "errors", **COLOUR}
    with pytest.raises(SourceError, match="no such folder or file"):
        insert_distributed(tmp_path / "nothing", **place)
    with pytest.raises(SourceError, match="the source is empty"):
        insert_distributed([], **place)
    (pictures / "bad.png").write_text("no image")
    with pytest.raises(ImageDecodeError, match=r"bad\.png: not an image"):
        insert_distributed(pictures, on_error="raise", **place)
    insert_distributed(pictures, **place)
    with pytest.raises(ModelMismatchError, match="t2i_mini"):
        insert_distributed(pictures, **{**place, "model_name": "t2i_mini", "refresh": True})
    with pytest.raises(StoreUnavailableError, match=str(dead_port)):
        insert_distributed(pictures, **{**place, "uri": f"http://127.0.0.1:{dead_port}"})


class Slow(ColourEncoder):
    def fit(self, image):
        time.sleep(0.05 if image.shape[0] > 1 else 0)  # decoding, and not fitted yet
        return super().fit(image)

    def encode_images(self, images):
        time.sleep(0.1)
        return super().encode_images(images)


def test_dead_workers_and_actors_lose_nothing_and_double_nothing(tmp_path, lite_server_backend):
    for n in range(160):
        paint(tmp_path / "many" / f"{n:03}.png", (n + 5, 250 - n, 128))
    place = {
        "uri": lite_server_backend.uri,
        "collection_name": "killed",
        "model_name": "slow",
        "batch_size": 4,
    }
    register_encoder("slow", lambda *_: Slow())
    half = [str(one) for one in sorted((tmp_path / "many").iterdir())[:40]]
    assert insert_distributed(half, **place).counts["inserted"] == 40
    assert len(stored(place)) == 40
    victims = ["prepare", "MapWorker(MapBatches(Encoder))", "MapWorker(MapBatches(Writer))", "read"]
    killed = []

    def kill(outcome) -> None:
        there = next((one for one in victims if workers(one)), "")
        if there and outcome.status == "inserted":
            victims.remove(there)
            killed.append(kill_one(there))

    told = []
    report = insert_distributed(
        tmp_path / "many", progress=lambda one: (told.append(one.id), kill(one)), **place
    )
    assert len(killed) >= 3, f"the run was over before {victims} could be killed"
    assert report.total == len(told) == len(set(told)) == 160
    assert report.counts["failed"] == 0
    assert report.counts["unchanged"] >= 40
    rows = stored(place)
    assert len(rows) == 160
    assert {row["path"] for row in rows.values()} == {str(one) for one in (tmp_path / "many").iterdir()}
    assert insert_distributed(tmp_path / "many", **place).counts["unchanged"] == 160


class Crashing(ColourEncoder):
    def encode_images(self, images):
        os._exit(1)


def test_a_picture_that_ends_its_process_each_time_ends_the_run(pictures, lite_server_backend):
    register_encoder("crashing", lambda *_: Crashing())
    place = {"uri": lite_server_backend.uri, "collection_name": "crashing", "model_name": "crashing"}
    with pytest.raises(ClusterError, match=r"Ray has given up: .*run it again, with isolate=True"):
        insert_distributed([pictures / "red.png"], **place)


def test_the_command_ends_as_the_local_one_does(pictures, tmp_path, lite_server_backend, monkeypatch, capsys):
    (pictures / "bad.png").write_text("no image")
    settings = ["--model-name", "colour", "--collection-name", "command"]

    def t2i(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["t2i", "insert", str(pictures), *settings, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().err

    report = tmp_path / "report.json"
    code, err = t2i("--ray", "--uri", lite_server_backend.uri, "--report", report)
    assert code == 1
    assert "8 images: 7 inserted, 0 unchanged, 1 failed" in err
    assert json.loads(report.read_text())["failed"][0]["stage"] == "decode"
    (pictures / "bad.png").unlink()
    code, err = t2i("--ray-address", "ignored, since Ray runs here", "--uri", lite_server_backend.uri)
    assert (code, "7 images: 0 inserted, 7 unchanged, 0 failed" in err) == (0, True)
    code, err = t2i("--ray", "--uri", tmp_path / "x.db")
    assert (code, "error: uri" in err, "milvus-lite server --data-dir" in err) == (2, True, True)
