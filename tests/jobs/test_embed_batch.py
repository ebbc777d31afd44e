"""``embed_batch`` in the kinds of batch that jobs hand out, and in jobs of Ray and Spark."""

import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import paint

from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.errors import ConfigError, UnknownModelError
from t2i_pipelines.images import digest, path_key
from t2i_pipelines.jobs.ray import embed_batch

pytest_plugins = ["ray_here"]

ROOT = Path(__file__).parents[2]
COLOUR = {"model_name": "colour"}
NO_PICTURE = "not an image in a known format"


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """A red and a blue image, with one that is none between them."""
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    return [str(paint(tmp_path / "red.png", "red")), str(broken), str(paint(tmp_path / "blue.png", "blue"))]


def test_a_dict_of_arrays_gets_a_matrix_and_a_bad_file_is_a_row(paths):
    found = embed_batch({"path": np.array(paths), "year": np.arange(3)}, **COLOUR)
    assert list(found) == ["path", "year", "id", "vector", "error"]
    assert found["id"].tolist() == [path_key(path) for path in paths]
    assert (found["vector"].shape, found["vector"].dtype) == ((3, 3), np.float32)
    np.testing.assert_allclose(found["vector"][[0, 2]], [[1, 0, 0], [0, 0, 1]])
    assert np.isnan(found["vector"][1]).all()
    assert found["error"].tolist() == [
        "",
        f"cannot read image {paths[1]}: {NO_PICTURE}",
        "",
    ]


def test_a_data_frame_keeps_its_columns_and_its_index(paths):
    frame = pd.DataFrame({"path": paths, "year": [1, 2, 3]}, index=[7, 8, 9])
    found = embed_batch(frame, **COLOUR)
    assert list(found.columns) == ["path", "year", "id", "vector", "error"]
    assert found.index.tolist() == [7, 8, 9]
    assert found.vector[7].tolist() == [1, 0, 0]
    assert found.vector[8] is None
    assert list(frame.columns) == ["path", "year"], "the user's own frame was changed"


def test_a_table_gets_lists_of_numbers(paths):
    found = embed_batch(pa.table({"path": paths}), **COLOUR)
    assert found.schema.field("vector").type == pa.list_(pa.float32())
    assert found["vector"].to_pylist() == [[1, 0, 0], None, [0, 0, 1]]
    assert found["error"].to_pylist()[0] == ""


def test_bytes_are_embedded_and_known_by_their_digest(paths):
    contents = [Path(path).read_bytes() for path in paths]
    found = embed_batch(pd.DataFrame({"bytes": [*contents, b"", None]}), column="bytes", **COLOUR)
    assert found.id.tolist()[:4] == [digest(content) for content in [*contents, b""]]
    assert found.vector[2].tolist() == [0, 0, 1]
    assert [bool(error) for error in found.error] == [False, True, False, True, True]


def test_an_id_of_the_batch_stays_the_id(paths):
    assert embed_batch({"path": paths, "id": [1, 2, 3]}, **COLOUR)["id"].tolist() == ["1", "2", "3"]
    table = pa.table({"path": paths[:1], "id": ["x"], "vector": ["old"]})
    found = embed_batch(table, **COLOUR)
    assert (found["id"].to_pylist(), found["vector"].to_pylist()) == (["x"], [[1, 0, 0]])


def test_a_batch_without_one_good_picture_has_the_shape_of_any_other(paths):
    found = embed_batch({"path": [paths[1], "/none.png", "a\0b"]}, **COLOUR)
    assert found["vector"].shape == (3, 3)
    assert all(found["error"])
    assert embed_batch({"path": []}, **COLOUR)["vector"].shape == (0, 3)


def test_a_picture_that_cannot_be_embedded_says_so(tmp_path):
    found = embed_batch({"path": [str(paint(tmp_path / "black.png", (0, 0, 0)))]}, **COLOUR)
    assert "a vector of length 0.0 has no direction" in found["error"][0]
    assert np.isnan(found["vector"]).all()


def test_vectors_are_those_that_inserting_stores(pictures, tmp_path):
    from t2i_pipelines.collection import open_collection

    mini = {"model_name": "t2i_mini", "precision": "fp32"}
    build_insert_pipeline(uri=tmp_path / "x.db", **mini)(str(pictures))
    rows = {row["id"]: row for page in open_collection(tmp_path / "x.db").scan(["vector"]) for row in page}
    found = embed_batch({"path": [str(one) for one in pictures.iterdir()]}, batch_size=2, **mini)
    assert len(rows) == 7
    for key, vector in zip(found["id"], found["vector"], strict=True):
        np.testing.assert_allclose(vector, rows[key]["vector"], atol=1e-5)


def test_what_is_wrong_with_the_call_is_raised(paths):
    with pytest.raises(ConfigError, match="no column 'image'; it has path: say column="):
        embed_batch({"path": paths}, column="image", **COLOUR)
    with pytest.raises(ConfigError, match=r"a pandas\.DataFrame or a pyarrow\.Table; got list"):
        embed_batch(paths, **COLOUR)
    with pytest.raises(UnknownModelError, match="unknown model 'colr'"):
        embed_batch({"path": paths}, model_name="colr")


def shown(word: str) -> str:
    """The block of the documentation that has this word in it."""
    text = (ROOT / "docs" / "how-to" / "ray.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if word in code]
    return block


def same(rows: list[dict], expected: dict) -> None:
    """Rows that a job gave, in any order, and what the function gives here."""
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows) == len(expected["path"])
    columns = (expected[name] for name in ("path", "id", "vector", "error"))
    for path, id, vector, error in zip(*columns, strict=True):
        assert (found[path]["id"], found[path]["error"]) == (id, error)
        if not error:
            np.testing.assert_allclose(found[path]["vector"], vector, atol=1e-5)


@pytest.mark.slow
def test_a_ray_job_of_ones_own_maps_batches(paths, ray_here, tmp_path):
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    embed = partial(embed_batch, model_name="t2i_mini")
    given = {"ray": ray, "embed": embed, "paths": paths, "folder": tmp_path}
    exec(compile(shown("map_batches("), "distributed.md", "exec"), given)
    expected = embed({"path": paths})
    same(ray.data.read_parquet(str(tmp_path / "ray")).take_all(), expected)
    mapped = given["images"].map_batches(embed, batch_size=2, batch_format="pyarrow")
    same(mapped.take_all(), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
def test_a_spark_job_maps_data_frames(paths, tmp_path, monkeypatch):
    if shutil.which("java") is None:
        pytest.skip("Spark needs a Java: apt-get install default-jre-headless")
    from pyspark.sql import SparkSession

    for name, value in {
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    settings = {"spark.ui.enabled": "false", "spark.driver.memory": "512m", "spark.log.level": "ERROR"}
    spark = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    embed = partial(embed_batch, model_name="t2i_mini")
    try:
        code = compile(shown("mapInPandas("), "distributed.md", "exec")
        exec(code, {"paths": paths, "spark": spark, "embed": embed, "folder": tmp_path})
        rows = [row.asDict() for row in spark.read.parquet(str(tmp_path / "spark")).collect()]
    finally:
        spark.stop()
    assert [row["path"] for row in rows if row["vector"] is None] == [paths[1]]
    same(rows, embed({"path": paths}))
