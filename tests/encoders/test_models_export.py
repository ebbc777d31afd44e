"""A torch checkpoint becomes an ONNX folder that gives the same vectors, or nothing is written."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from clips import (
    B32,
    PICTURES,
    SMALL,
    SMALL_RESNET,
    TEXTS,
    cosines,
    export_apart,
    openclip_clip,
    transformers_clip,
    transformers_reader,
)
from PIL import Image
from typer.testing import CliRunner

from t2i_pipelines import build_insert_pipeline, build_search_pipeline
from t2i_pipelines.cli import app
from t2i_pipelines.encoders import export, load_encoder
from t2i_pipelines.encoders.export import export_model
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.errors import CheckpointError

# built by open_clip; torch fuses attention of an even number of heads, which ONNX cannot
TWO_HEADS = {
    "embed_dim": 24,
    "vision_cfg": {**SMALL["vision_cfg"], "width": 128},
    "text_cfg": {**SMALL["text_cfg"], "width": 128, "heads": 2},
    "custom_text": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quick_gelu", "gelu", "resnet", "open_clip's own"])
def test_what_is_exported_gives_the_checkpoints_vectors(tmp_path, kind):
    if kind == "resnet":
        openclip_clip(tmp_path / "m", True, SMALL_RESNET)
    elif kind == "open_clip's own":
        openclip_clip(tmp_path / "m", False, TWO_HEADS)
    else:
        transformers_clip(tmp_path / "m", kind)
    encoder = load_encoder(tmp_path / "m", precision="fp32")
    assert export_model(encoder, tmp_path / "out") >= 0.99999
    exported = load_encoder(tmp_path / "out", precision="fp32")
    assert cosines(exported.encode_images(PICTURES), encoder.encode_images(PICTURES)).min() >= 0.99999
    assert cosines(exported.encode_texts(TEXTS), encoder.encode_texts(TEXTS)).min() >= 0.99999
    assert exported.space.preprocessing == encoder.space.preprocessing
    assert exported.encode_images(PICTURES[:1]).shape == (1, 24)


@pytest.mark.slow
def test_the_folder_is_complete_for_immich_too(tmp_path):
    openclip_clip(tmp_path / "m", True)
    export_model(load_encoder(tmp_path / "m"), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["embed_dim"], config["text_cfg"]["context_length"], config["quick_gelu"]) == (24, 77, True)
    assert json.loads((tmp_path / "out/textual/tokenizer_config.json").read_text()) == {"pad_token": "!"}
    assert json.loads((tmp_path / "out/visual/preprocess_cfg.json").read_text())["resize_mode"] == "shortest"


@pytest.mark.slow
def test_the_config_names_the_checkpoint_and_that_does_not_change_the_space(tmp_path):
    openclip_clip(tmp_path / "m", True)
    export_model(load_encoder(tmp_path / "m"), tmp_path / "out")
    path = tmp_path / "out/config.json"
    config = json.loads(path.read_text())
    weights = tmp_path / "m/open_clip_model.safetensors"
    sha256 = subprocess.run(
        ["sha256sum", weights], check=True, capture_output=True, text=True
    ).stdout.split()[0]
    assert config.pop("exported_from") == {"file": "open_clip_model.safetensors", "sha256": sha256}
    before = OnnxEncoder(str(tmp_path / "out"), "m").space
    path.write_text(json.dumps(config))
    assert OnnxEncoder(str(tmp_path / "out"), "m").space == before


def test_an_export_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    openclip_clip(tmp_path / "m", True)
    monkeypatch.setattr(export, "LEAST_COSINE", 1.1)
    with pytest.raises(
        CheckpointError, match=r"differs from .*: cosine (1|0\.9)\d*\.\d+, less than 1\.1; nothing"
    ):
        export_model(load_encoder(tmp_path / "m"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_in_use_is_left_alone(tmp_path):
    openclip_clip(tmp_path / "m", True)
    with pytest.raises(CheckpointError, match="is not empty; name a new folder to export to"):
        export_model(load_encoder(tmp_path / "m"), tmp_path / "m")


@pytest.mark.slow
def test_the_command_exports_and_the_folder_inserts_and_searches_by_path(tmp_path, pictures):
    transformers_clip(tmp_path / "m", "gelu")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "m"), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    settings = {"uri": tmp_path / "milvus.db", "model_name": str(tmp_path / "out")}
    rows = build_insert_pipeline(**settings)(pictures).to_list()
    assert {row[2] for row in rows} == {"inserted"}
    _, hits = build_search_pipeline(**settings)("red").get()
    assert len(hits) == len(rows)


QUERIES = ["a photo of a kitten", "two red apples on a wooden table", "Ünïcode, 42 & more!"]


def painted(folder) -> dict[str, np.ndarray]:
    """Stripes, checks and noise in several sizes, written by Pillow; by path."""
    random = np.random.default_rng(7)
    folder.mkdir()
    pictures = {}
    for n, (height, width) in enumerate(
        [(300, 400), (400, 300), (224, 224), (500, 250), (96, 128), (640, 480)]
    ):
        y, x = np.mgrid[:height, :width]
        pattern = [(x // 20 % 2), (y // 30 % 2), (x // 16 + y // 16) % 2][n % 3][..., None]
        colours = random.integers(0, 256, (2, 3))
        picture = np.where(pattern, *colours).astype(np.int64) + random.integers(-40, 40, (height, width, 3))
        path = folder / f"{n}.png"
        pictures[str(path)] = picture.clip(0, 255).astype(np.uint8)
        Image.fromarray(pictures[str(path)]).save(path)
    return pictures


@pytest.mark.slow
def test_true_b32_of_transformers_is_exported_and_searched_with_transformers_scores(tmp_path):
    model = transformers_clip(tmp_path / "b32", "quick_gelu", B32, heads=(12, 8))
    tokenizer, processor = transformers_reader(tmp_path / "b32")
    pictures = painted(tmp_path / "pictures")
    pixels = processor([Image.fromarray(one) for one in pictures.values()], return_tensors="pt")
    ids = tokenizer(QUERIES, padding=True, return_tensors="pt")
    with torch.no_grad():
        images, texts = model.get_image_features(**pixels), model.get_text_features(**ids)
    images, texts = (getattr(one, "pooler_output", one) for one in (images, texts))
    del model  # 0.6 GB
    export_apart(tmp_path / "b32", tmp_path / "onnx")
    shutil.rmtree(tmp_path / "b32")

    settings = {"uri": tmp_path / "milvus.db", "model_name": str(tmp_path / "onnx"), "precision": "fp32"}
    rows = build_insert_pipeline(**settings, batch_size=4)(tmp_path / "pictures").to_list()
    assert [(row[0], row[2]) for row in rows] == [(path, "inserted") for path in pictures]
    _, found = build_search_pipeline(**settings)(QUERIES).get()

    for text, hits in zip(texts, found, strict=True):
        wanted = dict(zip(pictures, torch.cosine_similarity(images, text[None]).tolist(), strict=True))
        assert {hit.path: hit.score for hit in hits} == pytest.approx(wanted, abs=1e-4)
        assert [hit.path for hit in hits] == sorted(wanted, key=wanted.get, reverse=True)
        assert max(wanted.values()) - min(wanted.values()) > 0.01, "else equal scores prove nothing"


@pytest.mark.slow
def test_an_exported_folder_runs_without_torch(tmp_path):
    openclip_clip(tmp_path / "m", True)
    export_model(load_encoder(tmp_path / "m"), tmp_path / "out")
    code = f"""
