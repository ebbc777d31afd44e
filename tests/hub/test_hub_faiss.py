"""``ann_insert.faiss_index`` and ``ann_search.faiss_index``: rows, files, and what is refused."""

import gc
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np
import pytest
from test_import import run
from towhee import ops, pipe

from t2i_pipelines.errors import (
    CollectionNotFoundError,
    ConfigError,
    MissingExtraError,
    StoreError,
    VectorError,
)

pytest_plugins = ["old_notebooks"]
pytestmark = pytest.mark.usefixtures("hub")

VECTORS = np.eye(4, dtype=np.float32) * [[1], [2], [3], [4]]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "new" / "faiss"


def insert_into(folder, dimension=4, columns=("vec", "name")):
    insert = ops.ann_insert.faiss_index(str(folder), dimension)
    return pipe.input(*columns).map(columns, (), insert).output()


def search_in(folder, *limit):
    search = ops.ann_search.faiss_index(str(folder), *limit)
    return pipe.input("vec").map("vec", "row", search).output("row")


@pytest.fixture
def filled(folder):
    insert = insert_into(folder)
    for number, vector in enumerate(VECTORS):
        insert(vector, f"{number}.png")
    insert.flush()
    return folder


def test_a_search_gives_number_squared_distance_and_fields_nearest_first(filled):
    assert search_in(filled)(VECTORS[1].astype(np.float64)).get() == [
        [[1, 0, ["1.png"]], [0, 5, ["0.png"]], [2, 13, ["2.png"]], [3, 20, ["3.png"]]]
    ]
    assert search_in(filled, 1)(VECTORS[3].tolist()).get() == [[[3, 0, ["3.png"]]]]


def test_five_are_found_where_no_number_is_given(folder):
    insert = insert_into(folder)
    for number in range(7):
        insert([number, 0, 0, 0], "same")
    (rows,) = search_in(folder)(np.zeros(4)).get()
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]


def test_rows_come_one_by_one_from_flat_map_as_documented(filled):
    rows = pipe.input("vec").flat_map("vec", "rows", ops.ann_search.faiss_index(str(filled), 2))
    p = rows.map("rows", ("id", "score"), lambda x: (x[0], x[1])).output("id", "score")
    assert p(VECTORS[0]).to_list() == [[0, 0], [1, 5]]


def test_the_files_are_those_of_towhees_own_index(filled):
    assert sorted(path.name for path in filled.iterdir()) == ["index.bin", "kv.bin"]
    index = faiss.read_index(str(filled / "index.bin"))
    assert (index.ntotal, index.d, index.metric_type) == (4, 4, faiss.METRIC_L2)
    assert json.loads((filled / "kv.bin").read_text()) == {str(n): [f"{n}.png"] for n in range(4)}


def test_another_process_finds_what_was_flushed_and_what_it_ends_with(folder):
    answers = run(f"""
        import t2i_pipelines.hub
        from towhee import ops, pipe
        p = pipe.input("vec", "name").map(("vec", "name"), (), ops.ann_insert.faiss_index({str(folder)!r}, 2))
        p = p.output()
        p([1, 0], "one")
        p.flush()
        p([0, 1], "two")
        print("done")
    """)
    assert answers == "done"
    assert search_in(folder)([0, 1]).get() == [[[1, 0, ["two"]], [0, 2, ["one"]]]]


def test_deleting_the_pipeline_writes_what_waits(folder):
    insert = insert_into(folder)
    insert(VECTORS[0], "a")
    assert not folder.exists()
    del insert
    gc.collect()
    assert faiss.read_index(str(folder / "index.bin")).ntotal == 1


def test_a_search_in_the_same_process_needs_no_flush(folder):
    insert, search = insert_into(folder), search_in(folder)
    for number in range(3):
        insert(VECTORS[number], number)
        assert search(VECTORS[number]).get()[0][0] == [number, 0, [number]]


def test_rows_are_added_to_those_that_are_there(filled):
    again = insert_into(filled, None)
    again(VECTORS[2], "again")
    assert search_in(filled, 2)(VECTORS[2]).get() == [[[2, 0, ["2.png"]], [4, 0, ["again"]]]]


def test_rows_that_another_process_wrote_are_kept(filled):
    insert = insert_into(filled)
    insert(VECTORS[0], "here")
    run(f"""
        import t2i_pipelines.hub
        from towhee import ops
        ops.ann_insert.faiss_index({str(filled)!r})([0, 0, 0, 9], "there")
    """)
    insert.flush()
    (rows,) = search_in(filled, 9)([0, 0, 0, 9]).get()
    assert [rows[0], sorted(row[0] for row in rows)] == [[4, 0, ["there"]], [0, 1, 2, 3, 4, 5]]


def test_a_folder_that_was_deleted_starts_empty(filled):
    insert, search = insert_into(filled), search_in(filled)
    assert len(search(VECTORS[0]).get()[0]) == 4
    shutil.rmtree(filled)
    with pytest.raises(CollectionNotFoundError):
        search(VECTORS[0])
    insert(np.ones(4), "first")
    assert search(np.ones(4)).get() == [[[0, 0, ["first"]]]]


