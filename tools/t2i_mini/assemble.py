"""Write a trained t2i_mini 2 as a model folder: ``python -m tools.t2i_mini.assemble --out FOLDER``.

Weights are stored in few bytes and computed with as float32: those of the image tower as 8-bit integers with
a scale for each row, or output channel, those of the text tower as float16. ONNX Runtime folds the operators
that turn them back when it loads a tower.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from t2i_pipelines.encoders.onnx_folder import (
    Towers,
    filled_if_all_is_well,
    lowest_cosine,
    trace,
    write_settings,
)
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import TextTokenizer, read_tokenizer
from t2i_pipelines.mini import export
from tools.t2i_mini.features import SIDE
from tools.t2i_mini.measure import Trained
from tools.t2i_mini.text_tower import SIZES

log = logging.getLogger(__name__)

SMALL = 4096
"""Weights of fewer numbers are left as they are."""

PREPROCESS = {**export.PREPROCESS, "size": SIDE}


def assemble(run: Path, out: Path) -> float:
    """Write the folder.

    :return: the lowest cosine between the folder's vectors and those of the trained modules.
    """
    trained = Trained(run)
    both = nn.ModuleList([trained.tower, trained.clip])
    towers = Towers(
        name="t2i_mini",
        module=both.eval(),
        encode_image=trained.tower,
        encode_text=lambda ids: trained.clip.encode_text(ids, device="cpu"),
        preprocess=Preprocess.of(PREPROCESS, "preprocess"),
        tokenizer=TextTokenizer(read_tokenizer(run / "tokenizer.json"), model_name="t2i_mini"),
    )
    with filled_if_all_is_well(out) as place:
        trace(towers, place)
        shrink(place / "visual/model.onnx", to_int8=True)
        shrink(place / "textual/model.onnx", to_int8=False)  # its vectors would move too far
        config = {
            "model_name": "t2i_mini",
            "embed_dim": SIZES["embed_dim"],
            "text_cfg": {"context_length": SIZES["context_length"]},
        }
        write_settings(towers, place, config, run / "model.pt")
        return lowest_cosine(towers, place)


def shrink(path: Path, *, to_int8: bool) -> None:
    """Store the weights of a tower as 8-bit integers with a scale for each row, or as float16."""
    model = onnx.load(str(path))
    graph: Any = model.graph
    nodes, stored, names = [], [], {}
    for one in graph.initializer:
        values = numpy_helper.to_array(one)
        if one.data_type != TensorProto.FLOAT or values.size < SMALL:
            stored.append(one)
            continue
        wide, kept = f"{one.name}.float32", one.name
        if np.isin(values, (0, 1)).all():
            small = values.astype(np.int8)
            nodes.append(helper.make_node("Cast", [kept], [wide], to=TensorProto.FLOAT))
        elif not to_int8:
            small = values.astype(np.float16)
            nodes.append(helper.make_node("Cast", [kept], [wide], to=TensorProto.FLOAT))
        else:
            scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
            scale = np.maximum(scale, 1e-12).astype(np.float32)
            small = np.round(values / scale).astype(np.int8)
            stored.append(numpy_helper.from_array(scale, f"{kept}.scale"))
            nodes += [
                helper.make_node("Cast", [kept], [f"{kept}.cast"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{kept}.cast", f"{kept}.scale"], [wide]),
            ]
        stored.append(numpy_helper.from_array(small, kept))
        names[kept] = wide
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)
    rest = list(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend([*nodes, *rest])
    graph.initializer.extend(stored)
    path.write_bytes(model.SerializeToString())


def main(arguments: list[str] | None = None) -> None:
    """Read the options and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.assemble", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/mini2"), help="folder that training wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cosine = assemble(options.run, options.out)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    log.info("wrote %s, %.1f MB, lowest cosine %.6f", options.out, size / 1e6, cosine)


if __name__ == "__main__":
    main()
