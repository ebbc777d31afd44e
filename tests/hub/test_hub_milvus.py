"""``ann_insert`` and ``ann_search`` on collections that pymilvus made, of other fields than ours."""

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient
from towhee import AutoConfig, AutoPipes, ops, pipe

from t2i_pipelines import close
from t2i_pipelines.collection import open_collection
from t2i_pipelines.errors import (
    CollectionNotFoundError,
    ConfigError,
    StoreUnavailableError,
    T2IError,
    VectorError,
)

pytest_plugins = ["milvus_backends", "old_notebooks"]
pytestmark = pytest.mark.usefixtures("hub")

NAME = "foreign"
VECTORS = np.eye(4, dtype=np.float32)
BUILD = {"IVF_FLAT": {"nlist": 16}, "FLAT": {}, "HNSW": {"M": 8, "efConstruction": 64}, "AUTOINDEX": {}}


@pytest.fixture
def foreign(milvus_itself):
    """``make(fields, index)`` a collection by pymilvus; gives where it is, as the operators take it."""
    client = milvus_itself.client()

    def make(*fields, dim=4, metric="L2", index="IVF_FLAT", auto_id=False, dynamic=False, key="id"):
        if client.has_collection(NAME):
            client.drop_collection(NAME)
        schema = client.create_schema(auto_id=auto_id, enable_dynamic_field=dynamic)
        kind = (
            {"datatype": DataType.INT64} if key == "id" else {"datatype": DataType.VARCHAR, "max_length": 99}
        )
        schema.add_field(key, is_primary=True, **kind)
        for name in fields:
            schema.add_field(name, DataType.VARCHAR, max_length=99)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        params = client.prepare_index_params()
        params.add_index("embedding", index_type=index, metric_type=metric, params=BUILD[index])
        client.create_collection(NAME, schema=schema, index_params=params)
        return {"uri": milvus_itself.uri, "token": milvus_itself.token, "collection_name": NAME}

    yield make
    if client.has_collection(NAME):
        client.drop_collection(NAME)
    client.close()


def insert_of(place, *columns):
    return pipe.input(*columns).map(columns, "mr", ops.ann_insert.milvus_client(**place)).output("mr")


def search_of(place, **asked):
    return pipe.input("vec").map("vec", "rows", ops.ann_search.milvus_client(**place, **asked)).output("rows")


def test_a_search_gives_ids_and_squared_distances_nearest_first(foreign):
    place = foreign()
    insert = insert_of(place, "id", "vec")
    for number, vector in enumerate(VECTORS * [[1], [2], [3], [4]]):
        (result,) = insert(number, vector).get()
        assert (result.insert_count, list(result.primary_keys)) == (1, [number])
        assert (result.succ_count, result.err_count) == (1, 0)
    (rows,) = search_of(place)(VECTORS[1].astype(np.float64)).get()
    assert rows == [
        [1, pytest.approx(1)],
        [0, pytest.approx(2)],
        [2, pytest.approx(10)],
        [3, pytest.approx(17)],
    ]
    assert all(type(row) is list for row in rows)
    assert len(search_of(place, limit=2)(VECTORS[1]).get()[0]) == 2


@pytest.mark.parametrize("index", ["FLAT", "HNSW", "AUTOINDEX"])
@pytest.mark.parametrize("metric", ["COSINE", "IP"])
def test_the_metric_is_that_of_the_index(foreign, metric, index):
    place = foreign(metric=metric, index=index)
    insert = insert_of(place, "id", "vec")
    for number in range(4):
        insert(number, VECTORS[number] * 2)
    (rows,) = search_of(place, limit=1)([0, 0, 1, 0]).get()
    assert rows == [[2, pytest.approx(1 if metric == "COSINE" else 2)]]


def test_fields_come_in_the_order_in_which_they_are_asked_for(foreign):
    place = foreign("path", "label", key="name")
    insert = insert_of(place, "name", "path", "label", "vec")
    insert("one", "/a", "cat", VECTORS[0])
    insert("two", "/b", "dog", VECTORS[1])
    (rows,) = search_of(place, output_fields=["label", "name", "path"], expr='label == "dog"')(
        VECTORS[0]
    ).get()
    assert rows == [["two", pytest.approx(2), "dog", "two", "/b"]]
    (rows,) = search_of(
        place, output_fields=["label"], param={"metric_type": "L2", "params": {"nprobe": 16}}
    )(VECTORS[0]).get()
    assert rows[0] == ["one", pytest.approx(0), "cat"]


