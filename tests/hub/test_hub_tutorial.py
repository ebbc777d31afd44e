# ruff: noqa: E501 - as published
"""The pipelines of Towhee's text-image tutorial, as published but for model name and uri, on the gallery.

"Build a Milvus Powered Text-Image Search Engine in Minutes", towhee-io/examples, Apache-2.0.
"""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from reading_html import Parsed

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.vectors import unit
from t2i_pipelines.images import decode

pytest_plugins = ["old_notebooks"]
pytestmark = [
    pytest.mark.slow,
    # the tutorials create their collections so
    pytest.mark.filterwarnings("ignore:.*ORM-style PyMilvus API"),
]

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def gallery() -> list[dict[str, str]]:
    with (DATA / "gallery.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def vectors(gallery):
    """Of the images, computed without Towhee and Milvus."""
    encoder = load_encoder("t2i_mini")
    files = [DATA / row["path"] for row in gallery]
    pictures = [decode(file.read_bytes(), str(file)) for file in files]
    return np.stack([unit(vector) for vector in encoder.encode_images(pictures)])


@pytest.fixture
def notebook(hub, gallery, tmp_path, monkeypatch):
    """The folder that the tutorial unpacks: images, and a table of ``id``, ``path`` and ``label``."""
    monkeypatch.chdir(tmp_path)
    Path("train").symlink_to(DATA / "gallery")
    with Path("reverse_image_search.csv").open("w", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "path", "label"])
        for number, row in enumerate(gallery):
            table.writerow([number, f"./train/{Path(row['path']).name}", row["caption_en"]])


@pytest.fixture
def collection(notebook):
    from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections, utility

    def create_milvus_collection(collection_name, dim):
        connections.connect(uri="milvus.db")

        if utility.has_collection(collection_name):
            utility.drop_collection(collection_name)

        fields = [
            FieldSchema(name="id", dtype=DataType.INT64, descrition="ids", is_primary=True, auto_id=False),
            FieldSchema(
                name="embedding", dtype=DataType.FLOAT_VECTOR, descrition="embedding vectors", dim=dim
            ),
        ]
        schema = CollectionSchema(fields=fields, description="text image search")
        collection = Collection(name=collection_name, schema=schema)

        # create IVF_FLAT index for collection.
        index_params = {"metric_type": "L2", "index_type": "IVF_FLAT", "params": {"nlist": 512}}
        collection.create_index(field_name="embedding", index_params=index_params)
        return collection

    yield create_milvus_collection("text_image_search", 768)
    connections.disconnect("default")


def read_csv(csv_path, encoding="utf-8-sig"):
    import csv

    with open(csv_path, "r", encoding=encoding) as f:  # noqa: PTH123, UP015 - as published
        data = csv.DictReader(f)
        for line in data:
            yield int(line["id"]), line["path"]


def read_image(image_ids):
    import pandas as pd
    from towhee import ops

    df = pd.read_csv("reverse_image_search.csv")
    id_img = df.set_index("id")["path"].to_dict()
    imgs = []
    decode = ops.image_decode.cv2("rgb")
    for image_id in image_ids:
        path = id_img[image_id]
        imgs.append(decode(path))
    return imgs


@pytest.fixture
def inserted(collection):
    from towhee import ops, pipe

    p3 = (
        pipe.input('csv_file')
        .flat_map('csv_file', ('id', 'path'), read_csv)
        .map('path', 'img', ops.image_decode.cv2('rgb'))
        .map('img', 'vec', ops.image_text_embedding.clip(model_name='t2i_mini', modality='image', device=0))
        .map('vec', 'vec', lambda x: x / np.linalg.norm(x))
        .map(('id', 'vec'), (), ops.ann_insert.milvus_client(uri='milvus.db', collection_name='text_image_search'))
        .output()
    )  # fmt: skip

    ret = p3("reverse_image_search.csv")
    assert ret.size == 0, "nothing is output"
    collection.load()
    return collection


