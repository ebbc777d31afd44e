"""A CLIP-like model as a folder of two ONNX towers, run by ONNX Runtime without torch.

The layout is that which Immich publishes for OpenCLIP and SigLIP models (read by its
``machine-learning/immich_ml/models/clip``, written by its ``immich_model_exporter``)::

    config.json                      open_clip's model config: embed_dim, text_cfg
    visual/model.onnx                (N, 3, S, S) float32 -> (N, D) float32
    visual/preprocess_cfg.json       open_clip's preprocessing settings
    textual/model.onnx               (N, L) int32 -> (N, D) float32
    textual/tokenizer.json           Hugging Face tokenizers
    textual/tokenizer_config.json    names the padding token

Immich's towers take one item at a time (N = 1), and its ``tokenizer.json`` neither pads nor cuts: L is
``text_cfg.context_length``, 77 if that is absent. Where ``config.json`` is not open_clip's (it has no
``vision_cfg``), the tokenizer's own padding, truncation and cleaning hold. ``text_ends_at_highest_id`` there,
which Immich does not write, says that the text tower takes any L, and that its attention is causal: texts are
then padded no further than they need.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.encoders.backends import Tower, choose_onnx, open_tower
from t2i_pipelines.encoders.int8 import int8_tower
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import CONTEXT_LENGTH, TextTokenizer, by_length, read_tokenizer
from t2i_pipelines.errors import CheckpointError, EncodeError
from t2i_pipelines.types import EXACT, Compute, Image, Matrix, Space

FILES = (
    "config.json",
    "visual/model.onnx",
    "visual/preprocess_cfg.json",
    "textual/model.onnx",
    "textual/tokenizer.json",
)
TEXTS_A_PASS = 256
ENDED = "text_ends_at_highest_id"

logger = logging.getLogger(__name__)


class OnnxEncoder:
    """Images and texts to vectors. Thread-safe; files are read when they are first needed.

    :param scripts: writing systems that the model learned, see :class:`TextTokenizer`.
    """

    def __init__(
        self, folder: str, model_name: str, scripts: Sequence[str] = (), compute: Compute = EXACT
    ) -> None:
        self.folder = Path(folder)
        self._model_name = model_name
        self._scripts = scripts
        self._compute = compute
        if missing := [name for name in FILES if not (self.folder / name).is_file()]:
            raise CheckpointError(
                f"no {', '.join(missing)} in {folder}; a model folder holds {', '.join(FILES)}"
            )

    @cached_property
    def space(self) -> Space:
        """What the vectors mean; the digest covers every file of the model."""
        digest = hashlib.blake2b(digest_size=16)
        # towers above 2 GB keep their weights in further files
        outside = sorted(self.folder.glob("*/*.onnx.data"))
        for path in [*(self.folder / name for name in FILES[1:]), *outside]:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        if "vision_cfg" in self._config:
            digest.update(json.dumps(self._config["text_cfg"], sort_keys=True).encode())
        return Space(self._model_name, digest.hexdigest(), str(self._preprocess), self._dim)

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        path = self.folder / "config.json"
        config = read_json(path)
        if not isinstance(config.get("embed_dim"), int):
            raise CheckpointError(f"{path} has no embed_dim")
        if "vision_cfg" in config and not isinstance(config.get("text_cfg"), dict):
            raise CheckpointError(f"{path} has a vision_cfg, but no text_cfg")
        return config

    @property
    def _dim(self) -> int:
        return int(self._config["embed_dim"])

    @cached_property
    def _preprocess(self) -> Preprocess:
        return Preprocess.load(self.folder / "visual/preprocess_cfg.json")

    @property
    def image_tower(self) -> Path:
        """The fp32 image tower."""
        return self.folder / "visual/model.onnx"

    @cached_property
    def running(self) -> Compute:
        """How the model is run: what ``auto`` came to."""
        running = choose_onnx(self._compute)
        logger.info("%s runs by %s", self._model_name, running)
        return running

    @cached_property
    def _visual(self) -> Tower:
        int8 = self.running.precision == "int8"
        return open_tower(int8_tower(self.space, self.folder) if int8 else self.image_tower, self.running)

    @cached_property
    def _textual(self) -> Tower:
        # int8 is for images: a text takes milliseconds, and is not what calibration has seen
        running = self.running
        if running.precision == "int8":
            running = choose_onnx(replace(running, precision="auto"))
        return open_tower(self.folder / "textual/model.onnx", running)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        path = self.folder / "textual/tokenizer.json"
        if "vision_cfg" not in self._config:
            return TextTokenizer(read_tokenizer(path), model_name=self._model_name, scripts=self._scripts)
        text_cfg = self._config["text_cfg"]
        beside = path.with_name("tokenizer_config.json")
        pad_token = read_json(beside).get("pad_token") if beside.is_file() else None
        if isinstance(pad_token, dict):  # an AddedToken as transformers 4 writes it
            pad_token = pad_token["content"]
        return TextTokenizer(
            read_tokenizer(path, text_cfg.get("context_length", CONTEXT_LENGTH), pad_token),
            clean=cleaning(text_cfg),
            model_name=self._model_name,
            scripts=self._scripts,
        )

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the square that the model sees."""
        return self._preprocess.fit(image)

    def tensor(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images -> (N, 3, S, S) float32, what the image tower takes."""
        return self._preprocess.tensor(images)

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, D) float32, not normalised."""
        if not len(images):
            return np.empty((0, self._dim), np.float32)
        return self._run(self._visual, [self.tensor(images)])

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised. A text that is too long for the model is cut."""
        passes = [texts[at : at + TEXTS_A_PASS] for at in range(0, len(texts), TEXTS_A_PASS)]
        if not passes:
            return np.empty((0, self._dim), np.float32)
        return np.concatenate([self._encode(one) for one in passes])

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        return self._tokenizer.cut(texts)

    def _encode(self, texts: Sequence[str]) -> Matrix:
        ids, mask = self._tokenizer.with_mask(texts)
        if self._config.get(ENDED) is True:
            vectors = np.empty((len(ids), self._dim), np.float32)
            for at, some in by_length(ids):
                vectors[at] = self._run(self._textual, [some])
            return vectors
        return self._run(self._textual, [ids, mask][: len(self._textual.inputs)])

    def _run(self, tower: Tower, arrays: Sequence[np.ndarray]) -> Matrix:
        """Return one pass, or as many as a tower with a fixed batch size needs."""
        feeds = [array.astype(one.dtype, copy=False) for one, array in zip(tower.inputs, arrays, strict=True)]
        many = len(arrays[0])
        step = tower.inputs[0].batch or many
        vectors = np.concatenate([self._pass(tower, feeds, at, step) for at in range(0, many, step)])[:many]
        if vectors.shape != (many, self._dim):
            raise EncodeError(f"{self._model_name} gave {vectors.shape}, not {(many, self._dim)}")
        return vectors

    def _pass(self, tower: Tower, arrays: Sequence[np.ndarray], at: int, step: int) -> np.ndarray:
        some = [array[at : at + step] for array in arrays]
        shape = some[0].shape
        if short := step - shape[0]:  # a fixed batch is filled up with its last item
            some = [np.concatenate([one, np.repeat(one[-1:], short, 0)]) for one in some]
        try:
            return tower.run(some)
        except Exception as err:  # the backends have no base class of their own errors
            raise EncodeError(f"{self._model_name} cannot embed a batch of shape {shape}: {err}") from err


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
