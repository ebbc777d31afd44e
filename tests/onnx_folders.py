"""ONNX folders in Immich's layout, with towers whose vectors one can compute in one's head.

The image tower gives the mean of each colour channel, the text tower the first three ids.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["<pad>", "a", "red", "green", "cat", "dog", "x", "[UNK]"]
LENGTH = 4


def immich_folder(
    folder: Path,
    *,
    batch: int | str = 1,
    ids: int = TensorProto.INT32,
    mask: bool = False,
    dim: int = 3,
    config: dict | None = None,
) -> Path:
    """Write one. ``batch`` 1 is what Immich's exporter fixes; ``dim`` other than 3 repeats or cuts."""
    for name in ("visual", "textual"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _save(_visual(batch, dim), folder / "visual/model.onnx")
    _save(_textual(batch, ids, mask, dim), folder / "textual/model.onnx")
    text_cfg = {"context_length": LENGTH, "vocab_size": 8, "tokenizer_kwargs": {"clean": "canonicalize"}}
    default = {"embed_dim": dim, "vision_cfg": {"image_size": 8}, "text_cfg": text_cfg}
    preprocess = {"size": [8, 8], "mode": "RGB", "mean": [0] * 3, "std": [1] * 3, "resize_mode": "squash"}
    for path, content in {
        "config.json": default if config is None else config,
        "visual/preprocess_cfg.json": {**preprocess, "interpolation": "bicubic", "fill_color": 0},
        "textual/tokenizer_config.json": {"pad_token": "<pad>"},
    }.items():
        (folder / path).write_text(json.dumps(content))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "textual/tokenizer.json"))
    return folder


def _spread(node_input: str, width: int, dim: int) -> list:
    table = np.zeros((width, dim), np.float32)
    for column in range(dim):
        table[column % width, column] = 1
    tensor = helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.ravel())
    return [helper.make_node("MatMul", [node_input, "table"], ["embedding"])], [tensor]


def _visual(batch, dim):
    mean = helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)
    nodes, tensors = _spread("mean", 3, dim)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, dim])
    return helper.make_graph([mean, *nodes], "visual", [image], [out], tensors)


def _textual(batch, ids, mask, dim):
    names = ["text", "attention_mask"] if mask else ["text"]
    inputs = [helper.make_tensor_value_info(name, ids, [batch, LENGTH]) for name in names]
    nodes = []
    for name in names:
        nodes.append(helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Slice", [f"{name}_f", "from", "to", "axis"], [f"{name}_s"]))
    total = f"{names[0]}_s"
    if mask:
        nodes.append(helper.make_node("Mul", [total, "attention_mask_s"], ["product"]))
        total = "product"
    more, tensors = _spread(total, 3, dim)
    for name, value in {"from": 0, "to": 3, "axis": 1}.items():
        tensors.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, dim])
    return helper.make_graph([*nodes, *more], "textual", inputs, [out], tensors)


def _save(graph, path: Path) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