def test_a_list_is_several_fields_unless_their_number_fits_without(foreign):
    place = foreign("path", "label")
    operator = ops.ann_insert.milvus_client(**place)
    operator(1, ["/a", "cat"], VECTORS[0])
    operator([2, "/b", "dog", VECTORS[1]])
    operator(3, "/c", "owl", VECTORS[2].tolist())
    (rows,) = search_of(place, output_fields=["path", "label"])(VECTORS[2]).get()
    assert sorted([key, *fields] for key, _, *fields in rows) == [
        [1, "/a", "cat"],
        [2, "/b", "dog"],
        [3, "/c", "owl"],
    ]


def test_a_key_that_milvus_gives_is_not_inserted(foreign):
    place = foreign("path", auto_id=True)
    (result,) = insert_of(place, "path", "vec")("/a", VECTORS[0]).get()
    (rows,) = search_of(place, output_fields=["path"])(VECTORS[0]).get()
    assert rows == [[result.primary_keys[0], pytest.approx(0), "/a"]]


def test_a_row_of_another_number_of_fields_is_refused_by_their_names(foreign):
    insert = insert_of(foreign("path"), "id", "vec")
    with pytest.raises(ConfigError, match=r"has 3 field\(s\), id, path, embedding; got 2"):
        insert(1, VECTORS[0])


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (np.ones(3), r"embedding: the vector has shape \(3,\), the collection holds \(4,\)"),
        (np.array([1, 2, np.nan, 4]), "embedding: the vector is not finite: nan at 2"),
        ("words", "embedding: the vector is not made of numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(foreign, vector, words):
    place = foreign()
    with pytest.raises(VectorError, match=words):
        insert_of(place, "id", "vec")(1, vector)
    with pytest.raises(VectorError, match=words):
        search_of(place)(vector)


def test_distances_to_zero_are_distances(foreign):
    place = foreign()
    insert_of(place, "id", "vec")(7, np.zeros(4))
    assert search_of(place)(np.zeros(4)).get() == [[[7, 0]]]


def test_a_value_of_another_type_is_an_error_of_ours(foreign):
    place = foreign("path")
    with pytest.raises(T2IError, match=f"insert of collection '{NAME}' at .* failed"):
        insert_of(place, "id", "path", "vec")(1, {"no": "text"}, VECTORS[0])


def test_what_milvus_does_not_understand_is_an_error_of_ours(foreign):
    place = foreign()
    insert_of(place, "id", "vec")(1, VECTORS[0])
    with pytest.raises(T2IError, match=f"search of collection '{NAME}' at .* failed"):
        search_of(place, expr="id >>> 2")(VECTORS[0])
    with pytest.raises(ConfigError, match="has no vector field 'other'; there is embedding"):
        search_of(place, anns_field="other")(VECTORS[0])


def test_a_collection_that_is_not_there_is_named(milvus_itself):
    place = {"uri": milvus_itself.uri, "token": milvus_itself.token, "collection_name": "nowhere"}
    for call in (lambda: insert_of(place, "id", "vec")(1, VECTORS[0]), lambda: search_of(place)(VECTORS[0])):
        with pytest.raises(CollectionNotFoundError, match="'nowhere' at .*make the collection first"):
            call()


def test_a_collection_may_be_dropped_and_made_anew(foreign):
    insert, search = insert_of(foreign(), "id", "vec"), search_of(foreign())
    insert(1, VECTORS[0])
    assert search(VECTORS[0]).get() == [[[1, 0]]]
    foreign(dim=3, metric="COSINE", index="FLAT")
    insert(2, [0, 1, 0])
    assert search(np.array([0, 1, 0])).get() == [[[2, pytest.approx(1)]]]
    foreign(dim=3, metric="L2")
    insert(3, [0, 1, 0])
    assert search(np.array([0, 1, 0])).get() == [[[3, 0]]]


def test_a_released_collection_is_loaded(foreign, milvus_itself):
    place = foreign()
    insert_of(place, "id", "vec")(1, VECTORS[0])
    client = milvus_itself.client()
    client.release_collection(NAME)
    assert search_of(place)(VECTORS[0]).get() == [[[1, 0]]]
    client.close()


def test_osschat_milvus_takes_the_collection_with_each_call(foreign):
    place = foreign()
    name = place.pop("collection_name")
    columns = ("name", "id", "vec")
    p = pipe.input(*columns).map(columns, "mr", ops.ann_insert.osschat_milvus(**place))
    (result,) = p.output("mr")(name, 5, VECTORS[0]).get()
    assert list(result.primary_keys) == [5]
    search = ops.ann_search.osschat_milvus(**place, limit=1, output_fields=["id"])
    p = pipe.input("name", "vec").map(("name", "vec"), "rows", search).output("rows")
    assert p(name, VECTORS[0]).get() == [[[5, 0, 5]]]


def test_the_pipelines_that_towhee_brings_insert_and_search(foreign):
    place = foreign()
    for name in ("insert_milvus", "search_milvus"):
        config = AutoConfig.load_config(name)
        config.host, config.collection_name = place["uri"], place["collection_name"]
        if place["token"]:
            config.user, config.password = place["token"].split(":")
        if name == "insert_milvus":
            insert = AutoPipes.pipeline(name, config=config)
        else:
            config.search_params = {"limit": 1}
            search = AutoPipes.pipeline(name, config=config)
    for number in range(4):
        (result,) = insert([number, VECTORS[number]]).get()
        assert list(result.primary_keys) == [number]
    assert search(VECTORS[3]).get() == [[[3, 0]]]


def test_flush_writes_out(foreign, milvus_itself):
    place = foreign()
    insert = insert_of(place, "id", "vec")
    insert(1, VECTORS[0])
    insert.flush()
    client = milvus_itself.client()
    assert client.get_collection_stats(NAME)["row_count"] == 1
    client.close()


def test_many_rows_of_one_pipeline_all_arrive(foreign):
    place = foreign()
    p = pipe.input("n").flat_map("n", "id", range).map("id", "vec", lambda n: np.full(4, n, np.float32))
    p = (
        p.map("vec", "vec", lambda x: x)
        .map(("id", "vec"), (), ops.ann_insert.milvus_client(**place))
        .output()
    )
    p(200)
    (rows,) = search_of(place, limit=300)(np.zeros(4)).get()
    assert [row[0] for row in rows] == list(range(200))
    assert [row[1] for row in rows] == pytest.approx([4 * n * n for n in range(200)])


def test_host_and_port_are_those_of_the_tutorials(dead_port):
    search = search_of({"host": "127.0.0.1", "port": str(dead_port), "collection_name": NAME})
    with pytest.raises(
        StoreUnavailableError, match=f"no Milvus server answers at http://127.0.0.1:{dead_port}"
    ):
        search(VECTORS[0])


@pytest.mark.parametrize(
    ("given", "uri", "token"),
    [
        ({}, "http://localhost:19530", ""),
        ({"host": "10.0.0.1", "port": "1234"}, "http://10.0.0.1:1234", ""),
        ({"user": "me", "password": "pw"}, "https://localhost:19530", "me:pw"),
        ({"uri": "http://there:1", "user": "me", "password": "pw"}, "http://there:1", "me:pw"),
        ({"uri": "https://zilliz", "token": "key"}, "https://zilliz", "key"),
        ({"host": "https://zilliz", "token": "key"}, "https://zilliz", "key"),
        ({"host": "milvus.db", "port": 1}, "milvus.db", ""),
        ({"uri": "milvus.db"}, "milvus.db", ""),
    ],
)
def test_the_hubs_words_for_a_place(hub, given, uri, token):
    arguments = {"host": "localhost", "port": 19530, **given}
    assert hub.milvus.place_of(**arguments) == {"uri": uri, "token": token}


def test_half_a_login_and_two_logins_are_refused(hub):
    with pytest.raises(
        ConfigError, match="user and password go together; of user='me' and password, one is missing"
    ):
        hub.milvus.place_of("localhost", 1, user="me")
    with pytest.raises(ConfigError, match="give token, or user and password, not both"):
        hub.milvus.place_of("localhost", 1, user="me", password="pw", token="key")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"limit": 0}, "limit must be"),
        ({"limit": 16385}, "limit must be"),
        ({"output_fields": ["*"]}, r"output_fields must be names of fields, each in its place; got '\*'"),
        ({"nprobe": 3}, "a search has no 'nprobe'; it knows limit, anns_field"),
        ({"collection_name": "no name"}, "collection_name must be letters"),
        ({"collection_name": None}, "collection_name must be letters"),
        ({"uri": "no_database"}, "uri 'no_database' must end in .db"),
    ],
)
def test_what_cannot_be_is_refused_when_the_pipeline_is_closed(asked, words):
    with pytest.raises(ConfigError, match=words):
        search_of({"uri": "milvus.db", "collection_name": NAME} | asked)


