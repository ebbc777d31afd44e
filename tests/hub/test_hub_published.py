"""The published notebooks run from their first cell to their last, in a kernel, offline.

Their cells, as ``tests/hub/published`` has them, are run after ``import t2i_pipelines.hub``; paths, sizes and
places are changed, what installs and downloads is left out, and a last cell looks at what the others made.
"""

import csv
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest
from clips import openclip_clip
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from running_notebooks import OFFLINE, ROOT, code_cells, outputs

pytestmark = pytest.mark.slow

PUBLISHED = Path(__file__).parent / "published"
DATA = ROOT / "data"


def cells_of(number: int, changes: dict[str, str]) -> list[str]:
    """The cells of a published notebook that run here, each change made wherever its text is."""
    (path,) = PUBLISHED.glob(f"{number}_*.txt")
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    cells = [cell.rstrip("\n") for cell in text.split("# %%\n")[1:]]
    return ["import t2i_pipelines.hub", *(cell for cell in cells if not cell.startswith(("!", "%pip")))]


def run(cells: list[str], folder: Path, **env: str):
    """Execute the cells in a kernel whose working directory is the folder."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}}, coalesce_streams=True,
    )  # fmt: skip
    here = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "GRADIO_ANALYTICS_ENABLED": "False"}
    client.execute(env={**os.environ, **OFFLINE, **here, **env})
    return notebook


def printed(notebook) -> str:
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stdout")


def pages(cell) -> list[str]:
    """The HTML that a cell shows."""
    return [out.data["text/html"] for out in cell.outputs if "text/html" in out.get("data", {})]


def cell_with(notebook, words: str):
    (found,) = [cell for cell in code_cells(notebook) if words in cell.source]
    return found


LITE = {"host='127.0.0.1', port='19530'": "uri='milvus.db'"}

CHECK_1 = """
from pathlib import Path
from gradio_client import Client
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.vectors import unit

assert ret.size == 0, "nothing is output"
encoder, decode = load_encoder("t2i_mini"), ops.image_decode.cv2("rgb")
vectors = np.stack([unit(encoder.encode_images([decode(path)])[0]) for path in df["path"]])
assert np.dot(p("./train/000-dog.webp").get()[1], vectors[0]) > 0.9999
some = df[::10]
exact = np.stack([unit(one) for one in encoder.encode_texts(list(some["label"]))]) @ vectors.T
places = {path: number for number, path in enumerate(df["path"])}
found = [search(label) for label in some["label"]]
for paths, cosines in zip(found, exact, strict=True):
    # in bf16 the vectors of a text and of the same text among others differ by less than this
    assert np.allclose([cosines[places[path]] for path in paths], np.sort(cosines)[::-1][:5], atol=2e-3)
right = map(list.__contains__, found, some["path"])
assert sum(right) >= 0.9 * len(some), "the image of a label is among the first five"

words = "a rocket in the night sky"
images = Client(interface.local_url, verbose=False).predict(words, api_name="/search")
assert [Path(one).read_bytes() for one in images] == [Path(one).read_bytes() for one in search(words)]
assert images[0].endswith("009-rocket.webp")
interface.close()
"""


def test_the_first_notebook_finds_images_and_shows_them_in_a_page(tmp_path):
    shutil.copytree(DATA / "gallery", tmp_path / "train")
    with (DATA / "gallery.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "reverse_image_search.csv").open("w", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "path", "label"])
        for number, row in enumerate(rows):
            table.writerow([number, f"./train/{Path(row['path']).name}", row["caption_en"]])
    changes = {
        **LITE,
        "clip_vit_base_patch16": "t2i_mini",
        "'text_image_search', 512": "'text_image_search', 768",
        "./teddy.png": "./train/000-dog.webp",
        "share=True": "share=False",
    }
    notebook = run([*cells_of(1, changes), CHECK_1], tmp_path)
    assert f"Total number of inserted data is {len(rows)}." in printed(notebook)
    (embedded,) = pages(cell_with(notebook, "DataCollection(p("))
    assert embedded.count('<img src="data:image/') == 1
    (words,) = pages(cell_with(notebook, "DataCollection(p2("))
    assert "A teddybear on a skateboard in Times Square." in words
    shown = pages(cell_with(notebook, "DataCollection(p4("))
    assert [page.count('<img src="data:image/') for page in shown] == [5, 5]
    (page,) = pages(cell_with(notebook, "interface.launch"))
    assert re.search(r'<iframe src="http://127\.0\.0\.1:\d+/" width="100%" height="500"', page)


BEFORE_2 = """
from pymilvus import MilvusClient, DataType
from towhee import ops

made = MilvusClient(uri="milvus.db")
schema = made.create_schema(auto_id=False)
schema.add_field("id", DataType.INT64, is_primary=True)
schema.add_field("url", DataType.VARCHAR, max_length=99)
schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=24)
index = made.prepare_index_params()
index.add_index("embedding", index_type="IVF_FLAT", metric_type="L2", params={"nlist": 16})
made.create_collection("text_image_search", schema=schema, index_params=index)
made.close()
embed = ops.image_text_embedding.clip(model_name="./small", modality="text")
insert = ops.ann_insert.milvus_client(uri="milvus.db", collection_name="text_image_search")
normal = ops.towhee.np_normalize()
for number, words in enumerate(["red", "a black dog.", "one two three", "a cat", "blue", "a dog", "night"]):
    insert(number, f"./train/{number}.png", normal(embed(words)))
"""
CHECK_2 = """
from pathlib import Path