import sys; sys.modules["torch"] = None
from t2i_pipelines.encoders import load_encoder
print(load_encoder({str(tmp_path / "out")!r}).encode_texts(["a cat"]).shape)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "(1, 24)", done.stderr


def test_what_needs_no_export_is_said(tmp_path):
    from t2i_pipelines.cli.models import to_export

    with pytest.raises(CheckpointError, match="t2i_mini is an ONNX folder already"):
        to_export("t2i_mini", None)


def test_what_is_not_one_checkpoint_is_not_called_an_onnx_folder():
    from t2i_pipelines.cli.models import to_export

    with pytest.raises(CheckpointError, match="colour cannot be exported: it is not one checkpoint"):
        to_export("colour", None)


def test_the_table_of_models_reads_well():
    done = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.output.splitlines() if line.strip()}
    assert rows["model_name"] == ["dim", "px", "M", "MiB", "ms", "Flickr", "COCO"]
    assert rows["clip_vit_base_patch32"] == ["512", "224", "151", "1004", "2.26", "58.78", "30.44"]
    assert rows["ViT-B-16-SigLIP2/webli"] == ["768", "224", "375", "3038", "5.81", "80.70", "52.10"]
    assert "en fr, MIT" in done.output
    assert "Default: clip_vit_base_patch32. t2i_mini is bundled" in done.output
    assert "t2i_mini knows photographs of a thousand kinds of things" in done.output
    assert "It knows no people" in done.output
    assert "…" not in done.output, "nothing is cut off at 80 columns"


def test_models_can_be_asked_for_a_language():
    done = CliRunner().invoke(app, ["models", "--language", "de", "--max-ms", "4"], env={"COLUMNS": "160"})
    assert done.output.strip().endswith("ViT-B-32-SigLIP2-256/webli")
