"""How a collection is stored: what each Milvus is told, and what it is spared."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from stored import DIM, SPACE, random_units, row

from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.collection import close, open_collection, schema
from t2i_pipelines.collection.catalog import Catalog
from t2i_pipelines.collection.schema import build_params, depth
from t2i_pipelines.config.settings import Settings
from t2i_pipelines.config.storage import Storage, check_supported
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError
from t2i_pipelines.operators.milvus import MilvusInsert

WHERE = "http://milvus:19530"


class Server:
    """A connection to a server of some version that notes what it is asked for, and finds no collection."""

    def __init__(self, version, nodes=1):
        self.address, self.entries, self.nodes, self.calls = SimpleNamespace(path=None), {}, nodes, []
        self._version, self.renamed, self.generations = version, {}, {}
        self.loading = SimpleNamespace(__enter__=lambda: None)
        self.kept_open = nullcontext

    def is_lite(self, timeout):
        return False

    def version(self, timeout):
        return self._version

    def call(self, method, *args, doing, timeout, **kwargs):
        if method == "describe_collection":
            raise CollectionNotFoundError(doing)
        self.calls.append((method, args, kwargs))
        return SimpleNamespace(num_available_node=self.nodes)


@pytest.fixture
def made(monkeypatch):
    """``made(version, **storage)`` -> the calls that make such a collection."""

    def make(version, nodes=1, **storage):
        from contextlib import nullcontext

        server = Server(version, nodes)
        server.loading, server.writing = nullcontext(), lambda timeout: nullcontext(timeout)
        Catalog(server, "c", 30.0).create(SPACE, Storage(**storage))
        return {method: (args, kwargs) for method, args, kwargs in server.calls}

    return make


def fields(calls):
    return {field.name: field for field in calls["create_collection"][1]["schema"].fields}


def test_left_alone_nothing_changes(made):
    from pymilvus import DataType

    calls = made((2, 3))
    assert list(calls) == ["create_collection", "create_index", "load_collection"]
    assert set(calls["create_collection"][1]) == {"schema"}, "with an index, pymilvus waits half a second"
    assert calls["create_index"][1]["sync"] is False
    assert calls["load_collection"][1] == {}
    assert fields(calls)["vector"].dtype == DataType.FLOAT_VECTOR
    assert not any(field.is_partition_key for field in fields(calls).values())


def test_half_the_bytes_a_number_where_asked_for(made):
    from pymilvus import DataType

    vector = fields(made((2, 4), vector_type="FLOAT16_VECTOR"))["vector"]
    assert (vector.dtype, vector.params["dim"]) == (DataType.FLOAT16_VECTOR, DIM)


def test_mmap_is_a_property_of_the_collection(made):
    assert made((2, 3), mmap=True)["create_collection"][1]["properties"] == {"mmap.enabled": "true"}


def test_a_partition_key_is_a_field_of_text(made):
    from pymilvus import DataType

    key = fields(made((2, 4), partition_key="album"))["album"]
    assert (key.dtype, key.is_partition_key, key.params["max_length"]) == (DataType.VARCHAR, True, 255)


def test_replicas_are_loaded_once_the_index_is_there(made):
    calls = made((2, 6), nodes=3, replica_number=2)
    assert list(calls) == ["describe_resource_group", "create_collection", "create_index", "load_collection"]
    assert calls["load_collection"][1] == {"replica_number": 2}
    assert "index_params" not in calls["create_collection"][1]  # which would load it, with one
    assert calls["create_collection"][1]["properties"] == {schema.REPLICAS: "2"}


def test_more_replicas_than_query_nodes_are_refused_before_anything_is_made(made):
    with pytest.raises(ConfigError, match=r"replica_number=3 needs as many query nodes, and .* has 2"):
        made((2, 6), nodes=2, replica_number=3)


def test_whoever_opens_it_later_loads_as_many_replicas():
    server = Server((2, 6))
    entry = SimpleNamespace(
        storage=Storage(replica_number=2), index_type="HNSW", changing_until=0, real_name="c"
    )
    Catalog(server, "c", 30.0).load(entry)
    assert server.calls == [("load_collection", ("c",), {"replica_number": 2})]


@pytest.mark.parametrize(
    ("setting", "version", "needed"),
    [
        ({"index_type": "HNSW_SQ"}, (2, 4), "2.5"),
        ({"index_type": "IVF_RABITQ"}, (2, 5), "2.6"),
        ({"vector_type": "FLOAT16_VECTOR"}, (2, 3), "2.4"),
        ({"mmap": True}, (2, 2), "2.3"),
        ({"partition_key": "album"}, (2, 3), "2.4"),
        ({"replica_number": 2}, (2, 1), "2.3"),
    ],
)
def test_what_a_server_is_too_old_for_is_refused_by_name_and_version(setting, version, needed):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError) as caught:
        check_supported(Storage(**setting), version, WHERE)
    old = f"{version[0]}.{version[1]}"
    assert str(caught.value).startswith(
        f"{name}={value!r} needs Milvus {needed} or later, and {WHERE} is {old}; "
    )
    check_supported(Storage(**setting), tuple(map(int, needed.split("."))), WHERE)
    check_supported(
        Storage(**setting), (0, 0), WHERE
    )  # a server that tells no version: it will say so itself


@pytest.mark.parametrize(
    "setting", [{"vector_type": "FLOAT16_VECTOR"}, {"mmap": True}, {"replica_number": 2}], ids=str
)
def test_what_milvus_lite_cannot_do_is_refused_at_once(tmp_path, setting):
    (name,) = setting
    for build in (open_collection, build_insert_pipeline):
        with pytest.raises(
            ConfigError, match=rf"{name}=.* needs a Milvus server, and .*x\.db is Milvus Lite"
        ):
            build(uri=str(tmp_path / "x.db"), **setting)
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vector_type": "INT8_VECTOR"}, "vector_type must be one of 'FLOAT_VECTOR', 'FLOAT16_VECTOR'"),
        ({"mmap": 1}, "mmap must be True or False, got 1"),
        ({"replica_number": 0}, "replica_number must be between 1 and 64, got 0"),
        ({"partition_key": "path"}, "partition_key must be a field of your own"),
        ({"partition_key": "vector"}, "partition_key: vector cannot be compared"),
        ({"partition_key": "my album"}, "of letters, digits and _, such as 'album'; got 'my album'"),
        ({"partition_key": 3}, "partition_key: a column's name is made of"),
    ],
    ids=str,
)
def test_what_cannot_work_anywhere_is_refused_where_it_is_set(setting, message):
    for build in (Storage, Settings, MilvusInsert, lambda **how: open_collection(WHERE, **how)):
        with pytest.raises(ConfigError, match=message):
            build(**setting)


def test_an_unknown_setting_is_named():
    with pytest.raises(ConfigError, match="unknown setting shards; known settings are"):
        open_collection(WHERE, shards=2)


def test_settings_reach_the_collection():
    settings = {"index_type": "hnsw", "mmap": True, "partition_key": "album", "replica_number": 2}
    inserting = MilvusInsert(uri=WHERE, **Settings(**settings).storage.chosen)
    assert inserting.collection._storage == Storage(**settings)
    assert inserting.collection is open_collection(WHERE, **settings)
    assert inserting.collection is not open_collection(WHERE)


def test_a_description_is_read_back():
    from pymilvus import DataType

    described = {
        "properties": {"mmap.enabled": "true", schema.REPLICAS: "3"},
        "fields": [
            {"name": "vector", "type": DataType.FLOAT16_VECTOR},
            {"name": "album", "type": DataType.VARCHAR, "is_partition_key": True},
        ],
    }
    assert schema.read_storage(described) == Storage(
        vector_type="FLOAT16_VECTOR", mmap=True, partition_key="album", replica_number=3
    )
    assert schema.read_storage({"fields": [{"name": "vector", "type": DataType.FLOAT_VECTOR}]}) == Storage()


def test_vectors_of_float16_go_in_and_come_back_through_pymilvus():
    """By pymilvus's own packing of rows and queries, and as it gives answers: bytes."""
    from pymilvus.client.prepare import Prepare

    half = Storage(vector_type="FLOAT16_VECTOR")
    vectors = random_units(3)
    stored = schema.as_stored(half, [row(at, one) for at, one in enumerate(vectors)])
    (asked,) = schema.as_asked(half, {"data": list(vectors[:1]), "limit": 3})["data"]
    assert {one["vector"].dtype for one in stored} == {np.dtype(np.float16)} == {asked.dtype}
    sent = Prepare._prepare_placeholder_str([asked])
    assert vectors[0].astype(np.float16).tobytes() in sent
    answers = [
        [{"id": "0", "vector": stored[0]["vector"].tobytes()}],
        [[{"id": "0", "distance": 1.0, "entity": {"vector": stored[0]["vector"].tobytes()}}]],
    ]
    query, ((found,),) = (schema.as_read(half, answer) for answer in answers)
    for vector in (query[0]["vector"], found["entity"]["vector"]):
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, vectors[0], atol=1e-3)


