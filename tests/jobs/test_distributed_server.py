"""An insert on Ray into a real Milvus server, with two writers."""

import pytest
from conftest import paint
from ray_processes import workers

from t2i_pipelines import InsertReport
from t2i_pipelines.jobs.ray import insert_distributed

pytest_plugins = ["milvus_backends", "ray_here"]


@pytest.mark.slow
@pytest.mark.milvus
def test_several_writers_fill_a_server_and_what_they_wrote_is_read_at_once(
    tmp_path, milvus_server_backend, ray_here
):
    for n in range(120):
        paint(tmp_path / "many" / f"{n:03}.png", (n + 5, 250 - n, 128))
    (tmp_path / "many" / "bad.png").write_text("no image")
    backend = milvus_server_backend
    place = {"uri": backend.uri, "token": backend.token, "collection_name": "on_ray"}
    collection = backend.open("on_ray")
    try:
        run = {"model_name": "colour", "batch_size": 4, "writers": 2, **place}
        writers = []
        report = insert_distributed(
            tmp_path / "many",
            report=InsertReport(keep_rows=True),
            progress=lambda _: writers.append(len(workers("MapBatches(Writer)"))),
            **run,
        )
        rows = [row for page in collection.scan(["path"]) for row in page]
        assert collection.count() == 120
        assert max(writers) == 2
        assert sorted(row["id"] for row in rows) == sorted(
            one.id for one in report.rows if one.status == "inserted"
        )
        assert (report.counts["inserted"], report.counts["failed"]) == (120, 1)
        again = insert_distributed(tmp_path / "many", **run)
        assert (again.counts["unchanged"], again.counts["failed"]) == (120, 1)
        assert collection.count() == 120
    finally:
        collection.drop()
