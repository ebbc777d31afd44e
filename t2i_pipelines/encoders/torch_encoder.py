"""A CLIP-like model from a torch checkpoint, run by torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i_pipelines._towhee.locks import in_forked_child
from t2i_pipelines.encoders import transformers_clip
from t2i_pipelines.encoders.backends import choose_torch
from t2i_pipelines.encoders.checkpoints import files_of, read_weights
from t2i_pipelines.encoders.digest import cached_digest, digest_module
from t2i_pipelines.encoders.formats import Checkpoint, FamilyCheckpoint, read_checkpoint
from t2i_pipelines.encoders.models import ModelInfo
from t2i_pipelines.encoders.openai_clip import build_clip, build_openclip, encode_text
from t2i_pipelines.encoders.tokenizer import TextTokenizer, by_length
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import EXACT, Compute, Image, Matrix, Space

TEXTS_A_PASS = 256

logger = logging.getLogger(__name__)

in_forked_child(partial(torch.set_num_threads, 1))  # torch's own threads are gone, and it would wait for them


@dataclass(frozen=True)
class TorchModel:
    """A loaded checkpoint.

    :ivar module: the whole model, in evaluation mode.
    :ivar checkpoint: how it was stored.
    :ivar encode_image: (N, 3, S, S) float32 -> (N, D).
    :ivar encode_text: (N, L) int64 -> (N, D).
    :ivar reads_ended: ``encode_text`` takes texts that end with their last token, see
        :func:`~t2i_pipelines.encoders.tokenizer.by_length`.
    """

    module: nn.Module
    checkpoint: Checkpoint
    encode_image: Callable[[torch.Tensor], torch.Tensor]
    encode_text: Callable[[torch.Tensor], torch.Tensor]
    reads_ended: bool = False


class TorchEncoder:
    """Images and texts to vectors. Thread-safe; weights are read when they are first needed.

    :param path: a checkpoint file, or the folder that it is in.
    :param info: the model that it should be; sizes that differ are refused.
    :param compute: where it is run, and with which numbers.
    :param pair: see :func:`~t2i_pipelines.encoders.formats.read_checkpoint`.
    """

    def __init__(
        self,
        path: str,
        model_name: str,
        info: ModelInfo | None = None,
        compute: Compute = EXACT,
        pair: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._pair = pair
        self._model_name = model_name
        self._info = info
        self._compute = compute
        self._lock = threading.Lock()
        self._loaded: TorchModel | None = None
        self._space: Space | None = None
        self._tokenizer: TextTokenizer | None = None
        if not self._path.exists():
            raise CheckpointError(f"no checkpoint at {path}")

    @property
    def model(self) -> TorchModel:
        """The model, loaded by the first use."""
        with self._lock:
            if self._loaded is None:
                self._load()
            assert self._loaded is not None
            return self._loaded

    def _load(self) -> None:
        checkpoint = read_checkpoint(self._path, self._info, self._pair)
        loaded = load_model(checkpoint, self.running.device)
        if (
            (info := self._info)
            and info.dim
            and (checkpoint.dim, checkpoint.preprocess.size)
            != (
                info.dim,
                info.resolution,
            )
        ):
            raise CheckpointError(
                f"{checkpoint.weights} is not {info.name}: its vectors have {checkpoint.dim} numbers and it "
                f"sees {checkpoint.preprocess.size} pixels; {info.name} has {info.dim} and {info.resolution}"
            )
        self._tokenizer = TextTokenizer(
            checkpoint.tokenizer(),
            clean=checkpoint.clean,
            model_name=self._model_name,
            scripts=self._info.scripts if self._info else (),
        )
        self._space = Space(self._model_name, _digest(loaded), str(checkpoint.preprocess), checkpoint.dim)
        self._loaded = loaded

    @cached_property
    def running(self) -> Compute:
        """How the model is run: what ``auto`` came to."""
        running = choose_torch(self._compute)
        logger.info("%s runs by %s", self._model_name, running)
        return running

    @property
    def space(self) -> Space:
        """What the vectors mean; the digest covers the weights and what decides how they are used."""
        self.model  # noqa: B018 - loads
        assert self._space is not None
        return self._space

    @property
    def tokenizer(self) -> TextTokenizer:
        """The one tokenizer of this model."""
        self.model  # noqa: B018 - loads
        assert self._tokenizer is not None
        return self._tokenizer

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the square that the model sees."""
        return self.model.checkpoint.preprocess.fit(image)

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, D) float32, not normalised."""
        if not len(images):
            return np.empty((0, self.space.dim), np.float32)
        pixels = torch.from_numpy(self.model.checkpoint.preprocess.tensor(images))
        return self._run(self.model.encode_image, pixels)

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised. A text that is too long for the model is cut."""
        passes = [texts[at : at + TEXTS_A_PASS] for at in range(0, len(texts), TEXTS_A_PASS)]
        if not passes:
            return np.empty((0, self.space.dim), np.float32)
        return np.concatenate([self._encode(one) for one in passes])

    def _encode(self, texts: Sequence[str]) -> Matrix:
        encode, ids = self.model.encode_text, self.tokenizer(texts)
        if not self.model.reads_ended:
            return self._run(encode, torch.from_numpy(ids))
        vectors = np.empty((len(ids), self.space.dim), np.float32)
        for at, some in by_length(ids):
            vectors[at] = self._run(encode, torch.from_numpy(some))
        return vectors

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        return self.tokenizer.cut(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model reads."""
        return self.tokenizer.count(texts)

    def _run(self, encode: Callable[[torch.Tensor], torch.Tensor], items: torch.Tensor) -> Matrix:
        return run_pass(encode, items, self.running)


def run_pass(encode: Callable[[torch.Tensor], torch.Tensor], items: torch.Tensor, running: Compute) -> Matrix:
    """Return what a model gives for some items: (N, ...) -> (N, D) float32."""
    dtype = torch.float16 if running.precision == "fp16" else torch.bfloat16
    halves = torch.autocast(running.device, dtype, enabled=running.precision != "fp32")
    with torch.inference_mode(), halves:
        return np.asarray(encode(items.to(running.device)).float().cpu().numpy(), np.float32)


def load_model(checkpoint: Checkpoint, device: str = "cpu") -> TorchModel:
    """Build the model of a checkpoint, fill in its weights, and move it to a device.

    :raises CheckpointError: If the weights do not fit.
    """
    weights = read_weights(checkpoint.weights)
    where = str(checkpoint.weights)
    if isinstance(checkpoint, FamilyCheckpoint):
        built = checkpoint.build(weights).to(device)
        images = partial(transformers_clip.encode_image, built)
        texts = partial(transformers_clip.encode_text, built, checkpoint.masked)
        return TorchModel(built, checkpoint, images, texts)
    if checkpoint.details is None:
        model: Any = build_openclip(checkpoint.config, weights, where).to(device)
        return TorchModel(model, checkpoint, model.encode_image, model.encode_text)
    model, sizes = build_clip(weights, checkpoint.details, where)
    checkpoint.take_sizes(sizes)
    model = model.to(device)
    return TorchModel(model, checkpoint, model.encode_image, partial(encode_text, model), True)


def _digest(loaded: TorchModel) -> str:
    checkpoint = loaded.checkpoint
    quick = bool(
        checkpoint.details.quick_gelu[1] if checkpoint.details else checkpoint.config.get("quick_gelu")
    )
    compute = partial(digest_module, loaded.module, quick_gelu=quick)
    return cached_digest(files_of(checkpoint.weights), compute, f"{quick}")
