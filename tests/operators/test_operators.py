"""Each operator works on its own, on one item or on a list, and in a batch as the contract says."""

import copy
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from conftest import paint

from t2i_pipelines import Hit
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import (
    ConfigError,
    EncodeError,
    ImageDecodeError,
    QueryError,
    SourceError,
    UnknownModelError,
    VectorError,
)
from t2i_pipelines.images import distinct_records
from t2i_pipelines.operators import OPERATORS
from t2i_pipelines.operators.base import Outcomes
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.operators.milvus import MilvusInsert
from t2i_pipelines.operators.normalize import Normalize
from t2i_pipelines.operators.read import ReadSource
from t2i_pipelines.types import Batch, Record


def batch_of(source) -> Batch:
    batch = Batch(distinct_records(source))
    batch.last = True
    return batch


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_an_operator_is_never_copied(operator):
    needed = [one for one in signature(operator).parameters.values() if one.default is one.empty]
    one = operator(**{one.name: {} for one in needed if one.kind is not one.VAR_KEYWORD})
    assert copy.deepcopy(one) is one


def test_decode_takes_a_path_bytes_or_an_array_and_gives_rgb(pictures):
    decode = ops.t2i.image_decode()
    path = pictures / "red.png"
    image = decode(str(path))
    assert (image.shape, image.dtype, image.mode) == ((12, 16, 3), np.uint8, "RGB")
    assert image[0, 0].tolist() == [255, 0, 0]
    for same in (decode(path), decode(path.read_bytes()), decode(np.asarray(image))):
        assert np.array_equal(same, image)


def test_decode_takes_a_list_and_keeps_its_order(pictures):
    images = ops.t2i.image_decode()([pictures / "red.png", pictures / "blue.png"])
    assert [image[0, 0].tolist() for image in images] == [[255, 0, 0], [0, 0, 255]]


def test_decode_names_the_file_that_it_cannot_read(pictures):
    (pictures / "bad.png").write_bytes(b"bad")
    with pytest.raises(ImageDecodeError, match=r"cannot read image .*bad\.png: not an image"):
        ops.t2i.image_decode()([str(pictures / "red.png"), str(pictures / "bad.png")])
    with pytest.raises(ImageDecodeError, match="an image is a path, .* or an array; got int"):
        ops.t2i.image_decode()(5)


def test_decode_for_a_model_gives_what_that_model_sees(pictures):
    image = ops.t2i.image_decode(model_name="colour")(pictures / "red.png")
    assert image.tolist() == [[[255, 0, 0]]]


def test_clip_embeds_pictures_and_texts_into_one_space():
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    image, text = ops.t2i.clip(model_name="colour"), ops.t2i.clip(model_name="colour", modality="text")
    assert image(red).tolist() == text("red").tolist() == [1, 0, 0]
    assert [vector.tolist() for vector in text(["red", "green"])] == [[1, 0, 0], [0, 1, 0]]
    assert [vector.shape for vector in image([red])] == [(3,)]
    assert image([]) == []


@pytest.mark.parametrize("query", ["", "  \n", ["red", ""]])
def test_an_empty_query_is_refused(query):
    with pytest.raises(QueryError, match="the query is empty: .*; say what to look for"):
        ops.t2i.clip(model_name="colour", modality="text")(query)


def test_a_query_that_is_no_text_is_refused():
    with pytest.raises(QueryError, match="a query is a text; got int"):
        ops.t2i.clip(model_name="colour", modality="text")(7)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), r"got float32 \(4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "the image has no pixels"),
        ("red.png", "got str; see ops.t2i.image_decode"),
    ],
)
def test_what_is_no_picture_is_refused_by_clip(image, message):
    with pytest.raises(EncodeError, match=message):
        ops.t2i.clip(model_name="colour")(image)


def test_an_unknown_model_lists_the_known():
    with pytest.raises(UnknownModelError, match="unknown model 'colours'; the nearest are colour"):
        load_encoder("colours")


