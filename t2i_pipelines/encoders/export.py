"""Write a ``towhee.models.clip.CLIP`` as a model folder that needs no torch to run, and read it back.

Weights keep the names of the state dict, so that :func:`load_clip` can rebuild the module, to
fine-tune it for example. Matrices are stored as float16 and computed with as float32.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from torch import nn

from t2i_pipelines._towhee import clip_models
from t2i_pipelines.errors import CheckpointError

LEAST_COSINE = 0.9999
OPSET = 17
SAMPLES = ("a photo of a dog", "una manzana roja", "红苹果", "ein Foto von einer Sonnenblume", "x")


class _TextTower(nn.Module):
    """``encode_text`` as a module of its own, on the CPU whatever else there is."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.clip.encode_text(text, device="cpu")
        return embedding


class _Tower(NamedTuple):
    """Half a model, on its way to a file."""

    module: nn.Module
    input_name: str
    sample: torch.Tensor
    foreign_prefix: str
    """What torch puts before a weight's name, and ..."""
    own_prefix: str
    """... what the state dict has in its place."""


def export_clip(
    model: nn.Module,
    folder: str | Path,
    *,
    model_name: str,
    sizes: Mapping[str, Any],
    tokenizer: str | Path,
    preprocess: Mapping[str, Any],
) -> float:
    """Write the model folder; the lowest cosine between its vectors and the module's own.

    :param sizes: the arguments that ``CLIP`` was made with.
    :param tokenizer: a Hugging Face ``tokenizer.json`` that pads and cuts to the context length.
    :param preprocess: open_clip's ``preprocess_cfg.json``: size, mean, std, interpolation, resize_mode.
    :raises CheckpointError: If what was written computes other vectors; nothing is left in the folder.
    """
    model = model.eval().float().cpu()
    files, cosines = {}, []
    for name, tower in _towers(model, sizes, Path(tokenizer)).items():
        data = _to_onnx(tower)
        cosines.append(_check(name, data, tower))
        files[f"{name}/model.onnx"] = data
    for path, data in files.items():
        (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / path).write_bytes(data)
    stored = {one.name for data in files.values() for one in onnx.load_from_string(data).graph.initializer}
    config = {
        "model_name": model_name,
        "embed_dim": sizes["embed_dim"],
        "text_cfg": {"context_length": sizes["context_length"]},
        "logit_scale": model.state_dict()["logit_scale"].exp().item(),
        "towhee_clip": dict(sizes),
        "equal_weights": _equal_weights(model, stored),
    }
    _write_settings(Path(folder), config, preprocess)
    if Path(tokenizer) != Path(folder) / "textual/tokenizer.json":
        shutil.copyfile(tokenizer, Path(folder) / "textual/tokenizer.json")
    return min(cosines)


def _towers(model: Any, sizes: Mapping[str, Any], tokenizer: Path) -> dict[str, _Tower]:
    side = sizes["image_resolution"]
    pictures = torch.randn(len(SAMPLES), 3, side, side, generator=torch.Generator().manual_seed(0))
    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(list(SAMPLES))
    ids = torch.tensor([one.ids for one in encoded], dtype=torch.int32)
    if ids.shape[1] != sizes["context_length"]:
        raise CheckpointError(
            f"{tokenizer} gives {ids.shape[1]} ids a text, the model reads {sizes['context_length']}"
        )
    return {
        "visual": _Tower(model.visual, "image", pictures, "", "visual."),
        "textual": _Tower(_TextTower(model), "text", ids, "clip.", ""),
    }


def _to_onnx(tower: _Tower) -> bytes:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as place:
        warnings.simplefilter("ignore")  # that this exporter is the older one: it keeps weights' names
        torch.onnx.export(
            tower.module,
            (tower.sample,),
            f"{place}/model.onnx",
            dynamo=False,
            opset_version=OPSET,
            input_names=[tower.input_name],
            output_names=["embedding"],
            dynamic_axes={tower.input_name: {0: "batch"}, "embedding": {0: "batch"}},
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        exported = onnx.load(f"{place}/model.onnx")
    _rename(exported.graph, tower.foreign_prefix, tower.own_prefix)
    _halve(exported.graph)
    data: bytes = exported.SerializeToString()
    return data


def _rename(graph: Any, foreign: str, own: str) -> None:
    names = {one.name: own + one.name.removeprefix(foreign) for one in graph.initializer}
    for one in graph.initializer:
        one.name = names[one.name]
    _rewire(graph, names)


def _rewire(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)


def _halve(graph: Any) -> None:
    """Store matrices as float16, each followed by a cast that ONNX Runtime folds when it loads."""
    casts, names = [], {}
    for one in graph.initializer:
        if one.data_type == TensorProto.FLOAT and len(one.dims) > 1:
            half = numpy_helper.to_array(one).astype(np.float16)
            one.CopyFrom(numpy_helper.from_array(half, one.name))
            names[one.name] = f"{one.name}.float32"
            casts.append(helper.make_node("Cast", [one.name], [names[one.name]], to=TensorProto.FLOAT))
    _rewire(graph, names)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _check(name: str, data: bytes, tower: _Tower) -> float:
    """Compare with torch; the lowest cosine."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {tower.input_name: tower.sample.numpy()})
    with torch.no_grad():
        wanted = tower.module(tower.sample)
    lowest = float(torch.cosine_similarity(torch.from_numpy(found), wanted).min())
    if not lowest >= LEAST_COSINE:
        raise CheckpointError(
            f"the exported {name} tower differs from the model: cosine {lowest:.6f}, less than {LEAST_COSINE}"
        )
    return lowest


def _equal_weights(model: nn.Module, stored: set[str]) -> dict[str, str]:
    """Weights that torch left out, because another one holds the same numbers -> that other one."""
    weights = model.state_dict()
    return {
        name: next(other for other in sorted(stored & weights.keys()) if weights[other].equal(value))
        for name, value in weights.items()
        if name not in stored and name != "logit_scale" and not name.endswith("num_batches_tracked")
    }


def _write_settings(folder: Path, config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> None:
    settings = {
        "config.json": config,
        "visual/preprocess_cfg.json": dict(preprocess),
        "textual/tokenizer_config.json": {"model_max_length": config["text_cfg"]["context_length"]},
    }
    for path, content in settings.items():
        (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_clip(folder: str | Path) -> nn.Module:
    """Rebuild the ``towhee.models.clip.CLIP`` that :func:`export_clip` wrote, in evaluation mode.

    :raises CheckpointError: If the folder was not written by it.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes, scale, equal = config["towhee_clip"], config["logit_scale"], config["equal_weights"]
    except (OSError, ValueError, KeyError) as err:
        raise CheckpointError(f"{folder}/config.json does not tell how to rebuild the model: {err}") from err
    model: nn.Module = clip_models().CLIP(**sizes)
    weights = {"logit_scale": torch.tensor(scale).log()}
    for path in ("visual/model.onnx", "textual/model.onnx"):
        for one in onnx.load(str(folder / path)).graph.initializer:
            weights[one.name] = torch.from_numpy(numpy_helper.to_array(one).astype(np.float32))
    weights |= {name: weights[other] for name, other in equal.items() if other in weights}
    missing, _ = model.load_state_dict(weights, strict=False)
    if lost := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise CheckpointError(f"{folder} has no weights {', '.join(lost[:4])}; was it exported here?")
    return model.eval()
