"""Exported models compute what the torch module computes, and can be turned back into it."""

import json
import subprocess

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer

from t2i_pipelines.encoders import export
from t2i_pipelines.encoders.export import export_clip, load_clip
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.errors import CheckpointError
from tools.drawings.network import make_clip
from tools.drawings.vocabulary import make_tokenizer

TEXT = {
    "context_length": 12,
    "vocab_size": 300,
    "transformer_width": 64,
    "transformer_heads": 2,
    "transformer_layers": 1,
}
VISION = {
    "resnet": {"vision_layers": (1, 1, 1, 1), "vision_width": 16, "vision_patch_size": None},
    "transformer": {"vision_layers": 1, "vision_width": 64, "vision_patch_size": 8},
}
PREPROCESS = {
    "size": 32,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def sizes_of(vision):
    return {"embed_dim": 24, "image_resolution": 32, **VISION[vision], **TEXT}


def a_model(vision):
    torch.manual_seed(0)
    model = make_clip(sizes_of(vision)).eval()
    with torch.no_grad():  # fresh norms do nothing, and hide an exporter's mistakes
        for name, value in model.state_dict().items():
            if "bn" in name or "downsample" in name:
                value.copy_(torch.rand_like(value.float()) + 0.5)
    return model


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    make_tokenizer(["a photo of a dog"], vocab_size=300, context_length=12).save(str(path))
    return path


def write(model, folder, tokenizer, vision="transformer", checkpoint=None):
    return export_clip(
        model,
        folder,
        model_name="tiny",
        sizes=sizes_of(vision),
        tokenizer=tokenizer,
        preprocess=PREPROCESS,
        checkpoint=checkpoint,
    )


@pytest.mark.slow
@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("count", [1, 3])
def test_the_folder_computes_what_the_module_computes(vision, count, tmp_path, tokenizer):
    model = a_model(vision)
    assert write(model, tmp_path / "model", tokenizer, vision) > 0.9999

    encoder = OnnxEncoder(str(tmp_path / "model"), "tiny")
    pictures = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    tensor = torch.from_numpy((pictures.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).float()
    texts = ["a dog", "ein Hund", "狗"][:count]
    read = Tokenizer.from_file(str(tokenizer)).encode_batch(texts)
    ids = torch.tensor([one.ids for one in read])
    with torch.no_grad():
        wanted = model.encode_image(tensor), model.encode_text(ids, device="cpu")
    for found, right in zip(
        (encoder.encode_images(pictures), encoder.encode_texts(texts)), wanted, strict=True
    ):
        assert found.shape == (count, 24)
        assert torch.cosine_similarity(torch.from_numpy(found), right).min() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("vision", VISION)
def test_a_module_comes_back_from_its_folder(vision, tmp_path, tokenizer):
    model = a_model(vision)
    write(model, tmp_path / "model", tokenizer, vision)
    again = load_clip(tmp_path / "model").state_dict()
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.slow
def test_equal_weights_come_back_too(tmp_path, tokenizer):
    model = a_model("resnet")
    block = model.visual.layer1[0]
    with torch.no_grad():
        block.downsample[2].bias.copy_(block.bn3.bias)
    write(model, tmp_path / "model", tokenizer, "resnet")
    again = load_clip(tmp_path / "model").visual.layer1[0]
    assert torch.equal(again.downsample[2].bias, block.bn3.bias)


def test_weights_take_half_the_room(tmp_path, tokenizer):
    write(a_model("transformer"), tmp_path / "model", tokenizer)
    for path in (tmp_path / "model").rglob("*.onnx"):
        stored = onnx.load(str(path)).graph.initializer
        assert all(one.data_type == onnx.TensorProto.FLOAT16 for one in stored if len(one.dims) > 1)


def test_a_model_that_came_out_different_is_refused_and_not_written(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(export, "LEAST_COSINE", 1.5)
    with pytest.raises(
        CheckpointError,
        match=r"exported visual tower differs from tiny: cosine (0\.9|1\.0)\d+, less than 1\.5; nothing",
    ):
        write(a_model("transformer"), tmp_path / "model", tokenizer)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_an_earlier_export_is_replaced_if_all_is_well_and_else_left_alone(tmp_path, tokenizer, monkeypatch):
    folder = tmp_path / "model"
    for vision in VISION:
        write(a_model(vision), folder, tokenizer, vision)
    assert load_clip(folder).visual.conv1.kernel_size == (8, 8)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(export, "LEAST_COSINE", 1.5)
    with pytest.raises(CheckpointError, match="nothing was written"):
        write(a_model("resnet"), folder, tokenizer, "resnet")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tokenizer.json"]


def test_the_config_names_the_checkpoint_by_file_and_digest(tmp_path, tokenizer):
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save(a_model("transformer").state_dict(), checkpoint)
    write(a_model("transformer"), tmp_path / "model", tokenizer, checkpoint=checkpoint)
    config = json.loads((tmp_path / "model/config.json").read_text())
    sha256 = subprocess.run(
        ["sha256sum", checkpoint], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert config["exported_from"] == {"file": "checkpoint.pt", "sha256": sha256}


def test_a_tokenizer_of_another_length_is_refused(tmp_path):
    path = tmp_path / "other.json"
    make_tokenizer(["dog"], vocab_size=300, context_length=9).save(str(path))
    with pytest.raises(CheckpointError, match="gives 9 ids a text, the model reads 12"):
        write(a_model("transformer"), tmp_path / "model", path)


def test_a_folder_of_another_origin_cannot_be_turned_back(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not tell how to rebuild"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"embed_dim": 24}))
    with pytest.raises(CheckpointError, match=r"config\.json does not tell how to rebuild"):
        load_clip(tmp_path)
