"""What flows through the pipelines: images, vectors, records, hits, and what a model must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""One picture: (H, W, 3) uint8, RGB."""

Vector: TypeAlias = NDArray[np.float32]
"""One embedding: (D,) float32."""

Matrix: TypeAlias = NDArray[np.float32]
"""N embeddings: (N, D) float32."""

Modality: TypeAlias = Literal["image", "text"]
Status: TypeAlias = Literal["inserted", "unchanged", "failed"]
OnError: TypeAlias = Literal["record", "raise"]


@dataclass(frozen=True)
class Space:
    """What makes two vectors comparable. Stored with every collection and checked when it is opened.

    Two CLIP models may share a dimension, so ``dim`` alone cannot catch a swap; the digests can.

    :ivar model_name: the name that the collection was made with.
    :ivar weights: hex digest of the weights, over every file that decides a vector.
    :ivar preprocessing: how a picture becomes a tensor, in one line, for example
        ``squash 64 bicubic mean=(0.48, 0.46, 0.41) std=(0.27, 0.26, 0.28)``.
    :ivar dim: length of a vector.
    :ivar metric: always ``COSINE``; vectors are stored with unit length.
    """

    model_name: str
    weights: str
    preprocessing: str
    dim: int
    metric: Literal["COSINE"] = "COSINE"


class Hit(NamedTuple):
    """One search result. Unpacks and indexes as ``(id, score, path, fields)``.

    :ivar id: primary key.
    :ivar score: cosine similarity in [-1, 1], higher is better.
    :ivar path: where the picture is.
    :ivar fields: the other ``output_fields`` that were asked for.
    """

    id: str
    score: float
    path: str
    fields: Mapping[str, Any] = {}  # noqa: RUF012 - an immutable default: nothing writes to it


class Encoder(Protocol):
    """A model with one vector space for pictures and words. Thread-safe.

    Vectors are *not* normalised: that is the pipeline's own, visible step.
    """

    @property
    def space(self) -> Space:
        """What the vectors mean. Costs no inference."""
        ...

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the (R, R, 3) uint8 that the model sees. ``fit(fit(x))`` is ``fit(x)``."""
        ...

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N pictures of any size, or fitted ones -> (N, D) float32, one forward pass."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, one forward pass. Longer texts than the model reads are cut."""
        ...
