"""Milvus's own importer on the real server: of an export, and of a first load."""

from pathlib import Path

import pytest
from stored import SPACE, random_units, row
from test_copying import filled, many, odd_rows, stored  # noqa: F401 - a fixture

from t2i_pipelines import InsertReport, build_insert_pipeline, export_collection, insert_bulk
from t2i_pipelines.collection import open_collection
from t2i_pipelines.errors import StoreError
from t2i_pipelines.jobs.bulk.shipment import RpcImporter, importer_of

pytest_plugins = ["milvus_backends"]

pytestmark = [pytest.mark.milvus, pytest.mark.xdist_group("milvus")]


def test_milvus_itself_imports_an_export(milvus_server_backend, filled, tmp_path):  # noqa: F811
    from milvus_backends import wait_until

    rows = odd_rows() + many(100)
    wanted = stored(filled("source", rows))
    made = export_collection(tmp_path / "out", uri=tmp_path / "source.db")
    target = milvus_server_backend.open("imported")
    target.drop()
    target.prepare(SPACE)
    place = {"uri": milvus_server_backend.uri, "token": milvus_server_backend.token, "timeout": 30.0}
    importer = importer_of(target, {**place, "collection_name": "imported"})
    assert isinstance(importer, RpcImporter)
    missing = importer.start(str(tmp_path / "none.parquet"))
    job = importer.start(str(tmp_path / "out" / made.files[0].name))
    wait_until(lambda: importer.state(job).done, "the import")
    assert importer.state(job).reason == ""
    wait_until(lambda: importer.state(missing).done, "the end of an import of a file that is not there")
    assert "none.parquet" in importer.state(missing).reason
    importer.show()
    wait_until(lambda: target.count() == len(rows), "finding what was imported")
    assert stored(target) == wanted
    (hits,) = target.search(rows[7]["vector"][None], limit=1)
    assert hits[0].id == rows[7]["id"]
    assert importer.running() == []
    nowhere = importer_of(target, {**place, "collection_name": "nowhere"})
    with pytest.raises(StoreError, match="beginning an import for collection 'nowhere' at .* failed"):
        nowhere.start(str(tmp_path / "none.parquet"))
    target.upsert([row("plain", random_units(1, seed=9)[0])])  # what was imported can be replaced
    assert target.count() == len(rows)
    target.drop()


def test_a_first_load_goes_through_the_importer_and_the_next_run_finds_it_unchanged(
    milvus_server_backend, pictures, tmp_path
):
    place = {"uri": milvus_server_backend.uri, "token": milvus_server_backend.token, "model_name": "colour"}
    settings = {**place, "collection_name": "loaded"}
    collection = milvus_server_backend.open("loaded")
    collection.drop()
    (pictures / "bad.png").write_bytes(b"no picture")
    report = insert_bulk(pictures, tmp_path / "files", report=InsertReport(keep_rows=True), **settings)
    assert (report.counts["inserted"], report.counts["failed"], report.total) == (7, 1, 8), str(report)
    assert list((tmp_path / "files").iterdir()) == []
    again = insert_bulk(pictures, tmp_path / "files", **settings)
    assert (again.counts["unchanged"], again.counts["failed"]) == (7, 1)
    build_insert_pipeline(uri=tmp_path / "normal.db", model_name="colour")(pictures)
    normal = open_collection(tmp_path / "normal.db")
    assert stored(collection) == stored(normal)
    assert {Path(one["path"]).name for one in stored(normal).values()} == {
        Path(one.path).name for one in report.rows if one.status == "inserted"
    }
    collection.drop()
