"""Ours: ``build_insert_pipeline`` from files to Milvus Lite, and the encoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.inputs import Inputs
from benchmarks.peers.plan import BATCH, CALIBRATION
from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import CheckpointError, EncodeError
from t2i_pipelines.types import Image, Matrix, Vector


class Ours:
    """One backend at one precision.

    :ivar running: what the encoder says it chose.
    """

    def __init__(self, inputs: Inputs, uri: str, backend: str, precision: str) -> None:
        chosen: dict[str, Any] = {"backend": backend, "precision": precision}
        model = str(_model(inputs, backend))
        self._encoder = load_encoder(model, **chosen)
        self._pipeline = build_insert_pipeline(uri=uri, model_name=model, batch_size=BATCH, **chosen)

    @property
    def running(self) -> str:
        """What the encoder says of itself."""
        return str(getattr(self._encoder, "running", ""))

    def insert(self, paths: Sequence[str]) -> None:
        """Run the pipeline.

        :raises EncodeError: If an image was not inserted.
        """
        for path, _, status, reason in self._pipeline(list(paths)).to_list():
            if status != "inserted":
                raise EncodeError(f"{path} is {status}: {reason}")

    def encode(self, pictures: Image) -> Matrix:
        """Embed batch by batch."""
        batches = [list(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)]
        return np.concatenate([self._encoder.encode_images(batch) for batch in batches])

    def embed_text(self, text: str) -> Vector:
        """One query."""
        return np.asarray(self._encoder.encode_texts([text])[0])


def _model(inputs: Inputs, backend: str) -> Path:
    return inputs.transformers if backend == "torch" else inputs.of("ours") / "onnx"


def prepare(inputs: Inputs, backend: str, precision: str) -> None:
    """Export the checkpoint for the backends that run ONNX, and make its int8 form."""
    folder = _model(inputs, backend)
    if not folder.exists():
        from t2i_pipelines.encoders.export import export_model
        from t2i_pipelines.encoders.torch_encoder import TorchEncoder

        export_model(TorchEncoder(str(inputs.transformers), "bench"), folder)
    if precision == "int8":
        _make_int8(inputs, folder)


def _make_int8(inputs: Inputs, folder: Path) -> None:
    from t2i_pipelines.encoders.int8 import int8_tower
    from t2i_pipelines.encoders.quantize import quantize

    try:
        int8_tower(load_encoder(str(folder)).space, folder)
    except CheckpointError:  # not made yet
        quantize(str(inputs.calibration), model_name=str(folder), images=CALIBRATION)


start = Ours
