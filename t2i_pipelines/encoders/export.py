"""Write a ``towhee.models.clip.CLIP`` as a model folder that needs no torch to run, and read it back.

Weights keep the names of the state dict, so that :func:`load_clip` can rebuild the module, to
fine-tune it for example. Matrices are stored as float16 and computed with as float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from t2i_pipelines._towhee import clip_models
from t2i_pipelines.encoders.onnx_folder import (
    NAMES_BEGIN_WITH,
    Towers,
    filled_if_all_is_well,
    lowest_cosine,
    trace,
    write_settings,
)
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import TextTokenizer, read_tokenizer
from t2i_pipelines.errors import CheckpointError

PATHS = ("visual/model.onnx", "textual/model.onnx")


def export_clip(
    model: nn.Module,
    folder: str | Path,
    *,
    model_name: str,
    sizes: Mapping[str, Any],
    tokenizer: str | Path,
    preprocess: Mapping[str, Any],
    checkpoint: Path | None = None,
) -> float:
    """Write the model folder; the lowest cosine between its vectors and the module's own.

    :param folder: may hold an earlier export, which is replaced if all is well.
    :param sizes: the arguments that ``CLIP`` was made with.
    :param tokenizer: a Hugging Face ``tokenizer.json`` that pads and cuts to the context length.
    :param preprocess: open_clip's ``preprocess_cfg.json``: size, mean, std, interpolation, resize_mode.
    :param checkpoint: the file that the weights are from; ``config.json`` records its name and SHA-256.
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
        stored = {name for path in PATHS for name in _compact(place / path)}
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


def _compact(path: Path) -> list[str]:
    """Give a tower's weights the names of the state dict and half the room; the names."""
    exported = onnx.load(str(path))
    graph = exported.graph
    names = {one.name: one.name.removeprefix(NAMES_BEGIN_WITH) for one in graph.initializer}
    for one in graph.initializer:
        one.name = names[one.name]
    _rewire(graph, names)
    _halve(graph)
    path.write_bytes(exported.SerializeToString())
    return list(names.values())


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
    model: nn.Module = clip_models().CLIP(**sizes)
    weights = {"logit_scale": torch.tensor(scale).log()}
    for path in PATHS:
        for one in onnx.load(str(folder / path)).graph.initializer:
            weights[one.name] = torch.from_numpy(numpy_helper.to_array(one).astype(np.float32))
    weights |= {name: weights[other] for name, other in equal.items() if other in weights}
    missing, _ = model.load_state_dict(weights, strict=False)
    if lost := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise CheckpointError(f"{folder} has no weights {', '.join(lost[:4])}; was it exported here?")
    return model.eval()
