"""On a GPU: the same vectors as on the CPU, by torch and by onnxruntime-gpu. Skipped where there is none."""

import numpy as np
import onnxruntime
import pytest
import torch
from clips import SMALL, TEXTS, cosines, openclip_clip

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.export import export_model

IMAGES = [np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8) for seed in range(40)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
needs_onnxruntime_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="onnxruntime finds no GPU",
)


def compare(folder, **compute) -> float:
    """Return the least cosine between the vectors of a way to compute and those of fp32 on the CPU."""
    exact = load_encoder(str(folder), device="cpu", precision="fp32")
    found = load_encoder(str(folder), device="cuda", **compute)
    assert found.running.device == "cuda"
    images = cosines(found.encode_images(IMAGES), exact.encode_images(IMAGES))
    texts = cosines(found.encode_texts(TEXTS), exact.encode_texts(TEXTS))
    return float(min(images.min(), texts.min()))


@needs_gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("fp16", 0.999), ("bf16", 0.99)])
def test_torch_on_a_gpu_gives_the_vectors_of_the_cpu(tmp_path, precision, least):
    openclip_clip(tmp_path, True, SMALL)
    assert compare(tmp_path, precision=precision) >= least


@needs_onnxruntime_gpu
def test_onnx_runtime_on_a_gpu_gives_the_vectors_of_the_cpu(tmp_path):
    openclip_clip(tmp_path / "torch", True, SMALL)
    export_model(load_encoder(str(tmp_path / "torch"), device="cpu", precision="fp32"), tmp_path / "onnx")
    assert compare(tmp_path / "onnx", backend="onnxruntime") >= 0.9999