def test_close_lets_go_of_the_database(hub, tmp_path):
    uri = str(tmp_path / "milvus.db")
    client = MilvusClient(uri=uri)
    client.create_collection(NAME, dimension=4)
    client.close()
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(uri)
    place = {"uri": uri, "collection_name": NAME}
    insert_of(place, "id", "vec")(1, VECTORS[0])
    other = open_collection(uri, collection_name="other")
    assert other.space() is None
    other.close()
    assert uri in server_manager_instance._servers, "this one still uses it"
    close()
    assert uri not in server_manager_instance._servers
    assert [row[0] for row in search_of(place)(VECTORS[0]).get()[0]] == [1], "and it opens again"


def test_an_embedded_database_writes_out_what_has_become_much(tmp_path, monkeypatch, hub):
    monkeypatch.setattr("t2i_pipelines.collection.connection.FLUSH_BYTES", 3 * VECTORS[0].nbytes)
    uri = str(tmp_path / "milvus.db")
    client = MilvusClient(uri=uri)
    client.create_collection(NAME, dimension=4)
    flushed = []
    collection = hub.milvus.AnyCollection
    flush = collection.flush
    monkeypatch.setattr(collection, "flush", lambda self: (flushed.append(1), flush(self)))
    insert = insert_of({"uri": uri, "collection_name": NAME}, "id", "vec")
    for number in range(7):
        insert(number, VECTORS[0])
    client.close()
    assert len(flushed) == 2


