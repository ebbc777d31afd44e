"""Images and words to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from t2i_pipelines.config.checks import templates_of
from t2i_pipelines.config.settings import DEFAULT_MODEL, Model
from t2i_pipelines.encoders import load
from t2i_pipelines.encoders.vectors import mean_direction
from t2i_pipelines.errors import ConfigError, EncodeError, QueryError
from t2i_pipelines.operators.base import ItemOperator
from t2i_pipelines.search.query import Blend, Query, check_text, each_operand, replaced
from t2i_pipelines.types import (
    Backend,
    Device,
    Encoder,
    Image,
    Modality,
    OnError,
    Precision,
    Record,
    Stage,
    Vector,
)

IMAGES_A_PASS = 64
"""Images of queries that are embedded at once."""


class Clip(ItemOperator):
    """``ops.t2i.clip``: images or texts -> vectors, not normalised.

    :param modality: ``image``, or ``text``, which takes what ``ops.t2i.read_query`` gives, images included.
    :param templates: of texts: ``photo``, or your own with ``{}``; see :mod:`t2i_pipelines.config.checks`.
    :param model: the model, checked already; in place of its name, path and the like.
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
        templates: str | Sequence[str] = (),
        *,
        model: Model | None = None,
    ) -> None:
        if modality not in ("image", "text"):
            raise ConfigError(f"modality must be 'image' or 'text', got {modality!r}")
        self._modality = modality
        plain = (model_name, checkpoint_path, device, precision, backend)
        self._model = plain if model is None else model.lookup
        self.on_error = on_error
        self._templates = templates_of(templates)

    @property
    def encoder(self) -> Encoder:
        """The model, loaded by the first use in the process."""
        return load(*self._model).encoder

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N images ((H, W, 3) uint8 RGB) or N texts -> N vectors (D,) float32, one forward pass.

        An (F, H, W, 3) array is F frames of one animation; its vector is the mean of their unit vectors.
        Of a text that was embedded lately the vector is still known.

        :raises QueryError: If a text is none, see :func:`t2i_pipelines.search.query.check_text`.
        :raises EncodeError: If an image is not an (H, W, 3) or (F, H, W, 3) uint8 array.
        """
        if self._modality == "text":
            return each_operand([_checked(item) for item in items], self._queries)
        return self._images(items)

    def _queries(self, operands: list[Any]) -> list[Any]:
        """Return texts and images to vectors; one pass of texts, one of images."""
        operands = replaced(operands, lambda one: isinstance(one, str), self._texts)
        return replaced(operands, lambda one: one.dtype == np.uint8, self._images_of_queries)

    def _texts(self, texts: list[str]) -> list[Vector]:
        return load(*self._model).texts(texts, self._templates)

    def _images_of_queries(self, images: list[Image]) -> list[Vector]:
        """Return several queries may share an image."""
        different = {id(image): image for image in images}
        unique = list(different.values())
        vectors = [
            vector
            for at in range(0, len(unique), IMAGES_A_PASS)
            for vector in self._images(unique[at : at + IMAGES_A_PASS])
        ]
        known = dict(zip(different, vectors, strict=True))
        return [known[id(image)] for image in images]

    def _images(self, items: Sequence[Any]) -> list[Vector]:
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
        return [mean_direction(several) for several in np.split(vectors, ends)]

    def fill(self, records: list[Record]) -> None:
        """Embed the images of a batch in one forward pass, and release the pixels."""
        for record in records:
            record.stage = "encode"
        vectors = self.many([record.image for record in records]) if records else []
        for record, vector in zip(records, vectors, strict=True):
            record.vector, record.image = vector, None


def _checked(item: Any) -> str | Blend:
    if isinstance(item, Query):
        raise QueryError(f"ops.t2i.read_query comes before ops.t2i.clip, for queries such as {item}")
    return item if isinstance(item, Blend) else check_text(item)


def _image(item: Any) -> Image:
    if (
        not isinstance(item, np.ndarray)
        or item.dtype != np.uint8
        or item.ndim not in (3, 4)
        or item.shape[-1] != 3
    ):
        got = f"{item.dtype} {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise EncodeError(f"an image is an (H, W, 3) uint8 array, RGB; got {got}; see ops.t2i.image_decode")
    if not item.size:
        raise EncodeError(f"the image has no pixels: shape {item.shape}")
    return np.asarray(item)
