"""Loading by the server's importer: which rows go which way, and one outcome an input."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from conftest import paint
from stored import SPACE, random_units, row
from test_cli import COLOUR, t2i  # noqa: F401 - a fixture

from t2i_pipelines import InsertReport, build_insert_pipeline, insert_bulk
from t2i_pipelines.collection import open_collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.errors import ConfigError, CopyError, MissingExtraError, SourceError, StoreError
from t2i_pipelines.jobs.backup import parquet
from t2i_pipelines.jobs.bulk import run, shipment
from t2i_pipelines.jobs.bulk.shipment import RestImporter, State, importer_of

pytest_plugins = ["milvus_backends"]


class Server:
    """An importer that does what a server's does, into a collection of Milvus Lite, at the second look."""

    def __init__(self, collection, opened=Path):
        self.collection, self._open = collection, opened
        self.started, self.looks, self.refuses, self.loses = [], Counter(), "", ()
        self.shown = 0

    def schema(self):
        from pymilvus import CollectionSchema

        place = self.collection
        told = place.connection.call("describe_collection", place.name, doing="looking", timeout=5)
        return CollectionSchema.construct_from_dict(told)

    def start(self, path):
        self.started.append(path)
        return path

    def state(self, job):
        self.looks[job] += 1
        if self.looks[job] < 2 or self.refuses:
            return State(bool(self.refuses), self.refuses)
        with self._open(job).open("rb") as file:
            for rows in parquet.rows(file):
                self.collection.upsert([one for one in rows if not one["path"].endswith(self.loses or "/")])
        return State(True)

    def running(self):
        return []

    def show(self):
        self.shown += 1


@pytest.fixture
def server(settings, monkeypatch):
    found = Server(open_collection(settings["uri"]))
    monkeypatch.setattr(run, "importer_of", lambda *_: found)
    monkeypatch.setattr(shipment, "A_LOOK", 0.01)
    return found


def statuses(report):
    return {Path(one.path).name: one.status for one in report.rows}


def load(source, destination, settings, **more):
    return insert_bulk(source, destination, report=InsertReport(keep_rows=True), **settings, **more)


