"""A loaded torch model written as an ONNX folder, which needs no torch to run."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import Matrix

LEAST_COSINE = 0.9999
OPSET = 17
SAMPLES = ("a photo of a dog", "two red apples on a table", "x", "A street in Berlin, at night; rain.", "")


class _Tower(nn.Module):
    """Half a model as a module of its own."""

    def __init__(self, model: nn.Module, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._encode = encode

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self._encode(items)


def export_model(encoder: TorchEncoder, folder: str | Path) -> float:
    """Write both towers; the lowest cosine between what is read back and what torch computes.

    :param folder: must not exist yet, or be empty.
    :raises CheckpointError: If the folder is in use, or the cosine is below 0.9999; then nothing is written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is not empty; name a new folder to export to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as half_done:
        written = Path(half_done) / "model"
        _write(encoder, written)
        lowest = parity(encoder, OnnxEncoder(str(written), "exported"))
        if not lowest >= LEAST_COSINE:
            raise CheckpointError(
                f"the exported model differs from {encoder.model.checkpoint.weights}: cosine {lowest:.6f}, "
                f"less than {LEAST_COSINE}; nothing was written to {folder}"
            )
        if folder.exists():
            folder.rmdir()
        shutil.move(written, folder)
    return lowest


def parity(one: Any, other: Any) -> float:
    """The lowest cosine between two encoders' vectors of made pictures and of ``SAMPLES``."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (80 + 31 * n, 120, 3), np.uint8) for n in range(4)]
    pictures.append(np.full((64, 64, 3), 200, np.uint8))
    pairs = (
        (one.encode_images(pictures), other.encode_images(pictures)),
        (one.encode_texts(SAMPLES), other.encode_texts(SAMPLES)),
    )
    return min(float(_cosines(*pair).min()) for pair in pairs)


def _cosines(a: Matrix, b: Matrix) -> Matrix:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(lengths, 1e-12), np.float32)


def _write(encoder: TorchEncoder, folder: Path) -> None:
    model = encoder.model
    checkpoint = model.checkpoint
    size = checkpoint.preprocess.size
    for name in ("visual", "textual"):
        (folder / name).mkdir(parents=True)
    ids = torch.from_numpy(encoder.tokenizer(SAMPLES[:2])).int()
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    _to_onnx(_Tower(model.module, model.encode_image), pictures, "image", folder / "visual/model.onnx")
    _to_onnx(_Tower(model.module, model.encode_text), ids, "text", folder / "textual/model.onnx")
    preprocess = {
        "size": size,
        "mode": "RGB",
        "mean": checkpoint.preprocess.mean,
        "std": checkpoint.preprocess.std,
        "interpolation": checkpoint.preprocess.interpolation,
        "resize_mode": checkpoint.preprocess.resize_mode,
        "fill_color": 0,
    }
    tokenizer = encoder.tokenizer.tokenizer
    padding = tokenizer.padding or {}
    for path, content in {
        "config.json": checkpoint.config,
        "visual/preprocess_cfg.json": preprocess,
        "textual/tokenizer_config.json": {"pad_token": padding.get("pad_token")},
    }.items():
        (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "textual/tokenizer.json"))


def _to_onnx(tower: nn.Module, sample: torch.Tensor, name: str, path: Path) -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, which ONNX does not have
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that this exporter is the older one: it needs no onnxscript
            torch.onnx.export(
                tower.eval(),
                (sample,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[name],
                output_names=["embedding"],
                dynamic_axes={name: {0: "batch"}, "embedding": {0: "batch"}},
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
