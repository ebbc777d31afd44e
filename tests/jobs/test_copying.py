"""Export and import: the same rows everywhere, in files that others read, too."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from stored import DIM, SPACE, random_units, row

from t2i_pipelines import export_collection, import_collection
from t2i_pipelines.collection import open_collection
from t2i_pipelines.jobs.backup import parquet, run
from t2i_pipelines.jobs.backup.folder import Fingerprint
from t2i_pipelines.search.relevance import NOTE

pytest_plugins = ["milvus_backends"]

EVERYTHING = {
    "beyond_floats": 2**53 + 1,
    "lowest": -(2**63),
    "highest": 2**63 - 1,
    "whole": 1.0,
    "tenth": 0.1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "yes": True,
    "no": False,
    "empty": "",
    "text": "ü 漢字 🎈 \u2028 \"q\" 'x' \\ \n\t",
    "list": [1, 2.5, "a", [1, [2]], {"k": []}, None],
    "dict": {"a": {"b": {"c": 2**60}}, "none": None},
    "sp ace": 1,
    "dot.ted": 2,
}
IDS = ["a\"b'c\\", "ü漢", "z" * 128]


def odd_rows():
    """Rows that are hard to copy."""
    vectors = random_units(4, seed=1)
    path = "/p/" + "x" * 4093
    odd = [row(id, vector, **EVERYTHING) for id, vector in zip(IDS, vectors, strict=False)]
    odd[0] |= {"path": path, "size": -1, "mtime": 2**62, "digest": "d" * 64}
    odd[1] |= {"path": "/ü/漢字.jpg", "left_out": None}
    return [*odd, row("plain", vectors[3])]


def exact(metadata):
    """Text that tells 1 from 1.0 and True, and does not tell the order of names."""
    return json.dumps(metadata, sort_keys=True)


def stored(collection):
    """id -> row, as it is read."""
    rows = [one for page in collection.scan(["vector", "*"]) for one in page]
    assert len({one["id"] for one in rows}) == len(rows)
    return {one["id"]: {**one, "vector": np.float32(one["vector"]).tobytes()} for one in rows}


@pytest.fixture
def filled(tmp_path):
    """``filled(name, rows)``: a local collection with rows."""

    def fill(name, rows):
        collection = open_collection(tmp_path / f"{name}.db")
        collection.prepare(SPACE)
        collection.upsert(rows)
        return collection

    return fill


def many(count, **more):
    return [row(f"{i:05}", v, year=1900 + i, **more) for i, v in enumerate(random_units(count))]


def test_every_row_comes_back_from_any_engine_as_it_was(milvus_backend, tmp_path, filled):
    rows = odd_rows() + many(40)
    before = stored(filled("source", rows))
    made = export_collection(tmp_path / "first", uri=tmp_path / "source.db")
    place = {"uri": milvus_backend.uri, "token": milvus_backend.token, "collection_name": "copied"}
    milvus_backend.open("copied").drop()
    done = import_collection(tmp_path / "first", **place)
    again = export_collection(tmp_path / "second", **place)
    import_collection(tmp_path / "second", uri=tmp_path / "back.db")
    assert stored(open_collection(tmp_path / "back.db")) == before
    assert {one["id"]: one["vector"].tobytes() for one in rows} == {i: r["vector"] for i, r in before.items()}
    for id in IDS:
        assert exact({k: before[id][k] for k in EVERYTHING}) == exact(EVERYTHING)
    assert "left_out" not in before["ü漢"]
    assert (made.rows, done.rows, again.rows) == (44, 44, 44)
    assert made.digest == done.digest == again.digest == fingerprint(rows)
    milvus_backend.open("copied").drop()


def fingerprint(rows):
    seen = Fingerprint()
    seen.add(reversed(rows))
    return seen.hexdigest()


def test_pandas_reads_the_folder_with_all_columns_and_the_metadata(tmp_path, filled, monkeypatch):
    monkeypatch.setattr(run, "PART_ROWS", 2)
    monkeypatch.setattr(parquet, "MOST", 2)
    rows = {one["id"]: one for one in odd_rows()}
    filled("source", list(rows.values()))
    export_collection(tmp_path / "out", uri=tmp_path / "source.db")
    frame = pd.read_parquet(tmp_path / "out").set_index("id")
    assert sorted(frame.index) == sorted(rows)
    assert frame.columns.tolist() == ["vector", "path", "size", "mtime", "digest", "$meta"]
    for id, found in frame.iterrows():
        assert found["vector"].dtype == np.float32
        assert found["vector"].tobytes() == rows[id]["vector"].tobytes()
        for name in ("path", "size", "mtime", "digest"):
            assert found[name] == rows[id][name]
    meta = frame["$meta"].map(json.loads)
    assert exact(meta[IDS[0]]) == exact(EVERYTHING)
    assert meta["plain"] == {}


def test_the_columns_are_those_of_milvus_own_bulk_writer(tmp_path, filled):
    from pymilvus import DataType, MilvusClient
    from pymilvus.bulk_writer import BulkFileType, LocalBulkWriter

    rows = odd_rows()
    filled("source", rows)
    export_collection(tmp_path / "ours", uri=tmp_path / "source.db")
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=128)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("path", DataType.VARCHAR, max_length=4096)
    schema.add_field("size", DataType.INT64)
    schema.add_field("mtime", DataType.INT64)
    schema.add_field("digest", DataType.VARCHAR, max_length=64)
    with LocalBulkWriter(schema, str(tmp_path / "theirs"), file_type=BulkFileType.PARQUET) as writer:
        for one in sorted(rows, key=lambda one: one["id"]):
            writer.append_row({k: v for k, v in one.items() if v is not None})
        writer.commit()
    theirs = pq.read_table(writer.batch_files[0][0])
    ours = pq.read_table(tmp_path / "ours" / "t2i-00000.parquet")
    assert ours.schema.remove_metadata() == theirs.schema.remove_metadata()
    assert ours.drop(["$meta"]).to_pylist() == theirs.drop(["$meta"]).to_pylist()
    for one, other in zip(ours["$meta"].to_pylist(), theirs["$meta"].to_pylist(), strict=True):
        assert exact(json.loads(one)) == exact(json.loads(other))


def test_files_are_bounded_by_rows_and_bytes_and_the_digest_is_the_same(tmp_path, filled, monkeypatch):
    rows = many(50)
    filled("source", rows)
    monkeypatch.setattr(parquet, "MOST", 7)
    monkeypatch.setattr(run, "PART_ROWS", 15)
    by_rows = export_collection(tmp_path / "rows", uri=tmp_path / "source.db")
    assert [part.rows for part in by_rows.files] == [14, 14, 14, 8]
    monkeypatch.setattr(run, "PART_BYTES", 1)
    by_bytes = export_collection(tmp_path / "bytes", uri=tmp_path / "source.db")
    assert [part.rows for part in by_bytes.files] == [7] * 7 + [1]
    assert by_rows.digest == by_bytes.digest == fingerprint(rows)
    found = Counter(pq.read_table(tmp_path / "bytes")["id"].to_pylist())
    assert found == Counter(one["id"] for one in rows)
    import_collection(tmp_path / "bytes", uri=tmp_path / "back.db")
    assert stored(open_collection(tmp_path / "back.db")) == stored(open_collection(tmp_path / "source.db"))


def test_a_digest_changes_with_every_part_of_a_row():
    one = row("a", random_units(1)[0], year=1)
    changed = [
        {"id": "b"},
        {"path": "x"},
        {"size": 3},
        {"mtime": 3},
        {"digest": "x"},
        {"year": 2},
        {"year": 1.0},
        {"year": True},
        {"more": 0},
        {"vector": np.nextafter(one["vector"], 2, dtype=np.float32)},
    ]
    digests = [fingerprint([one | change]) for change in changed]
    assert len({fingerprint([one]), fingerprint([]), fingerprint([one, one]), *digests}) == len(changed) + 3
    assert fingerprint([one | {"none": None}]) == fingerprint([one])


def test_the_calibration_of_relevance_comes_along(tmp_path, filled):
    filled("source", many(3)).write_note(NOTE, '{"rows": 3}')
    made = export_collection(tmp_path / "out", uri=tmp_path / "source.db")
    assert made.notes == {NOTE: '{"rows": 3}'}
    import_collection(tmp_path / "out", uri=tmp_path / "back.db")
    assert open_collection(tmp_path / "back.db").read_note(NOTE) == '{"rows": 3}'
    others = filled("others", [row("other", random_units(1)[0])])
    import_collection(tmp_path / "out", uri=tmp_path / "others.db", if_exists="merge")
    assert others.read_note(NOTE) is None  # its rows are not those that were calibrated for


def test_an_empty_collection_is_copied_as_one(tmp_path, filled):
    filled("source", [])
    made = export_collection(tmp_path / "out", uri=tmp_path / "source.db")
    done = import_collection(tmp_path / "out", uri=tmp_path / "back.db")
    assert (made.rows, made.files, done.rows) == (0, (), 0)
    back = open_collection(tmp_path / "back.db")
    assert (back.count(), back.space()) == (0, SPACE)


def test_an_object_store_holds_an_export_as_a_disk_does(tmp_path, filled):
    rows = many(5)
    filled("source", rows)
    made = export_collection("memory://bucket/deep/out/", uri=tmp_path / "source.db")
    done = import_collection("memory://bucket/deep/out", uri=tmp_path / "back.db")
    assert made.digest == done.digest == fingerprint(rows)
    assert pd.read_parquet("memory://bucket/deep/out/t2i-00000.parquet")["id"].tolist() == [
        one["id"] for one in rows
    ]


def test_progress_tells_of_every_page(tmp_path, filled, monkeypatch):
    monkeypatch.setattr(parquet, "MOST", 2)
    filled("source", many(5))
    told = []
    export_collection(tmp_path / "out", uri=tmp_path / "source.db", progress=lambda *one: told.append(one))
    assert told == [(2, 5), (4, 5), (5, 5)]
    told.clear()
    import_collection(tmp_path / "out", uri=tmp_path / "back.db", progress=lambda *one: told.append(one))
    assert told[-1] == (5, 5)


def test_rows_whose_metadata_is_too_much_for_one_answer_are_read_in_smaller_pages(filled, monkeypatch):
    from t2i_pipelines.collection.failures import TooLargeError

    collection = filled("source", many(20))
    read, asked = collection.read, []

    def narrow(method, **arguments):
        asked.append(arguments.get("limit"))
        if arguments.get("limit", 0) > 3 and "00007" in arguments.get("filter", "00007"):
            raise TooLargeError("one message is over the server's limit")
        return read(method, **arguments)

    monkeypatch.setattr(parquet, "MOST", 8)
    collection.read = narrow
    pages = list(parquet.pages(collection, DIM))
    assert [one["id"] for page in pages for one in page] == [f"{i:05}" for i in range(20)]
    assert asked[:4] == [8, 8, 4, 2]
    collection.read = lambda *_, **__: narrow("query", limit=9)
    with pytest.raises(TooLargeError):
        list(parquet.pages(collection, DIM))


def test_importing_the_package_loads_neither_pyarrow_nor_fsspec():
    code = (
        "import sys, t2i_pipelines.jobs.backup; print({'pyarrow', 'fsspec', 'pymilvus'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