def test_the_rows_are_those_of_the_insert_pipeline(pictures, settings, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shipment, "FILE_ROWS", 3)
    (pictures / "bad.png").write_bytes(b"no picture")
    table = pd.DataFrame({"path": sorted(map(str, pictures.iterdir())), "year": range(8)})
    table.to_csv(tmp_path / "rows.csv", index=False)
    told = []
    report = load(tmp_path / "rows.csv", tmp_path / "files", settings, batch_size=2, progress=told.append)
    names = [Path(path).name for path in table["path"]]
    assert Counter(Path(one.path).name for one in told) == Counter(names)
    assert statuses(report) == {name: "failed" if name == "bad.png" else "inserted" for name in names}
    assert report.failed[0].reason.stage == "decode"
    assert [Path(path).name for path in server.started] == ["1.parquet", "2.parquet", "3.parquet"]
    assert all(Path(path).is_absolute() for path in server.started)
    assert list((tmp_path / "files").iterdir()) == []  # what is found is deleted
    assert server.shown
    expected = {**settings, "uri": tmp_path / "normal.db"}
    build_insert_pipeline(**expected)(tmp_path / "rows.csv")
    rows = [
        open_collection(uri).rows([one.id for one in told], ["vector", "*"])
        for uri in (settings["uri"], expected["uri"])
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 7
    assert report.stages["decode"] > 0


def test_what_is_stored_is_passed_by_and_what_has_changed_is_replaced(pictures, settings, server, tmp_path):
    load(pictures, tmp_path / "files", settings)
    again = load(pictures, tmp_path / "files", settings)
    assert set(statuses(again).values()) == {"unchanged"}
    assert len(server.started) == 1
    paint(pictures / "red.png", "blue", (40, 40))
    paint(pictures / "new.png", (1, 2, 3))
    third = load(pictures, tmp_path / "files", settings)
    assert third.counts == {**again.counts, "inserted": 1, "updated": 1, "unchanged": 6}
    assert statuses(third)["red.png"] == "updated"
    assert len(server.started) == 2
    assert open_collection(settings["uri"]).count() == 8


def test_one_id_is_imported_once_however_often_the_source_has_it(pictures, settings, server, tmp_path):
    red, blue = str(pictures / "red.png"), str(pictures / "blue.png")
    source = [
        {"path": red, "id": "a"},
        {"path": blue, "id": "b"},
        {"path": red, "id": "a"},
        {"path": blue, "id": "a"},
    ]
    report = load(source, tmp_path / "files", settings, batch_size=1)
    assert [one.status for one in report.rows if one.id == "b"] == ["inserted"]
    assert sorted(one.status for one in report.rows if one.id == "a") == ["failed", "inserted", "skipped"]
    assert "id 'a' of" in report.failed[0].reason
    assert "ids must be unique" in report.failed[0].reason


def test_an_import_that_fails_fails_its_rows_and_leaves_the_file(pictures, settings, server, tmp_path):
    server.refuses = "no such bucket"
    report = load(pictures, tmp_path / "files", settings)
    assert report.counts["failed"] == report.total == 7
    (left,) = (tmp_path / "files").glob("*/1.parquet")
    wanted = f"the server could not import {left}: no such bucket; can it read that file?"
    assert report.failed[0].reason == f"cannot insert {report.failed[0].path}: {wanted}"
    assert report.failed[0].reason.stage == "insert"
    assert open_collection(settings["uri"]).count() == 0


def test_rows_that_are_not_found_after_an_import_have_failed(
    pictures, settings, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(shipment, "PATIENCE", 1)
    server.loses = "red.png"
    report = load(pictures, tmp_path / "files", settings)
    assert (report.counts["inserted"], report.counts["failed"]) == (6, 1)
    assert "was imported, but this row of it is not found" in report.failed[0].reason
    assert report.failed[0].path.endswith("red.png")


def test_an_import_that_never_ends_is_given_up(pictures, settings, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shipment, "PATIENCE", 0.2)
    monkeypatch.setattr(server, "state", lambda job: State(False))
    report = load(pictures, tmp_path / "files", settings)
    assert report.counts["failed"] == 7
    assert "has not ended in 0.2 s; see the server's log" in report.failed[0].reason


def test_files_go_to_an_object_store_and_the_server_is_told_what_follows_the_bucket(
    pictures, settings, server
):
    class Stored:
        def __init__(self, job):
            self.open = lambda mode: fsspec.open(f"memory://a-bucket/{job}", mode).open()

    server._open = Stored
    report = load(pictures, "memory://a-bucket/bulk/", settings)
    assert report.counts["inserted"] == 7
    assert server.started[0].startswith("bulk/")
    assert fsspec.filesystem("memory").find("/a-bucket/bulk") == []


def test_a_running_import_is_waited_for_before_another_begins(
    pictures, settings, server, tmp_path, monkeypatch
):
    load(pictures, tmp_path / "files", settings)
    monkeypatch.setattr(server, "running", lambda: ["17", "18"])
    with pytest.raises(
        ConfigError, match="import 17, 18 into collection 'image_collection' is running, .*again"
    ):
        load(pictures, tmp_path / "files", settings)


def test_a_source_with_nothing_in_it_leaves_nothing_behind(settings, server, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no image in folder .*empty"):
        load(tmp_path / "empty", tmp_path / "files", settings)
    assert list((tmp_path / "files").iterdir()) == []
    assert server.started == []


def test_a_file_that_the_writer_cannot_write_is_an_error(settings, server, tmp_path, monkeypatch):
    collection = server.collection
    ship = shipment.Shipment(collection, server, tmp_path, shipment.Folder(tmp_path / "there"), print)
    ship.prepare(SPACE)
    ship.upsert([row("a", random_units(1)[0])])
    monkeypatch.setattr(ship._writer, "commit", lambda: None)
    with pytest.raises(CopyError, match="bulk writer could not write 1 rows to .*; make room"):
        ship.end()


def test_milvus_lite_has_no_importer(pictures, on_disk, lite_server_backend, t2i, tmp_path):  # noqa: F811
    wanted = r"Milvus Lite at .* has no importer; leave --bulk out, or give the uri of a Milvus server"
    with pytest.raises(ConfigError, match=wanted):
        insert_bulk(pictures, tmp_path / "files", **on_disk)
    assert not on_disk["uri"].exists()
    with pytest.raises(ConfigError, match=wanted):
        insert_bulk(pictures, tmp_path / "files", **on_disk | {"uri": lite_server_backend.uri})
    assert not (tmp_path / "files").exists()
    code, _, err = t2i("insert", "pictures", "--bulk", "files", *COLOUR)
    assert (code, "has no importer; leave --bulk out" in err) == (2, True)


def test_the_command_loads_and_writes_its_report(pictures, settings, server, t2i, tmp_path):  # noqa: F811
    options = ["--uri", settings["uri"], "--report", "out.json", *COLOUR]
    code, _, err = t2i("insert", "pictures", "--bulk", "files", *options)
    assert code == 0, err
    assert "7 images: 7 inserted, 0 unchanged, 0 failed" in err
    assert json.loads((tmp_path / "out.json").read_text())["counts"]["inserted"] == 7
    assert len(server.started) == 1


def test_without_the_extra_the_command_to_install_it_is_named(lite_server_backend, monkeypatch):
    collection = lite_server_backend.open("bulk")
    monkeypatch.setattr(type(collection), "is_lite", False)
    monkeypatch.setitem(__import__("sys").modules, "pymilvus.bulk_writer", None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 't2i-pipelines\[bulk\]'"):
        importer_of(collection, {"uri": lite_server_backend.uri})


class _Rest(BaseHTTPRequestHandler):
    """Milvus 2.4's REST interface for imports."""

    asked: list
    answers: dict

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.path.rpartition("/")[2]
        self.asked.append((self.path, body, self.headers["Authorization"], self.headers["DB-Name"]))
        content = json.dumps(self.answers[kind]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def rest(lite_server_backend):
    """An importer, what its server is asked, and what it answers."""
    handler = type("Handler", (_Rest,), {"asked": [], "answers": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        place = {"uri": lite_server_backend.uri, "token": "root:x", "collection_name": "c", "timeout": 5.0}
        importer = RestImporter(place)
        importer._address = parse_uri(f"http://user:pw@127.0.0.1:{server.server_port}/db1")
        yield importer, handler.asked, handler.answers
        server.shutdown()
        thread.join()


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    rest, lite_server_backend, monkeypatch
):
    importer, asked, answers = rest
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    answers["create"] = {"code": 0, "data": {"jobId": "7"}}
    answers["describe"] = {"code": 0, "data": {"state": "Completed"}}
    answers["list"] = {"code": 0, "data": {"records": []}}
    assert importer.start("bulk/1.parquet") == "7"
    assert importer.state("7") == State(True)
    assert importer.running() == []
    assert len(asked) == 3
    place = {"uri": lite_server_backend.uri, "token": "root:x", "collection_name": "c", "timeout": 5.0}
    assert RestImporter(place)._client.list_collections() == importer._client.list_collections()


def test_a_newer_server_is_told_by_rest(rest):
    importer, asked, answers = rest
    answers["create"] = {"code": 0, "data": {"jobId": "448761313698322011"}}
    assert importer.start("bulk/1.parquet") == "448761313698322011"
    path, body, key, database = asked[0]
    assert (path, key, database) == ("/v2/vectordb/jobs/import/create", "Bearer root:x", "db1")
    assert (body["collectionName"], body["files"]) == ("c", [["bulk/1.parquet"]])
    answers["describe"] = {"code": 0, "data": {"state": "Importing", "progress": 40}}
    assert importer.state("7") == State(False)
    assert asked[-1][1]["jobId"] == "7"
    answers["describe"] = {"code": 0, "data": {"state": "Completed", "progress": 100}}
    assert importer.state("7") == State(True)
    answers["describe"] = {"code": 0, "data": {"state": "Failed", "reason": "no file"}}
    assert importer.state("7") == State(True, "no file")
    jobs = [{"jobId": name, "state": name} for name in ("Pending", "Importing", "Completed", "Failed")]
    answers["list"] = {"code": 0, "data": {"records": jobs}}
    assert importer.running() == ["Pending", "Importing"]
    answers["create"] = {"code": 1100, "message": "no such collection"}
    with pytest.raises(
        StoreError, match="beginning an import for collection 'c' at .* failed: .*no such coll"
    ):
        importer.start("x")
