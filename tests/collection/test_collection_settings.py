"""What is checked before Milvus is asked anything: uris, names, rows."""

import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.collection import open_collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.collection.rows import BATCH_BYTES, BATCH_ROWS, batches, check_metadata, check_rows
from t2i_pipelines.collection.schema import read_space
from t2i_pipelines.errors import ConfigError, StoreError

ROW = {"id": "a", "vector": np.ones(4, np.float32), "path": "p", "size": 1, "mtime": 2, "digest": ""}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("localhost:19530", "has no scheme; write http://localhost:19530"),
        ("10.0.0.1:19530/db", "has no scheme; write http://10.0.0.1:19530/db"),
        ("milvus", r"must end in \.db to be a Milvus Lite file \(for example milvus\.db\)"),
        ("milvus.DB", r"must end in \.db"),
        (Path("folder/milvus.sqlite"), r"must end in \.db"),
        ("file:///tmp/x.db", "the scheme 'file'.* a file is written as its path"),
        ("http://", "names no host"),
        ("http://host:port", "has no valid port"),
        ("", "got ''"),
        ("  ", "got '  '"),
        (b"x.db", "got b'x.db'"),
    ],
)
def test_a_uri_that_cannot_work_is_refused_with_a_way_out(uri, words):
    with pytest.raises(ConfigError, match=words):
        open_collection(uri)


@pytest.mark.parametrize(
    ("uri", "uniform"),
    [
        ("http://localhost:19530", "http://localhost:19530"),
        ("HTTP://LocalHost:19530/", "http://localhost:19530"),
        ("https://u:P@Cloud.io/Db", "https://u:P@cloud.io/Db"),
        ("tcp://h:1", "tcp://h:1"),
        ("unix:/run/milvus.sock", "unix:/run/milvus.sock"),
    ],
)
def test_a_server_has_one_spelling(uri, uniform):
    assert parse_uri(uri).uri == uniform
    assert parse_uri(uri).path is None


def test_a_password_in_a_uri_is_never_shown():
    assert str(parse_uri("http://root:secret@host:19530/db")) == "http://host:19530/db"
    assert "secret" not in repr(open_collection("http://root:secret@host:19530"))


@pytest.mark.parametrize("name", ["", "my-images", "1images", "a b", "é", "a" * 256, "a\n", None])
def test_a_collection_name_that_only_milvus_lite_takes_is_refused(name):
    with pytest.raises(ConfigError, match="collection_name must be letters, digits and _"):
        open_collection(collection_name=name)


def test_the_longest_collection_name_is_taken():
    assert open_collection(collection_name="_" + "a" * 254).name == "_" + "a" * 254


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "5"])
def test_a_timeout_that_never_ends_is_refused(timeout):
    with pytest.raises(ConfigError, match="timeout must be a number of seconds above 0"):
        open_collection(timeout=timeout)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "row '': the id is empty"),
        ({"id": 7}, "row 7: id must be text, got 7"),
        ({"id": "é" * 65}, "id takes 130 bytes as UTF-8, at most 128"),
        ({"path": None}, "row 'a': path must be text, got None"),
        ({"path": "bad\udc80name"}, "row 'a': path .* is not valid Unicode"),
        ({"digest": "x" * 65}, "digest takes 65 bytes as UTF-8, at most 64"),
        ({"size": 1.5}, "row 'a': size must be a whole number, got 1.5"),
        ({"mtime": 2**63}, "row 'a': mtime does not fit 64 bits"),
        ({"when": datetime.date(2020, 1, 1)}, "row 'a': metadata 'when' is a date, which JSON"),
        ({"x": {"y": object()}}, "row 'a': metadata 'x' is a object"),
        ({"x": float("inf")}, "row 'a': metadata 'x' is inf"),
        ({"x": {1: 2}}, "row 'a': metadata 'x' is a dict"),
        ({"x": 2**70}, "row 'a': metadata 'x': number does not fit"),
        ({"$meta": 1}, "row 'a': '\\$meta' is no name for metadata"),
        ({"x": "y" * 70_000}, "metadata 'x': text takes 70000 bytes"),
        ({"x": "y" * 40_000, "z": "y" * 40_000}, "row 'a': metadata takes 800.. bytes as JSON"),
    ],
)
def test_a_bad_field_is_refused_by_row_and_name(change, words):
    with pytest.raises(ConfigError, match=words):
        check_rows([{**ROW, **change}], 4)


def test_a_missing_field_is_named():
    with pytest.raises(ConfigError, match="row 'a' has no size, digest; a row needs id, vector"):
        check_rows([{k: v for k, v in ROW.items() if k not in ("size", "digest")}], 4)


@pytest.mark.parametrize("name", ["id", "vector", "path", "size", "mtime", "digest"])
def test_metadata_cannot_take_a_name_of_the_collection(name):
    with pytest.raises(ConfigError, match=f"cat.csv: metadata may not be called '{name}'.*rename"):
        check_metadata({"year": 1, name: 2}, "cat.csv")


def test_metadata_becomes_plain_and_loses_none_and_nan():
    given_metadata = {
        "n": np.int32(3),
        "b": np.bool_(True),
        "a": np.array([[1, 2]]),
        "t": ("x", np.float64(0.5)),
        "none": None,
        "nan": np.float32("nan"),
    }
    plain = check_metadata(given_metadata, "row")
    assert plain == {"n": 3, "b": True, "a": [[1, 2]], "t": ["x", 0.5]}
    assert {type(value) for value in plain.values()} == {int, bool, list}


@given(st.lists(st.integers(0, 3_000_000), max_size=40))
def test_batches_keep_every_row_in_order_and_stay_small(sizes):
    rows = [
        {"id": str(i), "vector": np.empty(size // 4, np.float32), "path": ""} for i, size in enumerate(sizes)
    ]
    cut = list(batches(rows))
    assert [row["id"] for batch in cut for row in batch] == [row["id"] for row in rows]
    for batch in cut:
        assert len(batch) == 1 or sum(row["vector"].nbytes for row in batch) <= BATCH_BYTES


def test_batches_of_small_rows_are_bounded_by_their_number():
    rows = [{"id": str(i), "vector": ROW["vector"], "path": ""} for i in range(BATCH_ROWS + 1)]
    assert [len(batch) for batch in batches(rows)] == [BATCH_ROWS, 1]


def test_a_collection_of_a_newer_version_is_not_misread():
    note = '{"t2i_pipelines": {"version": 2, "space": {}}}'
    with pytest.raises(StoreError, match=r"'c' at x\.db has format 2, and this t2i-pipelines knows 1"):
        read_space({"collection_name": "c", "description": note}, "x.db")