def test_what_is_asked_for_reaches_milvus(lite_backend, monkeypatch):
    """Of two vectors, the last is searched unless another is named."""
    client = lite_backend.client()
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    params = client.prepare_index_params()
    for name in ("first", "last"):
        schema.add_field(name, DataType.FLOAT_VECTOR, dim=4)
        params.add_index(name, index_type="FLAT", metric_type="IP")
    client.create_collection(NAME, schema=schema, index_params=params)
    place = {"uri": lite_backend.uri, "collection_name": NAME}
    insert_of(place, "id", "first", "last")(1, VECTORS[0], 2 * VECTORS[0])
    asked = []
    search = MilvusClient.search
    monkeypatch.setattr(
        MilvusClient, "search", lambda *a, **more: (asked.append(more), search(*a, **more))[1]
    )
    assert search_of(place)(VECTORS[0]).get() == [[[1, 2]]]
    assert search_of(place, anns_field="first")(VECTORS[0]).get() == [[[1, 1]]]
    more = {"partition_names": ["_default"], "consistency_level": "Strong", "timeout": 7}
    search_of(place, metric_type="IP", param={"params": {"nprobe": 3}}, **more)(VECTORS[0])
    client.drop_collection(NAME)
    client.close()
    assert [one["anns_field"] for one in asked] == ["last", "first", "last"]
    assert [one["consistency_level"] for one in asked] == ["Session", "Session", "Strong"]
    assert asked[0]["limit"] == 10
    assert asked[0]["search_params"] == {"params": {}}
    assert asked[2]["search_params"] == {"metric_type": "IP", "params": {"nprobe": 3}}
    assert asked[2].items() >= more.items()
