"""Read the layout of an ONNX export: where its towers, tokenizer and preprocessing are.

Immich's, which it publishes for OpenCLIP and SigLIP models (read by its
``machine-learning/immich_ml/models/clip``, written by its ``immich_model_exporter`` and by ``t2i export``)::

    config.json                      open_clip's model config: embed_dim, text_cfg
    visual/model.onnx                (N, 3, S, S) float32 -> (N, D) float32
    visual/preprocess_cfg.json       open_clip's preprocessing settings
    textual/model.onnx               (N, L) int32 -> (N, D) float32
    textual/tokenizer.json           Hugging Face tokenizers
    textual/tokenizer_config.json    names the padding token

Its ``tokenizer.json`` neither pads nor cuts: L is ``text_cfg.context_length``, 77 if that is absent. Where
``config.json`` is not open_clip's (it has no ``vision_cfg``), the tokenizer's own padding, truncation and
cleaning hold. ``text_ends_at_highest_id`` there, which Immich does not write, says that the text tower takes
any L, and that its attention is causal: texts are then padded no further than they need.

That of transformers.js (Xenova, onnx-community), written by ``optimum``::

    onnx/vision_model.onnx  onnx/text_model.onnx    or ..._fp16.onnx
    config.json  preprocessor_config.json  tokenizer.json  tokenizer_config.json

Qdrant's (fastembed): a folder for each tower, with ``model.onnx`` and transformers' files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import CONTEXT_LENGTH, read_tokenizer
from t2i_pipelines.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = (
    "config.json",
    "visual/model.onnx",
    "visual/preprocess_cfg.json",
    "textual/model.onnx",
    "textual/tokenizer.json",
)
"""The files of Immich's layout."""
IMAGE_TOWERS = ("onnx/vision_model.onnx", "onnx/vision_model_fp16.onnx")
TEXT_TOWERS = ("onnx/text_model.onnx", "onnx/text_model_fp16.onnx")
ONE_TOWER = "model.onnx"
PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_NO_WEIGHTS = (".onnx", ".json", ".txt", ".md", ".model", ".armnn", ".rknn")
"""Suffixes of files in a tower's folder that hold none of its weights."""
ENDED = "text_ends_at_highest_id"
_CLEAN = {"clip": "lower", "clip_text_model": "lower", "clip_vision_model": "lower"}
"""model_type of transformers -> how its texts are cleaned; others leave it to ``tokenizer.json``."""


@dataclass(frozen=True, kw_only=True)
class OnnxFolder:
    """The files of an ONNX export, and how its towers are fed.

    :ivar image_tower: (N, 3, S, S) float -> (N, D) float.
    :ivar text_tower: (N, L) integers -> (N, D) float.
    :ivar tokenizer: a Hugging Face ``tokenizer.json``.
    :ivar preprocess: how an image becomes a tensor.
    :ivar dim: length of a vector.
    :ivar context_length: tokens that a text is padded or cut to; None leaves both to the tokenizer.
    :ivar clean: how texts are cleaned: a key of ``tokenizer.CLEANING``.
    :ivar ends_at_highest_id: whether texts may be shorter than ``context_length``.
    """

    image_tower: Path
    text_tower: Path
    tokenizer: Path
    preprocess: Preprocess
    dim: int
    context_length: int | None
    clean: str
    ends_at_highest_id: bool = False

    @property
    def weights(self) -> list[Path]:
        """The files that hold weights; towers above 2 GB keep theirs in further files."""
        towers = (self.image_tower, self.text_tower)
        outside = []
        for tower in towers:
            there = sorted(path for path in tower.parent.iterdir() if path.is_file())
            outside += [
                Path(name) for name in external_files(tower.as_posix(), (path.as_posix() for path in there))
            ]
        return [*towers, *outside]

    def read_tokenizer(self) -> Tokenizer:
        """Read the tokenizer, padding and cutting to the context length.

        :raises CheckpointError: If it is damaged, or does not say what to pad with.
        """
        if self.context_length is None:
            return read_tokenizer(self.tokenizer)
        return read_tokenizer(self.tokenizer, self.context_length, pad_token_of(self.tokenizer.parent))


def external_files(tower: str, names: Iterable[str]) -> list[str]:
    """Return the files that may hold weights of a tower: one or more, or, in Immich's layout, one a tensor.

    torch's exporter names those of Immich's large models by their tensors, such as ``onnx__MatMul_2953``.

    :param names: of files, as the tower is named.
    """
    folder, _, file = tower.rpartition("/")
    if f"{folder.rpartition('/')[2]}/{file}" not in FILES:
        return [name for name in names if name.startswith((f"{tower}_data", f"{tower}.data"))]
    return [
        name
        for name in names
        if (parts := name.rpartition("/"))[0] == folder
        and not parts[2].startswith(".")
        and not parts[2].endswith(_NO_WEIGHTS)
    ]


def is_onnx_folder(folder: Path) -> bool:
    """Return whether a folder holds a tower of an ONNX export."""
    names = (*FILES[1:], *IMAGE_TOWERS, *TEXT_TOWERS, ONE_TOWER)
    return any((folder / name).is_file() for name in names)


