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
    _tokenizer().save(str(folder / "textual/tokenizer.json"))
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


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


def transformers_js_folder(folder: Path, *, dim: int = 3, image: bool = True, text: bool = True) -> Path:
    """Write the towers of :func:`immich_folder` as transformers.js has them; one alone as Qdrant has it."""
    both = image and text
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    if image:
        graph = _visual("batch", dim)
        _rename(graph, "image", "pixel_values")
        _rename(graph, "embedding", "image_embeds")
        # optimum's towers give hidden states as well
        graph.output.insert(0, helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 3]))
        _save(graph, folder / ("onnx/vision_model.onnx" if both else "model.onnx"))
        processor = {"crop_size": 8, "do_center_crop": True, "do_resize": True, "size": {"shortest_edge": 8}}
        norm = {"image_mean": [0] * 3, "image_std": [1] * 3, "image_processor_type": "CLIPImageProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **norm, "resample": 3}))
    if text:
        graph = _textual("batch", TensorProto.INT64, True, dim)
        _rename(graph, "text", "input_ids")
        _rename(graph, "embedding", "text_embeds")
        graph.input.insert(0, graph.input.pop())  # the mask first: inputs are fed by name
        _save(graph, folder / ("onnx/text_model.onnx" if both else "model.onnx"))
        _tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    text_config = {"max_position_embeddings": LENGTH}
    config = {"model_type": "clip", "projection_dim": dim, "text_config": text_config}
    (folder / "config.json").write_text(json.dumps({**config, "vision_config": {"image_size": 8}}))
    return folder


def _rename(graph, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
