"""Write a ``towhee.models.clip.CLIP`` as a model folder that needs no torch to run, and read it back.

Weights keep the names of the state dict, so that :func:`load_clip` can rebuild the module, to
fine-tune it for example. Matrices are stored in few bytes, as float16 or as 8-bit integers with a scale for
each row, and computed with as float32: ONNX Runtime folds what turns them back when it loads a tower.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from t2i_pipelines.encoders.onnx_folder import (
    NAMES_BEGIN_WITH,
    Towers,
    filled_if_all_is_well,
    lowest_cosine,
    trace,
    write_settings,
)
from t2i_pipelines.encoders.openai_clip import clip_like
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import TextTokenizer, read_tokenizer
from t2i_pipelines.errors import CheckpointError

PATHS = ("visual/model.onnx", "textual/model.onnx")
SCALE, WIDE = ".scale", ".float32"
"""What follows a weight's name: of the scale of its rows, and of its value in float32."""

SMALL = 4096
"""Weights of fewer numbers stay float16: depthwise convolutions suffer most from 8 bits."""


def export_clip(
    model: nn.Module,
    folder: str | Path,
    *,
    model_name: str,
    sizes: Mapping[str, Any],
    tokenizer: str | Path,
    preprocess: Mapping[str, Any],
    checkpoint: Path | None = None,
    int8_images: bool = False,
) -> float:
    """Write the model folder; the lowest cosine between its vectors and the module's own.

    :param folder: may hold an earlier export, which is replaced if all is well.
    :param sizes: the arguments that ``CLIP`` was made with.
    :param tokenizer: a Hugging Face ``tokenizer.json`` that pads and cuts to the context length.
    :param preprocess: open_clip's ``preprocess_cfg.json``: size, mean, std, interpolation, resize_mode.
    :param checkpoint: the file that the weights are from; ``config.json`` records its name and SHA-256.
    :param int8_images: store the image tower as 8-bit integers; it takes half the room again.
    :raises CheckpointError: If what was written computes other vectors; then the folder stays as it was.
    """
    clip: Any = model.eval().float().cpu()
    towers = Towers(
        name=model_name,
        module=clip,
        encode_image=clip.encode_image,
        encode_text=lambda ids: clip.encode_text(ids, device="cpu"),
        preprocess=Preprocess.of(preprocess, "preprocess"),
        tokenizer=TextTokenizer(read_tokenizer(Path(tokenizer)), model_name=model_name),
    )
    if (given := towers.sample_ids().shape[1]) != sizes["context_length"]:
        raise CheckpointError(
            f"{tokenizer} gives {given} ids a text, the model reads {sizes['context_length']}"
        )
    with filled_if_all_is_well(Path(folder)) as place:
        trace(towers, place, keep_names=True)
        stored = {
            *_compact(place / PATHS[0], _to_int8 if int8_images else _to_float16),
            *_compact(place / PATHS[1], _to_float16),
        }
        config = {
            "model_name": model_name,
            "embed_dim": sizes["embed_dim"],
            "text_cfg": {"context_length": sizes["context_length"]},
            "logit_scale": clip.state_dict()["logit_scale"].exp().item(),
            "towhee_clip": dict(sizes),
            "equal_weights": _equal_weights(clip, stored),
        }
        write_settings(towers, place, config, checkpoint)
        return lowest_cosine(towers, place)


def _compact(path: Path, shrink: Callable[[Any], tuple[list[Any], list[Any]]]) -> list[str]:
    """Give a tower's weights the names of the state dict and less room.

    :param shrink: a matrix -> the initializers it is stored as, and the nodes that turn these back.
    :return: the names.
    """
    exported = onnx.load(str(path))
    graph = exported.graph
    names = {one.name: one.name.removeprefix(NAMES_BEGIN_WITH) for one in graph.initializer}
    _rewire(graph, names)
    stored, nodes = [], []
    for one in graph.initializer:
        one.name = names[one.name]
        if one.data_type == TensorProto.FLOAT and len(one.dims) > 1:
            small, widening = shrink(one)
            stored += small
            nodes += widening
        else:
            stored.append(one)
    widened = [node.output[0] for node in nodes if node.output[0].endswith(WIDE)]
    _rewire(graph, {name.removesuffix(WIDE): name for name in widened})
    nodes += graph.node
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stored)
    path.write_bytes(exported.SerializeToString())
    return list(names.values())


def _to_float16(one: Any) -> tuple[list[Any], list[Any]]:
    return [numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name)], [_cast(one)]


def _to_int8(one: Any) -> tuple[list[Any], list[Any]]:
    """Store integers and, unless all are 0 and 1, a scale for each row, which a convolution's channel is."""
    values = numpy_helper.to_array(one)
    if values.size < SMALL:
        return _to_float16(one)
    if np.isin(values, (0, 1)).all():
        return [numpy_helper.from_array(values.astype(np.int8), one.name)], [_cast(one)]
    scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    stored = [
        numpy_helper.from_array(np.round(values / scale).astype(np.int8), one.name),
        numpy_helper.from_array(scale, one.name + SCALE),
    ]
    whole = f"{one.name}.whole"
    widening = [
        helper.make_node("Cast", [one.name], [whole], to=TensorProto.FLOAT),
        helper.make_node("Mul", [whole, one.name + SCALE], [one.name + WIDE]),
    ]
    return stored, widening


def _cast(one: Any) -> Any:
    return helper.make_node("Cast", [one.name], [one.name + WIDE], to=TensorProto.FLOAT)


def _rewire(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)


def _equal_weights(model: nn.Module, stored: set[str]) -> dict[str, str]:
    """Weights that torch left out, because another one holds the same numbers -> that other one."""
    weights = model.state_dict()
    return {
        name: next(other for other in sorted(stored & weights.keys()) if weights[other].equal(value))
        for name, value in weights.items()
        if name not in stored and name != "logit_scale" and not name.endswith("num_batches_tracked")
    }


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
    weights = {"logit_scale": torch.tensor(scale).log()}
    for path in PATHS:
        weights |= _read(folder / path)
    weights |= {name: weights[other] for name, other in equal.items() if other in weights}
    model = clip_like(weights, sizes)
    missing, _ = model.load_state_dict(weights, strict=False)
    if lost := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise CheckpointError(f"{folder} has no weights {', '.join(lost[:4])}; was it exported here?")
    clip: nn.Module = model.eval()
    return clip


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a tower in float32, by name."""
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer}
    return {
        name: torch.from_numpy(values.astype(np.float32) * stored.get(name + SCALE, np.float32(1)))
        for name, values in stored.items()
        if not name.endswith(SCALE)
    }