def read_onnx_folder(folder: Path, texts: Path | None = None) -> OnnxFolder:
    """Find the parts of an ONNX export; towers are not loaded.

    :param texts: the folder of the text tower, where it has one of its own.
    :raises CheckpointError: If a file is missing, or says what is not known here.
    """
    try:
        return _read(folder, texts or folder)
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        if isinstance(err, CheckpointError):
            raise
        reason = f"{type(err).__name__} {err}"
        raise CheckpointError(
            f"{folder} holds a JSON file with a value of another kind than expected: {reason}"
        ) from err


def _read(folder: Path, texts: Path) -> OnnxFolder:
    image_tower = _first(folder, (*IMAGE_TOWERS, ONE_TOWER))
    text_tower = _first(texts, TEXT_TOWERS if texts == folder else (*TEXT_TOWERS, ONE_TOWER))
    if image_tower is None and (folder / ONE_TOWER) != text_tower:
        return _immichs(folder)
    if image_tower is None or text_tower is None:
        lacking, place = ("image", folder) if image_tower is None else ("text", texts)
        raise CheckpointError(
            f"{place} has no {lacking} tower: none of {', '.join((*IMAGE_TOWERS, *TEXT_TOWERS))}; a "
            f"{ONE_TOWER} alone is one tower, and the other is in a repository of its own"
        )
    config, text_config = read_json(folder / "config.json"), read_json(texts / "config.json")
    read = OnnxFolder(
        image_tower=image_tower,
        text_tower=text_tower,
        tokenizer=texts / TOKENIZER,
        preprocess=_preprocess(config, folder),
        dim=_dim(config, folder),
        context_length=_context_length(text_config, texts),
        clean=_CLEAN.get(str(text_config.get("model_type")), "none"),
    )
    if not read.tokenizer.is_file():
        raise CheckpointError(f"no {TOKENIZER} in {texts}, which the text tower needs")
    return read


def _immichs(folder: Path) -> OnnxFolder:
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise CheckpointError(f"no {', '.join(missing)} in {folder}; a model folder holds {', '.join(FILES)}")
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config.get("embed_dim"), int):
        raise CheckpointError(f"{path} has no embed_dim")
    openclips = "vision_cfg" in config
    if openclips and not isinstance(config.get("text_cfg"), dict):
        raise CheckpointError(f"{path} has a vision_cfg, but no text_cfg")
    text_cfg = config["text_cfg"] if openclips else {}
    return OnnxFolder(
        image_tower=folder / "visual/model.onnx",
        text_tower=folder / "textual/model.onnx",
        tokenizer=folder / "textual/tokenizer.json",
        preprocess=Preprocess.load(folder / "visual/preprocess_cfg.json"),
        dim=config["embed_dim"],
        context_length=int(text_cfg.get("context_length", CONTEXT_LENGTH)) if openclips else None,
        clean=cleaning(text_cfg) if openclips else "none",
        ends_at_highest_id=config.get(ENDED) is True,
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _preprocess(config: Mapping[str, Any], folder: Path) -> Preprocess:
    size = (config.get("vision_config") or config).get("image_size", 224)
    path = folder / PREPROCESSOR
    return Preprocess.of_processor(read_json(path), str(path), int(size))


def _dim(config: Mapping[str, Any], folder: Path) -> int:
    """Return the length of a vector, which transformers' configs give in one of three places."""
    vision = config.get("vision_config") or {}
    for found in (config.get("projection_dim"), vision.get("projection_dim"), vision.get("hidden_size")):
        if isinstance(found, int):
            return found
    raise CheckpointError(f"{folder / 'config.json'} has no projection_dim, nor vision_config.hidden_size")


def _context_length(config: Mapping[str, Any], folder: Path) -> int:
    """Return how many tokens a text may have, which transformers' files give in one of three places."""
    config_file = folder / TOKENIZER_CONFIG
    text = config.get("text_config") or config
    stated = read_json(config_file).get("model_max_length") if config_file.is_file() else None
    for found in (text.get("max_position_embeddings"), stated):
        if isinstance(found, int) and found < 1 << 16:  # transformers writes 10^30 for "no limit"
            return found
    return CONTEXT_LENGTH


def pad_token_of(folder: Path) -> str | None:
    """Return the padding token that ``tokenizer_config.json`` names, if there is one."""
    config_file = folder / TOKENIZER_CONFIG
    pad_token = read_json(config_file).get("pad_token") if config_file.is_file() else None
    # an AddedToken, as transformers 4 writes it
    return pad_token.get("content") if isinstance(pad_token, dict) else pad_token


def cleaning(text_cfg: Mapping[str, Any]) -> str:
    """Return how open_clip cleans texts for a model of this ``text_cfg``: a key of ``tokenizer.CLEANING``."""
    own = "whitespace" if {"hf_tokenizer_name", "hf_model_name"} & text_cfg.keys() else "lower"
    return str(text_cfg.get("tokenizer_kwargs", {}).get("clean", own))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises CheckpointError: If the file holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointError(f"{path} cannot be read: {err}") from err
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not an object")
    return found