folder = Path("output/train_clip_exp")
(checkpoint,) = folder.glob("checkpoint-*/pytorch_model.bin")
image = ops.image_decode()(train_results[0]["image_path"])
clip = ops.image_text_embedding.clip
vec = clip(model_name="./small", modality="image", checkpoint_path=str(checkpoint))(image)
assert vec.shape == (24,)
assert np.array_equal(vec, clip(model_name=str(folder), modality="image")(image))
assert res[0] == p_search(data).get(), "Triton answers as the pipeline does here"
server.shutdown()
"""
CIFAR = """
import numpy as np
from PIL import Image

class datasets:
    class CIFAR10:
        def __init__(self, root, train, download):
            random = np.random.default_rng(train)
            images = random.integers(0, 256, (40 if train else 20, 32, 32, 3), np.uint8)
            self.rows = [(Image.fromarray(image), number % 10) for number, image in enumerate(images)]
        def __iter__(self):
            return iter(self.rows)
"""
DOCKER = '#!/bin/sh\necho "$@" > ../docker_was_asked\nls > ../docker_was_given\n'


def test_the_second_notebook_trains_builds_and_asks_triton(tmp_path):
    openclip_clip(tmp_path / "small", quick_gelu=True)
    (tmp_path / "torchvision.py").write_text(CIFAR)
    (tmp_path / "cifar").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {
        "host=ip_addr, port='19530'": "uri='milvus.db'",
        "clip_vit_base_patch16": "./small",
        "'/tmp/": "'./cifar/",
        "'num_train_epochs': 32": "'num_train_epochs': 1",
        "'per_device_train_batch_size': 64": "'per_device_train_batch_size': 8",
        "checkpoint-5000": "checkpoint-5",
        "localhost:8000": f"localhost:{port}",
    }
    cells = cells_of(2, changes)
    cells.insert(1, BEFORE_2)
    cells.insert(-1, f"import triton_here\nserver = triton_here.start(p_search, {port})")
    notebook = run([*cells, CHECK_2], tmp_path, PATH=f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    names = ["clip_vit_base_patch16", "clip_vit_base_patch32", "clip_vit_large_patch14"]
    assert f"full model list: {str(names)[:-1]}" in printed(notebook)
    assert (tmp_path / "output/train_clip_exp/checkpoint-5/pytorch_model.bin").is_file()
    assert (tmp_path / "docker_was_asked").read_text() == "build -t text_image_search:v1 .\n"
    given = (tmp_path / "docker_was_given").read_text().split()
    assert given == ["Dockerfile", "dag.pickle", "server_config.json"]
    hits = re.findall(r"idx: (\d+), distance_score:(\d\.\d\d) , path: (\S+)", printed(notebook))
    assert len(hits) == 5
    assert hits[0] == ("1", "0.00", "./train/1.png")
    assert sorted(hits, key=lambda hit: float(hit[1])) == hits


CHECK_3 = """
files = glob("images/*")
vectors = np.stack([ops.img_embedding()(path) for path in files])

def nearest(vec):
    far = ((vectors - vec) ** 2).sum(1)
    return [(files[n], float(far[n])) for n in far.argsort()[:5]]

search = ops.ann_search.faiss_index("./faiss", 5)
for vec in (ops.text_embedding()(["吃东西的人"]), vectors[3]):
    rows, exact = search(vec), nearest(vec)
    assert [row[2] for row in rows] == [[path] for path, _ in exact]
    assert np.allclose([row[1] for row in rows], [distance for _, distance in exact], atol=1e-5)
(images,) = [image_pipe("images/000000005082.jpg").get()[1]]
assert np.array_equal(images[0], decode("images/000000005082.jpg")), "an image is nearest to itself"
"""
TOKENIZER = """
import numpy as np

def tokenize(texts, context_length):
    rows = [[ord(letter) % 97 for letter in text] for text in texts]
    return np.array([row + [0] * (context_length - len(row)) for row in rows], np.int64)
"""


def tower(path: Path, name: str, shape: list[int], kind: int, weights: np.ndarray) -> None:
    """A model of one multiplication, with the names and shapes of Chinese-CLIP's."""
    reduce = (
        [helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[56, 56], strides=[56, 56])]
        if name == "image"
        else [helper.make_node("Cast", ["text"], ["mean"], to=TensorProto.FLOAT)]
    )
    output = f"unnorm_{name}_features"
    nodes = [
        *reduce,
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def test_the_third_notebook_searches_by_faiss_in_chinese_and_by_an_image(tmp_path):
    random = np.random.default_rng(0)
    for name, shape, kind, width in (
        ("image", [1, 3, 224, 224], TensorProto.FLOAT, 48),
        ("text", [1, 52], TensorProto.INT64, 52),
    ):
        weights = random.normal(size=(width, 512)).astype(np.float32)
        tower(tmp_path / f"{name}_model.onnx", name, shape, kind, weights)
    (tmp_path / "clip_tokenizer.py").write_text(TOKENIZER)
    (tmp_path / "images").mkdir()
    for name in ("pokemon.jpeg", *(f"images/{number:012}.jpg" for number in range(5076, 5085))):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / name)
    notebook = run([*cells_of(3, {}), CHECK_3], tmp_path)
    shown = [
        page for pipe in ("text_pipe(", "image_pipe(") for page in pages(cell_with(notebook, f"({pipe}"))
    ]
    assert [page.count('<img src="data:image/') for page in shown] == [5, 5]
    assert "吃东西的人" in shown[0]
    assert sorted(path.name for path in (tmp_path / "faiss").iterdir()) == ["index.bin", "kv.bin"]
