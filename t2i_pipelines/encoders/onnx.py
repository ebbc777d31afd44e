"""A CLIP-like model as a folder of two ONNX towers, run by ONNX Runtime without torch.

The layout is that of the OpenCLIP exports that Immich publishes::

    config.json                    embed_dim, sizes
    visual/model.onnx              (N, 3, S, S) float32 -> (N, D) float32
    visual/preprocess_cfg.json     open_clip's preprocessing settings
    textual/model.onnx             (N, L) int32 -> (N, D) float32
    textual/tokenizer.json         Hugging Face tokenizers, with padding and truncation to L
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.errors import CheckpointError, EncodeError
from t2i_pipelines.types import Image, Matrix, Space

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = (
    "config.json",
    "visual/model.onnx",
    "visual/preprocess_cfg.json",
    "textual/model.onnx",
    "textual/tokenizer.json",
)
TEXTS_A_PASS = 256


class OnnxEncoder:
    """Pictures and texts to vectors. Thread-safe; files are read when they are first needed."""

    def __init__(self, folder: str, model_name: str) -> None:
        self._folder = Path(folder)
        self._model_name = model_name
        if missing := [name for name in FILES if not (self._folder / name).is_file()]:
            raise CheckpointError(
                f"no {', '.join(missing)} in {folder}; a model folder holds {', '.join(FILES)}"
            )

    @cached_property
    def space(self) -> Space:
        """What the vectors mean; the digest covers every file of the model."""
        digest = hashlib.blake2b(digest_size=16)
        for name in FILES[1:]:
            digest.update((self._folder / name).read_bytes())
        return Space(self._model_name, digest.hexdigest(), str(self._preprocess), self._dim)

    @cached_property
    def _preprocess(self) -> Preprocess:
        return Preprocess.load(self._folder / "visual/preprocess_cfg.json")

    @cached_property
    def _dim(self) -> int:
        path = self._folder / "config.json"
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["embed_dim"])
        except (ValueError, KeyError, TypeError) as err:
            raise CheckpointError(f"{path} has no embed_dim: {err}") from err

    @cached_property
    def _visual(self) -> Any:
        return _session(self._folder / "visual/model.onnx")

    @cached_property
    def _textual(self) -> Any:
        return _session(self._folder / "textual/model.onnx")

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        path = self._folder / "textual/tokenizer.json"
        try:
            return Tokenizer.from_file(str(path))
        except Exception as err:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path} is not a tokenizer: {err}") from err

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the square that the model sees."""
        return self._preprocess.fit(image)

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N pictures -> (N, D) float32, not normalised."""
        if not len(images):
            return np.empty((0, self._dim), np.float32)
        return self._run(self._visual, self._preprocess.tensor(images))

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised. A text that is too long for the model is cut."""
        passes = [texts[at : at + TEXTS_A_PASS] for at in range(0, len(texts), TEXTS_A_PASS)]
        if not passes:
            return np.empty((0, self._dim), np.float32)
        return np.concatenate([self._run(self._textual, self._tokens(one)) for one in passes])

    def _tokens(self, texts: Sequence[str]) -> np.ndarray:
        kind = np.int64 if "int64" in self._textual.get_inputs()[0].type else np.int32
        return np.array([one.ids for one in self._tokenizer.encode_batch(list(texts))], kind)

    def _run(self, session: Any, batch: np.ndarray) -> Matrix:
        try:
            (vectors,) = session.run(None, {session.get_inputs()[0].name: batch})
        except Exception as err:  # ONNX Runtime has no base class of its own errors
            raise EncodeError(
                f"{self._model_name} cannot embed a batch of shape {batch.shape}: {err}"
            ) from err
        if vectors.shape != (len(batch), self._dim):
            raise EncodeError(f"{self._model_name} gave {vectors.shape}, not {(len(batch), self._dim)}")
        return np.asarray(vectors, np.float32)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as err:
        raise CheckpointError(f"{path} cannot be loaded: {str(err).splitlines()[0]}") from err