def test_vectors_of_float32_are_left_as_they_are():
    rows = [row("a", random_units(1)[0])]
    assert schema.as_stored(Storage(), rows)[0] is rows[0]
    asked, answer = {"data": [1]}, [{"vector": b"1234"}]
    assert schema.as_asked(Storage(), asked) is asked
    assert schema.as_read(Storage(), answer) == [{"vector": b"1234"}]


@pytest.mark.parametrize("value", [3, None, "x" * 256, "é" * 128, ["a"]])
def test_a_partition_key_that_is_no_text_is_refused_with_its_row(value):
    rows = [row("a", random_units(1)[0], album=value)]
    with pytest.raises(
        ConfigError, match="row 'a': 'album' is the partition key of this collection and must"
    ):
        schema.as_stored(Storage(partition_key="album"), rows)


def test_indexes_of_newer_servers_are_built_with_a_second_look():
    assert build_params("IVF_RABITQ", is_lite=False) == {"nlist": 1024, "refine": True, "refine_type": "SQ8"}
    assert depth("IVF_RABITQ", is_lite=False).params(512, filtered=False) == {"nprobe": 128, "refine_k": 4}
    assert depth("DISKANN", is_lite=False).params(512, filtered=False) == {"search_list": 1024}


def test_the_command_makes_a_collection_as_it_is_told_to(tmp_path):
    import csv

    from typer.testing import CliRunner

    from t2i_pipelines.cli import app

    source, uri = tmp_path / "source.csv", str(tmp_path / "x.db")
    gallery = Path(__file__).parents[2] / "data" / "gallery"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "album"])
        writer.writerows([path, "xy"[at % 2]] for at, path in enumerate(sorted(gallery.iterdir())[:4]))
    how = ["--model-name", "t2i_mini", "--uri", uri, "--index-type", "hnsw", "--partition-key", "album"]
    ran = CliRunner().invoke(app, ["insert", str(source), *how])
    assert ran.exit_code == 0, ran.output
    collection = open_collection(uri)
    assert collection.index_type == "HNSW"
    assert collection.catalog.find().storage.partition_key == "album"
    (hits,) = collection.search(
        np.eye(1, 768, dtype=np.float32), where={"album": "x"}, output_fields=["album"]
    )
    assert [hit.fields["album"] for hit in hits] == ["x", "x"]
    close(uri)