def test_p_and_p2_embed_one_picture_and_one_text(notebook, vectors, capsys, displayed):
    from towhee import DataCollection, ops, pipe

    p = (
        pipe.input('path')
        .map('path', 'img', ops.image_decode.cv2('rgb'))
        .map('img', 'vec', ops.image_text_embedding.clip(model_name='t2i_mini', modality='image'))
        .map('vec', 'vec', lambda x: x / np.linalg.norm(x))
        .output('img', 'vec')
    )  # fmt: skip
    DataCollection(p("./train/000-dog.webp")).show()
    assert re.search(r"Image shape=\(\d+, \d+, 3\) mode=RGB .* shape=\(768,\)", capsys.readouterr().out)
    img, vec = p("./train/000-dog.webp").get()
    assert img.mode == "RGB"
    assert np.dot(vec, vectors[0]) > 0.9999

    p2 = (
        pipe.input('text')
        .map('text', 'vec', ops.image_text_embedding.clip(model_name='t2i_mini', modality='text'))
        .map('vec', 'vec', lambda x: x / np.linalg.norm(x))
        .output('text', 'vec')
    )  # fmt: skip
    DataCollection(p2("A teddybear on a skateboard in Times Square.")).show()
    assert "A teddybear on a skateboard" in capsys.readouterr().out
    assert displayed == [], "a terminal"
    DataCollection(p("./train/000-dog.webp")).show(tablefmt="html")
    assert len(Parsed(displayed[0]).values("src")) == 1


def test_p3_p4_and_the_search_pipeline_find_the_right_pictures(inserted, gallery, vectors, capsys):
    from towhee import DataCollection, ops, pipe

    assert inserted.num_entities == len(gallery)

    p4 = (
        pipe.input('text')
        .map('text', 'vec', ops.image_text_embedding.clip(model_name='t2i_mini', modality='text'))
        .map('vec', 'vec', lambda x: x / np.linalg.norm(x))
        .map('vec', 'result', ops.ann_search.milvus_client(uri='milvus.db', collection_name='text_image_search', limit=5))
        .map('result', 'image_ids', lambda x: [item[0] for item in x])
        .map('image_ids', 'images', read_image)
        .output('text', 'images')
    )  # fmt: skip

    DataCollection(p4("A white dog")).show()
    DataCollection(p4("A black dog")).show()
    shown = capsys.readouterr().out
    assert "A white dog" in shown
    assert "A black dog" in shown
    assert shown.count("mode=RGB") >= 2 * 4, "a terminal shows four of a list"
    text, images = p4("a rocket in the night sky").get()
    (rocket,) = read_image([9])
    assert (text, len(images)) == ("a rocket in the night sky", 5)
    assert np.array_equal(images[0], rocket)

    search_pipeline = (
        pipe.input('text')
        .map('text', 'vec', ops.image_text_embedding.clip(model_name='t2i_mini', modality='text'))
        .map('vec', 'vec', lambda x: x / np.linalg.norm(x))
        .map('vec', 'result', ops.ann_search.milvus_client(uri='milvus.db', collection_name='text_image_search', limit=5))
        .map('result', 'image_ids', lambda x: [item[0] for item in x])
        .output('image_ids')
    )  # fmt: skip

    def search(text):
        import pandas as pd

        df = pd.read_csv("reverse_image_search.csv")
        id_img = df.set_index("id")["path"].to_dict()
        image_ids = search_pipeline(text).to_list()[0][0]
        return [id_img[image_id] for image_id in image_ids]

    texts = [row["caption_en"] for row in gallery[::10]]
    exact = np.stack([unit(one) for one in load_encoder("t2i_mini").encode_texts(texts)]) @ vectors.T
    places = {Path(row["path"]).name: number for number, row in enumerate(gallery)}
    for text, cosines in zip(texts, exact, strict=True):
        found = [cosines[places[Path(path).name]] for path in search(text)]
        # in bf16 the vectors of a text and of the same text among others differ by less than this
        assert found == pytest.approx(np.sort(cosines)[::-1][:5], abs=2e-3)
    right = [Path(gallery[10 * n]["path"]).name in map(as_name, search(text)) for n, text in enumerate(texts)]
    assert sum(right) >= 0.9 * len(texts), "the image of a caption is among the first five"


def as_name(path: str) -> str:
    return Path(path).name
