"""The int8 form of an image tower: where it is kept, and how it is made from images.

Weights are rounded channel by channel, activations by the range that calibration images give them
(static QDQ, `ONNX Runtime's quantizer <https://onnxruntime.ai/docs/performance/model-optimizations/
quantization.html>`_). Three parts stay as they are, 4 % of a ViT-B/32's work: products of two activations,
inside attention, which are the most sensitive, and the first and the last layer, whose error goes through
everything or straight into the vector.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import Space

NAME = "visual/model.int8.onnx"
REPORT = "int8.json"
BATCH = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Cost:
    """What int8 costs, measured on images that were not used to calibrate.

    :ivar mean_cosine: of int8 to fp32 vectors, 1 is the same.
    :ivar least_cosine: of the worst image.
    :ivar calibrated_on: number of images.
    :ivar measured_on: number of images.
    """

    mean_cosine: float
    least_cosine: float
    calibrated_on: int
    measured_on: int

    def __str__(self) -> str:
        return (
            f"cosine to fp32 {self.mean_cosine:.5f} on average and {self.least_cosine:.5f} at least, on "
            f"{self.measured_on} images; calibrated on {self.calibrated_on} others"
        )


def int8_folder(space: Space) -> Path:
    """Return where the int8 form of a model is kept: in the assets cache of ``huggingface_hub``."""
    from huggingface_hub import cached_assets_path

    return cached_assets_path("t2i_pipelines", "int8", space.weights)


def int8_tower(space: Space, folder: Path) -> Path:
    """Return the int8 image tower of a model.

    In the cache, or beside its fp32 tower. What it costs is logged.

    :raises CheckpointError: If it was never made; says how to make it.
    """
    for place in (int8_folder(space), folder):
        if (place / NAME).is_file():
            if (report := place / REPORT).is_file():
                cost = Int8Cost(**json.loads(report.read_text(encoding="utf-8")))
                logger.info("int8 form of %s: %s", space.model_name, cost)
            return place / NAME
    raise CheckpointError(
        f"no int8 form of {space.model_name} (looked in {folder} and {int8_folder(space)}); make it from "
        f"images like yours: t2i quantize FOLDER --model-name {space.model_name}, or "
        "t2i_pipelines.quantize(...)"
    )


def write_report(space: Space, cost: Int8Cost) -> None:
    """Keep a measurement beside the int8 form in the cache."""
    (int8_folder(space) / REPORT).write_text(json.dumps(asdict(cost)) + "\n", encoding="utf-8")


def calibrate(tower: Path, tensors: Sequence[NDArray[np.float32]], path: Path) -> None:
    """Write the int8 form of an image tower.

    :param tower: the fp32 tower.
    :param tensors: N images (3, S, S) float32, preprocessed; they set the ranges of activations.
    :param path: where to write it.
    """
    import onnx
    from onnxruntime import quantization

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        prepared, made = Path(place) / "prepared.onnx", Path(place) / "made.onnx"
        quantization.shape_inference.quant_pre_process(str(tower), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared), load_external_data=False).graph
        quantization.quantize_static(
            str(prepared),
            str(made),
            _reader(quantization, graph.input[0].name, tensors),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=_layers(graph)[1:-1],
        )
        made.replace(path)


def _layers(graph: Any) -> list[str]:
    """Return the nodes that multiply by weights, in order from the image to the vector."""
    weights = {one.name for one in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv") and weights & set(node.input)
    ]


def _reader(quantization: Any, name: str, tensors: Sequence[NDArray[np.float32]]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = self._read()

        def _read(self) -> Iterator[dict[str, NDArray[np.float32]]]:
            for at in range(0, len(tensors), BATCH):
                yield {name: np.stack(tensors[at : at + BATCH])}

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._batches, None)

    return Reader()
