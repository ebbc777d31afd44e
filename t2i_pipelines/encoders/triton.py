"""A model as a model repository of NVIDIA's Triton Inference Server, written by Towhee's own builder.

The layout, and the fields of ``config.pbtxt``, are those of Triton's documents ``model_repository`` and
``model_configuration``::

    image_tower/config.pbtxt             backend onnxruntime, dynamic batching, inputs and outputs
    image_tower/1/model.onnx             (N, 3, S, S) float32 -> (N, D) float32, not normalised
    image_tower/preprocess_cfg.json      how an image becomes the (3, S, S) that the tower takes
    text_tower/config.pbtxt
    text_tower/1/model.onnx              (N, L) integers -> (N, D) float32, not normalised
    text_tower/tokenizer.json            how a text becomes the L ids that the tower takes; also config.json

Towhee declares no inputs and outputs; they are added here, as the ONNX files state them. The model
``pipeline`` that it writes beside the towers is taken away: it is a pickle, which a server should not load.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from t2i_pipelines._towhee.door import NNOperator, RuntimePipeline, build_triton_models, ops, pipe, register
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.onnx_folder import external_files
from t2i_pipelines.errors import CheckpointError, MissingExtraError

MAX_BATCH_SIZE = 64
QUEUE_DELAY = 2000
"""Microseconds that Triton may wait for further requests, to run them in one pass."""

TOWERS = {
    "image_tower": ("visual/model.onnx", ["visual/preprocess_cfg.json"]),
    "text_tower": (
        "textual/model.onnx",
        ["config.json", "textual/tokenizer.json", "textual/tokenizer_config.json"],
    ),
}
"""Each model of the repository: its tower, and what is needed to make the tower's input."""

TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "INT32": "INT32", "INT64": "INT64"}
"""ONNX's names of types to Triton's."""


@register(name="t2i/onnx-tower")
class OnnxTower(NNOperator):  # type: ignore[misc]
    """An ONNX file as Towhee's builder wants it. It is there to be saved, and cannot be run.

    :param path: the file; a tower above 2 GB keeps its weights in further files beside it.
    """

    supported_formats = ("onnx",)

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = Path(path)

    def __call__(self, *inputs: object) -> None:
        """Refuse."""
        raise NotImplementedError("this operator is there to be saved; ops.t2i.clip embeds")

    def save_model(self, _: str, path: Path) -> bool:
        """Write the model to ``path``; True, as Towhee expects."""
        shutil.copyfile(self._path, path)
        there = (file.as_posix() for file in self._path.parent.iterdir() if file.is_file())
        for weights in external_files(self._path.as_posix(), there):
            shutil.copyfile(weights, path.parent / Path(weights).name)
        return True


def write_triton(encoder: OnnxEncoder, folder: Path, *, cuda: bool = False) -> None:
    """Write the model repository; nothing is written if anything fails.

    :param encoder: a folder of two fp32 ONNX towers that take any number of items.
    :param folder: must not exist yet, or be empty.
    :param cuda: run on the first GPU; else on the CPU.
    :raises CheckpointError: If the folder is in use, a file is missing or damaged, or a tower takes a fixed
        number of items a pass.
    :raises MissingExtraError: If onnx or dill is not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is not empty; name a new folder to export to")
    for package in ("onnx", "dill"):
        if find_spec(package) is None:
            raise MissingExtraError.of(package, "triton")
    if lacking := [tower for tower, _ in TOWERS.values() if not (encoder.folder / tower).is_file()]:
        raise CheckpointError(
            f"{encoder.folder} has no {', '.join(lacking)}: its ONNX towers are of a layout that cannot be "
            "written for Triton; name the model's torch checkpoint, which is exported first"
        )
    declared = {name: _declared(encoder.folder / tower) for name, (tower, _) in TOWERS.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        place = Path(temporary) / "repository"
        build_triton_models(_pipeline(encoder.folder, cuda), str(place))
        shutil.rmtree(place / "pipeline")
        for name, (_, files) in TOWERS.items():
            with (place / name / "config.pbtxt").open("a", encoding="utf-8") as config:
                config.write(declared[name])
            for path in (encoder.folder / file for file in files):
                if path.is_file():
                    shutil.copyfile(path, place / name / path.name)
        place.replace(folder)


def _pipeline(folder: Path, cuda: bool) -> RuntimePipeline:
    server: dict[str, Any] = {"max_batch_size": MAX_BATCH_SIZE, "batch_latency_micros": QUEUE_DELAY}
    if cuda:
        server["device_ids"] = [0]
    steps = pipe.input(*TOWERS)
    for name, (tower, _) in TOWERS.items():
        save = ops.t2i.onnx_tower(str(folder.absolute() / tower))
        steps = steps.map(name, name, save, config={"name": name, "server": server})
    return steps.output(*TOWERS)


def _declared(path: Path) -> str:
    """``input`` and ``output`` of a ``config.pbtxt``; dimensions without that of the batch, -1 is any.

    :raises CheckpointError: If the file is no ONNX file, fixes the batch, or has other types.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except DecodeError as err:
        raise CheckpointError(f"{path} cannot be loaded: {err}") from err
    weights = {one.name for one in graph.initializer}
    text = ""
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.name in weights:
                continue
            tensor = value.type.tensor_type
            batch, *dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
            if batch != -1:
                raise CheckpointError(
                    f"{path} takes {batch} item(s) a pass, and Triton cannot batch that; name the torch "
                    "checkpoint that it was exported from"
                )
            onnx_type = onnx.TensorProto.DataType.Name(tensor.elem_type)
            if onnx_type not in TYPES:
                raise CheckpointError(
                    f"{value.name} of {path} is {onnx_type}, which is none of {', '.join(TYPES)}"
                )
            text += f'\n{kind} [\n  {{\n    name: "{value.name}"\n    data_type: TYPE_{TYPES[onnx_type]}\n'
            text += f"    dims: {dims}\n  }}\n]\n"
    return text
