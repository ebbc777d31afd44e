"""What each engine takes of how a collection shall be stored, and that it then stores it."""

import pytest
from stored import SPACE, made, random_units, row

from t2i_pipelines.config.storage import Storage
from t2i_pipelines.errors import ConfigError

pytest_plugins = ["milvus_backends"]


@pytest.fixture(scope="module", params=["memory_backend", "lite_backend", "lite_server_backend"])
def keyed(request):
    """A collection with a partition key. The server of the tests, a 2.3, refuses one: see below."""
    with made(request.getfixturevalue(request.param).open("keyed", partition_key="album")) as collection:
        yield collection


@pytest.fixture
def store(keyed):
    keyed.write("delete", filter='id != ""')
    return keyed


def ids(hits):
    return sorted(hit.id for hit in hits)


def test_it_is_described_as_it_was_asked_for(keyed):
    assert keyed.catalog.find().storage == Storage(partition_key="album")


def test_rows_are_found_by_their_partition_key(store):
    vectors = random_units(40, seed=3)
    albums = ["Rome", 'a "quoted" one', "", "Ünïcode 猫"]
    store.upsert([row(f"{at:02}", one, album=albums[at % 4], n=at) for at, one in enumerate(vectors)])
    for number, album in enumerate(albums):
        (hits,) = store.search(vectors[:1], where={"album": album}, limit=40, output_fields=["album", "n"])
        assert ids(hits) == [f"{at:02}" for at in range(number, 40, 4)]
        assert {hit.fields["album"] for hit in hits} == {album}
    for asked in [("in", ["Rome", ""]), ("like", "R%")]:
        (hits,) = store.search(vectors[:1], where={"album": asked, "n": ("<", 8)}, limit=40)
        assert ids(hits) == (["00", "02", "04", "06"] if asked[0] == "in" else ["00", "04"])
    (hits,) = store.search(vectors[:1], limit=40)
    assert len(hits) == 40


def test_a_row_without_the_key_meets_no_condition_on_it(store):
    one, other, none = random_units(3)
    store.upsert([row("one", one, album="x"), row("other", other, album="y"), row("none", none)])
    for asked, expected in [
        (("!=", "x"), ["other"]),
        (("not in", ["x"]), ["other"]),
        (None, ["none"]),
        (("!=", None), ["one", "other"]),
    ]:
        (hits,) = store.search(one[None], where={"album": asked})
        assert ids(hits) == expected, asked


def test_a_row_that_moves_to_another_partition_leaves_the_first(store):
    (vector,) = random_units(1)
    for album in ("x", "y", "z"):
        store.upsert([row("a", vector, album=album)])
        assert store.count() == 1
        (hits,) = store.search(vector[None], output_fields=["album"])
        assert [(hit.id, hit.fields["album"]) for hit in hits] == [("a", album)]
    store.delete(["a"])
    assert store.count() == 0


def test_grouping_by_the_key_leaves_the_best_of_each(store):
    vectors = random_units(30, seed=4)
    store.upsert([row(f"{at:02}", one, album="xyz"[at % 3]) for at, one in enumerate(vectors)])
    (hits,) = store.search(vectors[:1], group_by="album")
    (every,) = store.search(vectors[:1], limit=30, output_fields=["album"])
    best = {hit.fields["album"]: hit.id for hit in reversed(every)}
    assert ids(hits) == sorted(best.values())


def test_the_key_is_a_column_of_metadata(store):
    vectors = random_units(3, seed=6)
    store.upsert([row(f"{at}", one, album="xyx"[at], n=at) for at, one in enumerate(vectors)])
    assert store.columns() == {"album": "string", "n": "integer"}
    assert store.values("album").counts == [("x", 2), ("y", 1)]


@pytest.mark.milvus
@pytest.mark.xdist_group("milvus")
def test_a_server_reads_from_disk_and_finds_the_same(milvus_server_backend):
    collection = milvus_server_backend.open("mapped", mmap=True, index_type="HNSW")
    collection.drop()
    collection.prepare(SPACE)
    vectors = random_units(1500, seed=5)
    collection.upsert([row(f"{at:04}", one) for at, one in enumerate(vectors)])
    collection.flush()
    collection._call("release_collection")
    found = collection.search(vectors[:50], limit=1)
    assert [hits[0].id for hits in found] == [f"{at:04}" for at in range(50)]
    assert collection.catalog.find().storage == Storage(mmap=True)
    collection.drop()


@pytest.mark.parametrize(
    "setting",
    [
        {"vector_type": "FLOAT16_VECTOR"},
        {"replica_number": 2},
        {"index_type": "IVF_RABITQ"},
        {"partition_key": "album"},
        {"mmap": True},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_the_engine_can_do_is_made_and_what_it_cannot_is_refused(milvus_backend, setting):
    """The server of the tests is a 2.3 with one query node."""
    ((name, value),) = setting.items()
    if name == ("mmap" if milvus_backend.name == "server" else "partition_key"):
        milvus_backend.open("taken", **setting).prepare(SPACE)
        milvus_backend.open("taken").drop()
        return
    with pytest.raises(ConfigError, match=f"{name} ?(={value!r} needs|must be one of)"):
        milvus_backend.open("refused", **setting).prepare(SPACE)
    assert milvus_backend.open("refused").space() is None
