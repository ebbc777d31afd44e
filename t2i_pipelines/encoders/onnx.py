"""Embed by two ONNX towers, without torch; :mod:`t2i_pipelines.encoders.onnx_folder` has the layouts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.encoders.backends import Input, Tower, choose_onnx, open_tower
from t2i_pipelines.encoders.digest import cached_digest, digest_onnx
from t2i_pipelines.encoders.int8 import int8_tower
from t2i_pipelines.encoders.onnx_folder import read_onnx_folder
from t2i_pipelines.encoders.tokenizer import TextTokenizer, by_length
from t2i_pipelines.errors import EncodeError
from t2i_pipelines.types import EXACT, Compute, Image, Matrix, Space

TEXTS_A_PASS = 256

logger = logging.getLogger(__name__)


class OnnxEncoder:
    """Images and texts to vectors. Thread-safe; towers are loaded when they are first needed.

    :param folder: an ONNX export.
    :param scripts: writing systems that the model learned, see :class:`TextTokenizer`.
    :param texts: the folder of the text tower, where it has one of its own.
    :raises CheckpointError: If a file is missing, or says what is not known.
    """

    def __init__(
        self,
        folder: str,
        model_name: str,
        scripts: Sequence[str] = (),
        compute: Compute = EXACT,
        texts: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.layout = read_onnx_folder(self.folder, texts)
        self._model_name = model_name
        self._scripts = scripts
        self._compute = compute
        self._texts = texts

    def run_by(self, compute: Compute) -> OnnxEncoder:
        """Return the same model, run otherwise."""
        return OnnxEncoder(str(self.folder), self._model_name, self._scripts, compute, self._texts)

    @cached_property
    def space(self) -> Space:
        """What the vectors mean."""
        layout = self.layout
        digest = cached_digest(layout.weights, lambda: digest_onnx(layout.image_tower, layout.text_tower))
        return Space(self._model_name, digest, str(layout.preprocess), layout.dim)

    @property
    def image_tower(self) -> Path:
        """The fp32 image tower."""
        return self.layout.image_tower

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
        return open_tower(self.layout.text_tower, running)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(
            self.layout.read_tokenizer(),
            clean=self.layout.clean,
            model_name=self._model_name,
            scripts=self._scripts,
        )

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the square that the model sees."""
        return self.layout.preprocess.fit(image)

    def tensor(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images -> (N, 3, S, S) float32, what the image tower takes."""
        return self.layout.preprocess.tensor(images)

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, D) float32, not normalised."""
        if not len(images):
            return np.empty((0, self.layout.dim), np.float32)
        return self._run(self._visual, [self.tensor(images)])

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised. A text that is too long for the model is cut."""
        passes = [texts[at : at + TEXTS_A_PASS] for at in range(0, len(texts), TEXTS_A_PASS)]
        if not passes:
            return np.empty((0, self.layout.dim), np.float32)
        return np.concatenate([self._encode(one) for one in passes])

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        return self._tokenizer.cut(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model reads."""
        return self._tokenizer.count(texts)

    def _encode(self, texts: Sequence[str]) -> Matrix:
        ids, mask = self._tokenizer.with_mask(texts)
        if self.layout.ends_at_highest_id:
            vectors = np.empty((len(ids), self.layout.dim), np.float32)
            for at, some in by_length(ids):
                vectors[at] = self._run(self._textual, [some])
            return vectors
        return self._run(self._textual, [_fed(one, ids, mask) for one in self._textual.inputs])

    def _run(self, tower: Tower, arrays: Sequence[np.ndarray]) -> Matrix:
        """Return one pass, or as many as a tower with a fixed batch size needs."""
        feeds = [array.astype(one.dtype, copy=False) for one, array in zip(tower.inputs, arrays, strict=True)]
        many = len(arrays[0])
        step = tower.inputs[0].batch or many
        vectors = np.concatenate([self._pass(tower, feeds, at, step) for at in range(0, many, step)])[:many]
        if vectors.shape != (many, self.layout.dim):
            raise EncodeError(f"{self._model_name} gave {vectors.shape}, not {(many, self.layout.dim)}")
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


def _fed(taken: Input, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return what an input of a text tower takes: ids, their mask, or BERT's types of tokens, all 0."""
    if "mask" in taken.name:
        return mask
    return np.zeros_like(ids) if "type" in taken.name else ids
