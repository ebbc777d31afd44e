"""The model that fine-tuning starts from, as a module of its own that may be changed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from t2i_pipelines.encoders import load_encoder, named
from t2i_pipelines.encoders.export import load_clip
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.onnx_folder import FILES, read_json
from t2i_pipelines.encoders.places import fetch
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import TextTokenizer, read_tokenizer
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import EXACT


@dataclass(frozen=True)
class Start:
    """A CLIP of OpenAI's architecture, ready to be trained.

    :ivar name: what the model goes by.
    :ivar module: a ``towhee.models.clip.CLIP`` in float32, on the CPU, in evaluation mode.
    :ivar model_cfg: open_clip's ``model_cfg``, from which the module can be built again.
    :ivar digest: of the weights and all else that decides a vector.
    """

    name: str
    module: Any
    model_cfg: dict[str, Any]
    preprocess: Preprocess
    tokenizer: TextTokenizer
    digest: str


def open_start(model_name: str, checkpoint_path: str | Path | None) -> Start:
    """Load a copy of the model; the one that others have loaded stays unchanged.

    :raises UnknownModelError: If the name is unknown and no path.
    :raises CheckpointError: If its files are missing, damaged, or none that can be trained.
    """
    path = _place(model_name, checkpoint_path)
    info = named(model_name)
    name = info.name if info else Path(model_name).name
    if any((path / file).is_file() for file in FILES if "/" in file):
        return _of_onnx(path, name)
    return _of_torch(TorchEncoder(str(path), name, info, EXACT), name)


def _place(model_name: str, checkpoint_path: str | Path | None) -> Path:
    if checkpoint_path is not None:
        return Path(checkpoint_path).expanduser()
    info = named(model_name)
    if info is not None and info.name == "t2i_mini":
        return Path(str(files("t2i_pipelines.encoders") / "t2i_mini"))
    if info is not None:
        return fetch(info, torch_only=True).path
    path = Path(model_name).expanduser()
    if not path.exists():
        load_encoder(model_name)  # says that the name is unknown, unless it was registered
        raise CheckpointError(
            f"{model_name} was registered as an encoder, which can be run, not trained; name a CLIP's path"
        )
    return path


def _of_onnx(folder: Path, name: str) -> Start:
    """Return an ONNX folder that was exported with the names of its weights, as t2i_mini is."""
    config = read_json(folder / "config.json")
    if "towhee_clip" not in config:
        raise CheckpointError(
            f"{folder} is an ONNX folder, which does not tell how to train the model; name the torch "
            "checkpoint that it was exported from"
        )
    sizes = config["towhee_clip"]
    layers, width = sizes["vision_layers"], sizes["vision_width"]
    model_cfg = {
        "embed_dim": sizes["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": sizes["image_resolution"],
            "layers": layers,
            "width": width,
            "patch_size": sizes["vision_patch_size"],
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": sizes["context_length"],
            "vocab_size": sizes["vocab_size"],
            "width": sizes["transformer_width"],
            "heads": sizes["transformer_heads"],
            "layers": sizes["transformer_layers"],
            "tokenizer_kwargs": {"clean": "none"},
        },
    }
    return Start(
        name=name,
        module=load_clip(folder).requires_grad_(False),
        model_cfg=model_cfg,
        preprocess=Preprocess.load(folder / "visual/preprocess_cfg.json"),
        tokenizer=TextTokenizer(read_tokenizer(folder / "textual/tokenizer.json"), model_name=name),
        digest=OnnxEncoder(str(folder), name).space.weights,
    )


def _of_torch(encoder: TorchEncoder, name: str) -> Start:
    model = encoder.model
    checkpoint, details = model.checkpoint, model.checkpoint.details
    if details is None:
        raise CheckpointError(
            f"{checkpoint.weights} is not of OpenAI's architecture, which alone can be fine-tuned here: "
            "OpenAI's CLIPs and those of open_clip without further parts"
        )
    if len(set(details.quick_gelu)) > 1 or details.epsilon != 1e-5:
        raise CheckpointError(
            f"{checkpoint.weights} has {details}; what is fine-tuned is stored in open_clip's layout, which "
            "knows one activation for both towers and a layer norm epsilon of 1e-5"
        )
    vision = dict(checkpoint.config["vision_cfg"])
    inner = vision["width"] * (32 if isinstance(vision["layers"], list) else 1)
    vision["head_width"] = inner // (details.heads[0] or max(inner // 64, 1))
    clean = {} if checkpoint.clean == "lower" else {"tokenizer_kwargs": {"clean": checkpoint.clean}}
    return Start(
        name=name,
        module=model.module,
        model_cfg={
            "embed_dim": checkpoint.dim,
            "quick_gelu": details.quick_gelu[0],
            "vision_cfg": vision,
            "text_cfg": {**checkpoint.config["text_cfg"], **clean},
        },
        preprocess=checkpoint.preprocess,
        tokenizer=encoder.tokenizer,
        digest=encoder.space.weights,
    )
