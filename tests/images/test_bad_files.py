"""Bad files in a folder: each is told, and each good one is in."""

import random
import shutil
from pathlib import Path

import pytest

from t2i_pipelines import harden, insert_steps
from t2i_pipelines._towhee.door import ops, pipe
from t2i_pipelines.collection import open_collection

GALLERY = Path(__file__).parents[2] / "data" / "gallery"


@pytest.mark.slow
@pytest.mark.parametrize("close_pipeline", [harden, lambda plain: plain], ids=["hardened", "plain"])
def test_of_a_folder_with_bad_files_each_good_one_finds_itself_and_each_bad_one_is_told(
    tmp_path, close_pipeline
):
    """5 % of the files end somewhere, or are something else."""
    rng = random.Random(5)
    folder = tmp_path / "gallery"
    shutil.copytree(GALLERY, folder)
    files = sorted(folder.iterdir())
    bad = rng.sample(files, len(files) // 20)
    for number, file in enumerate(bad):
        data = file.read_bytes()
        cut = data[: rng.randrange(len(data) * 9 // 10)]
        file.write_bytes([cut, b"", rng.randbytes(len(data))][number % 5 // 2])
    settings = {"uri": str(tmp_path / "x.db"), "model_name": "t2i_mini"}
    columns = ("path", "status", "reason")
    insert = close_pipeline(insert_steps(pipe.input("source"), **settings).output(*columns))
    rows = insert(str(folder)).to_list()
    assert [path for path, _, _ in rows] == [str(file) for file in files]
    failed = {path: reason for path, status, reason in rows if status == "failed"}
    assert failed.keys() == {str(file) for file in bad}
    assert all(path in reason for path, reason in failed.items())
    assert {status for path, status, _ in rows if path not in failed} == {"inserted"}
    good = [str(file) for file in files if file not in bad]
    collection = open_collection(settings["uri"])
    assert collection.count() == len(good) == 285
    vector = ops.t2i.clip(model_name="t2i_mini", modality="image")
    search = harden(
        pipe.input("path")
        .map("path", "image", ops.t2i.image_decode(model_name="t2i_mini"))
        .map("image", "vector", vector)
        .map("vector", "vector", ops.t2i.normalize())
        .map("vector", "hits", ops.t2i.milvus_search(**settings, limit=1))
        .output("hits")
    )
    assert [search(path).get()[0][0].path for path in good] == good
