"""Pictures and words to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from t2i_pipelines.config import DEFAULT_MODEL
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ConfigError, EncodeError, QueryError
from t2i_pipelines.operators.base import ItemOperator
from t2i_pipelines.types import (
    Backend,
    Device,
    Encoder,
    Image,
    Matrix,
    Modality,
    OnError,
    Precision,
    Record,
    Stage,
    Vector,
)


class Clip(ItemOperator):
    """``ops.t2i.clip``: pictures or texts -> vectors, not normalised.

    :param modality: ``image`` or ``text``.
    """

    stage: ClassVar[Stage] = "encode"

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        modality: Modality = "image",
        checkpoint_path: str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        backend: Backend = "auto",
        on_error: OnError = "record",
    ) -> None:
        if modality not in ("image", "text"):
            raise ConfigError(f"modality must be 'image' or 'text', got {modality!r}")
        self._modality = modality
        self._model = (model_name, checkpoint_path, device, precision, backend)
        self.on_error = on_error

    @property
    def encoder(self) -> Encoder:
        """The model, loaded by the first use in the process."""
        return load_encoder(*self._model)

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N pictures ((H, W, 3) uint8 RGB) or N texts -> N vectors (D,) float32, one forward pass.

        An (F, H, W, 3) array is F frames of one animation; its vector is the mean of their unit vectors.

        :raises QueryError: If a text is empty or not a string.
        :raises EncodeError: If a picture is not an (H, W, 3) or (F, H, W, 3) uint8 array.
        """
        if self._modality == "text":
            return list(self.encoder.encode_texts([_text(item) for item in items]))
        images = [_image(item) for item in items]
        if any(image.ndim == 4 for image in images):
            return self._means([image if image.ndim == 4 else image[None] for image in images])
        return list(self.encoder.encode_images(images))

    def _means(self, animations: Sequence[Image]) -> list[Vector]:
        """Forward passes are no larger than without animations."""
        frames = [frame for animation in animations for frame in animation]
        step = len(animations)
        vectors = np.concatenate(
            [self.encoder.encode_images(frames[at : at + step]) for at in range(0, len(frames), step)]
        )
        ends = np.cumsum([len(animation) for animation in animations])[:-1]
        return [_mean(several) for several in np.split(vectors, ends)]

    def fill(self, records: list[Record]) -> None:
        """Embed the pictures of a batch in one forward pass, and let go of the pixels."""
        for record in records:
            record.stage = "encode"
        vectors = self.many([record.image for record in records]) if records else []
        for record, vector in zip(records, vectors, strict=True):
            record.vector, record.image = vector, None


def _text(item: Any) -> str:
    if not isinstance(item, str):
        raise QueryError(f"a query is a text; got {type(item).__name__}")
    if not item.strip():
        raise QueryError(f"the query is empty: {item!r}; say what to look for, for example 'a white dog'")
    return item


def _mean(vectors: Matrix) -> Vector:
    """(F, D) -> (D,): the mean of unit vectors; a single one stays as it is."""
    if len(vectors) == 1:
        single: Vector = vectors[0]
        return single
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    mean: Vector = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0).mean(axis=0)
    return mean


def _image(item: Any) -> Image:
    if (
        not isinstance(item, np.ndarray)
        or item.dtype != np.uint8
        or item.ndim not in (3, 4)
        or item.shape[-1] != 3
    ):
        got = f"{item.dtype} {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise EncodeError(f"a picture is an (H, W, 3) uint8 array, RGB; got {got}; see ops.t2i.image_decode")
    if not item.size:
        raise EncodeError(f"the picture has no pixels: shape {item.shape}")
    return np.asarray(item)