def test_fields_come_back_as_they_were_given(folder):
    insert = insert_into(folder, 4, ("vec", "path", "count", "more"))
    insert(VECTORS[0], Path("a/吃.png"), np.int64(3), {"labels": ["猫", np.float32(0.5), None]})
    assert search_in(folder)(VECTORS[0]).get() == [
        [[0, 0, ["a/吃.png", 3, {"labels": ["猫", 0.5, None]}]]],
    ]
    operator = ops.ann_insert.faiss_index(str(folder))
    operator(VECTORS[3])
    assert search_in(folder, 1)(VECTORS[3]).get() == [[[1, 0, []]]]


def test_many_rows_of_one_pipeline_all_arrive(folder):
    p = pipe.input("n").flat_map("n", "id", range).map("id", "vec", lambda n: np.full(4, n, np.float32))
    p.map(("vec", "id"), (), ops.ann_insert.faiss_index(str(folder), 4)).output()(200)
    (rows,) = search_in(folder, 300)(np.zeros(4)).get()
    assert [row[2] for row in rows] == [[number] for number in range(200)]


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (np.ones(3), r"vec: the vector has shape \(3,\), the collection holds \(4,\)"),
        (np.ones((1, 4)), r"vec: the vector has shape \(1, 4\), the collection holds \(4,\)"),
        ([1, 2, np.nan, 4], "vec: the vector is not finite: nan at 2"),
        ("words", "vec: the vector is not made of numbers"),
    ],
)
@pytest.mark.parametrize("dimension", [4, None])
def test_vectors_that_do_not_fit_are_refused(filled, dimension, vector, words):
    with pytest.raises(VectorError, match=words):
        insert_into(filled, dimension)(vector, "x")
    with pytest.raises(VectorError, match=words.replace("vec:", "query:")):
        search_in(filled)(vector)


def test_rows_of_two_dimensions_are_refused_before_anything_is_written(folder):
    insert = insert_into(folder, None)
    insert(np.ones(3), "x")
    with pytest.raises(VectorError, match=r"has shape \(2,\), the collection holds \(3,\)"):
        insert(np.ones(2), "y")
    assert not folder.exists()


def test_the_folder_is_the_one_that_was_meant_when_the_pipeline_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here, home = insert_into("./faiss"), insert_into("~/faiss")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for insert in (here, home):
        insert(VECTORS[0], "a")
        insert.flush()
    assert sorted(path.parent.parent.name for path in tmp_path.rglob("index.bin")) == ["home", tmp_path.name]


def test_another_dimension_than_the_files_have_is_refused(filled):
    with pytest.raises(ConfigError, match=r"index.bin has dimension 4; got dimension=512"):
        insert_into(filled, 512)(np.ones(512), "x")


def test_a_field_that_is_not_json_is_refused_by_its_value(folder):
    words = "texts, numbers, lists and dicts beside a vector; got .*<object object at .*: object is not JSON"
    with pytest.raises(ConfigError, match=words):
        insert_into(folder)(VECTORS[0], object())


def test_a_folder_without_an_index_is_named(folder):
    with pytest.raises(
        CollectionNotFoundError, match=r"there is no .*faiss/index.bin; insert by ops.ann_insert.faiss_index"
    ):
        search_in(folder)(VECTORS[0])


@pytest.mark.parametrize("name", ["index.bin", "kv.bin"])
def test_damaged_files_are_named_with_the_way_out(filled, name):
    insert_into(filled).flush()
    with (filled / "index.bin").open("r+b") as file:  # so that it is read again
        file.seek(0, 2)
        file.write(b" ")
    (filled / name).write_bytes(b"damaged")
    with pytest.raises(
        StoreError, match=rf"{name} cannot be read: .*; delete the folder .* and insert again"
    ):
        search_in(filled)(VECTORS[0])


def test_a_folder_that_cannot_be_written_is_named_and_rows_wait(folder):
    folder.parent.mkdir()
    folder.write_text("a file")
    insert = insert_into(folder)
    insert(VECTORS[0], "a")
    with pytest.raises(StoreError, match=r"cannot write the index to .*faiss: .*File exists"):
        insert.flush()
    folder.unlink()
    insert.flush()
    assert search_in(folder)(VECTORS[0]).get() == [[[0, 0, ["a"]]]]


def test_what_cannot_be_is_refused_when_the_pipeline_is_closed(folder):
    for operator, words in (
        (ops.ann_insert.faiss_index(str(folder), 0), "dimension must be between 1 and 32768, got 0"),
        (ops.ann_insert.faiss_index(str(folder), "512"), "dimension must be a whole number, got '512'"),
        (ops.ann_search.faiss_index(str(folder), 0), "top_k must be between 1 and 16384, got 0"),
        (ops.ann_search.faiss_index(str(folder), limit=5), "ann-search/faiss-index: .*argument 'limit'"),
    ):
        with pytest.raises(ConfigError, match=words):
            pipe.input("vec").map("vec", "row", operator).output("row")


def test_without_faiss_one_sentence_names_the_extra(hub, folder, monkeypatch):
    monkeypatch.setattr(hub.faiss, "find_spec", lambda name: None if name == "faiss" else find_spec(name))
    words = r"^faiss-cpu is not installed; run: pip install 't2i-pipelines\[faiss\]'$"
    for build in (insert_into, search_in):
        with pytest.raises(MissingExtraError, match=words):
            build(folder)