def test_an_unknown_modality_is_refused():
    with pytest.raises(ConfigError, match="modality must be 'image' or 'text', got 'sound'"):
        Clip(modality="sound")


def test_normalize_gives_unit_length():
    assert ops.t2i.normalize()(np.array([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert [one.tolist() for one in ops.t2i.normalize()([[0, 2], [5, 0]])] == [[0, 1], [1, 0]]
    assert ops.t2i.normalize()([1, 0, 0][:0]) == []


@pytest.mark.parametrize("vector", [np.zeros(3), np.array([np.nan, 1]), np.array([np.inf, 1]), np.eye(2)])
def test_a_vector_without_a_direction_is_refused(vector):
    with pytest.raises(VectorError, match=r"a vector (of length|has one axis)"):
        ops.t2i.normalize()(vector)


def test_insert_and_search_work_on_columns_rows_and_lists(settings):
    settings = {**settings, "uri": str(settings["uri"])}
    insert, search = ops.t2i.milvus_insert(**settings), ops.t2i.milvus_search(**settings, limit=2)
    red, green, blue = np.eye(3, dtype=np.float32)
    one = insert("/red.png", red)
    two = insert(["/green.png", "/blue.png"], [green, blue])
    three = insert({"path": "/teal.png", "vector": green + blue, "id": "teal", "year": 2015})
    assert isinstance(one, str)
    assert len({one, *two, three}) == 4
    hits = search(red)
    assert isinstance(hits[0], Hit)
    assert (hits[0].path, hits[0].score) == ("/red.png", pytest.approx(1))
    assert [[hit.path for hit in found[:1]] for found in search([green, blue])] == [
        ["/green.png"],
        ["/blue.png"],
    ]
    assert search(np.stack([green, blue])) == search([green, blue])
    assert search([]) == []


def test_hits_carry_the_output_fields_after_id_score_and_path(settings):
    settings = {**settings, "uri": str(settings["uri"])}
    ops.t2i.milvus_insert(**settings)([{"path": "/a.png", "vector": [1, 0, 0], "year": 2015, "tag": "x"}])
    for fields, values in ((["tag", "year"], ["x", 2015]), (["year", "tag"], [2015, "x"])):
        (hit,) = ops.t2i.milvus_search(**settings, output_fields=fields)(np.array([1, 0, 0]))
        id, score, path, *rest = hit
        assert (hit.id, hit.score, hit.path, rest) == (id, score, path, values)
    (hit,) = ops.t2i.milvus_search(**settings, output_fields=["tag", "year"])(np.array([1, 0, 0]))
    assert hit.fields == {"tag": "x", "year": 2015}
    assert copy.deepcopy(hit) == hit
    assert repr(hit) == f"Hit(id={id!r}, score=1.000, path='/a.png', tag='x', year=2015)"


def test_a_row_needs_a_path_and_a_vector(settings):
    settings = {**settings, "uri": str(settings["uri"])}
    with pytest.raises(
        ConfigError, match="a row is a mapping with a path and a vector; got {'path': '/a.png'}"
    ):
        ops.t2i.milvus_insert(**settings)({"path": "/a.png"})


def test_the_source_comes_in_batches_and_the_last_one_knows_it(pictures):
    batches = list(ReadSource(batch_size=3)(pictures))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [batch.last for batch in batches] == [False, False, True]


def test_records_that_have_a_status_are_passed_by(pictures):
    batch = batch_of([pictures / "red.png", "/no/such.png", pictures / "blue.png"])
    before = batch[1].reason
    for operator in (ImageDecode(), Clip("colour"), Normalize()):
        assert operator(batch) is batch
    assert batch[1].reason == before
    assert [record.vector is None for record in batch] == [False, True, False]


def test_items_3_and_17_fail_and_every_id_keeps_its_own_vector(tmp_path, settings):
    shades = [(10 * n + 5, 255 - 10 * n, 128) for n in range(20)]
    paths = [paint(tmp_path / f"{n:02}.png", shade) for n, shade in enumerate(shades)]
    paths[3].write_bytes(b"bad")
    paint(paths[17], (0, 0, 0))  # decodes, but has no direction
    batch = batch_of(paths)
    settings = {**settings, "uri": str(settings["uri"])}
    for operator in (ImageDecode("colour"), Clip("colour"), Normalize(), MilvusInsert(**settings)):
        operator(batch)
    rows = Outcomes()(batch)
    assert [n for n, row in enumerate(rows) if row[2] == "failed"] == [3, 17]
    assert [n for n, row in enumerate(rows) if row[2] == "inserted"] == [
        n for n in range(20) if n not in (3, 17)
    ]
    collection = open_collection(uri=settings["uri"])
    for n, shade in enumerate(shades):
        if n not in (3, 17):
            (hit,) = collection.search(np.array([shade], np.float32), limit=1)[0]
            assert (Path(hit.path), hit.id) == (paths[n], batch[n].id)


def test_pixels_leave_a_record_as_soon_as_they_are_encoded(pictures):
    batch = batch_of(pictures)
    ImageDecode()(batch)
    assert all(record.image is not None for record in batch)
    Clip("colour")(batch)
    assert all(record.image is None and record.vector is not None for record in batch)


@pytest.mark.parametrize("operator", [ImageDecode(on_error="raise"), ReadSource(on_error="raise")])
def test_on_error_raise_stops_at_the_first_and_names_the_file(tmp_path, operator):
    good = paint(tmp_path / "good.png", "red")
    if isinstance(operator, ReadSource):
        with pytest.raises(SourceError, match="cannot read image /no/such.png: No such file"):
            list(operator([good, "/no/such.png"]))
    else:
        (tmp_path / "bad.png").write_bytes(b"bad")
        with pytest.raises(ImageDecodeError, match=r"cannot read image .*bad\.png"):
            operator(batch_of([good, tmp_path / "bad.png"]))


def test_one_picture_named_twice_is_stored_once(pictures, settings):
    settings = {**settings, "uri": str(settings["uri"])}
    batch = batch_of([pictures / "red.png", pictures / "red.png"])
    for operator in (ImageDecode("colour"), Clip("colour"), Normalize(), MilvusInsert(**settings)):
        operator(batch)
    assert [record.status for record in batch] == ["inserted", "skipped"]
    assert open_collection(uri=settings["uri"]).count() == 1


def test_two_pictures_with_one_id_are_not_mixed_up(pictures, settings):
    settings = {**settings, "uri": str(settings["uri"])}
    rows = [{"path": pictures / f"{name}.png", "id": "k"} for name in ("red", "blue")]
    batch = batch_of(rows)
    for operator in (ImageDecode("colour"), Clip("colour"), Normalize(), MilvusInsert(**settings)):
        operator(batch)
    assert [record.status for record in batch] == ["inserted", "failed"]
    assert "id 'k' of" in batch[1].reason
    assert "blue.png is already that of" in batch[1].reason


def test_a_row_that_milvus_cannot_hold_fails_alone(pictures, settings):
    settings = {**settings, "uri": str(settings["uri"])}
    rows = [{"path": pictures / "red.png"}, {"path": pictures / "blue.png", "odd": object()}]
    batch = batch_of(rows)
    for operator in (ImageDecode("colour"), Clip("colour"), Normalize(), MilvusInsert(**settings)):
        operator(batch)
    assert [record.status for record in batch] == ["inserted", "failed"]
    assert batch[1].reason.startswith(f"cannot insert {pictures / 'blue.png'}: ")


def test_a_record_that_nobody_finished_counts_as_failed():
    reason = "/a.png: no step of the pipeline finished it"
    assert Outcomes()(Batch([Record("/a.png", "k")])) == [("/a.png", "k", "failed", reason)]
