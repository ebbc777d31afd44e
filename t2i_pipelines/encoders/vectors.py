"""Arithmetic of vectors, and the cache of embedded texts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from t2i_pipelines.config.checks import filled
from t2i_pipelines.errors import VectorError
from t2i_pipelines.types import Encoder, Matrix, Vector

CANCELLED = 1e-6
"""A sum of unit vectors that is shorter than this part of its weights is rounding, not a direction."""


def unit(vector: Any) -> Vector:
    """(D,) -> (D,) float32 of length 1.

    :raises VectorError: If it is zero, not finite, or not a vector.
    """
    vector = np.asarray(vector, np.float32)
    if vector.ndim != 1:
        raise VectorError(f"a vector has one axis; got shape {vector.shape}")
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise VectorError(f"a vector of length {length} has no direction")
    return np.asarray(vector / length, np.float32)


def weighted_sum(weights: Sequence[float], vectors: Sequence[Vector]) -> Vector:
    """N weights, N vectors (D,) -> the unit vector of ``w_1 unit(x_1) + w_2 unit(x_2) + ...``.

    :raises VectorError: If a vector has no direction, or they cancel each other out.
    """
    largest = max(map(abs, weights))
    if largest == 0:
        raise VectorError("all weights are 0")
    shares = np.asarray(weights, np.float64) / largest
    total = shares @ np.stack([unit(vector) for vector in vectors]).astype(np.float64)
    if np.linalg.norm(total) < CANCELLED * np.abs(shares).sum():
        raise VectorError("the operands cancel each other out")
    return unit(total / np.linalg.norm(total))


def mean_direction(vectors: Matrix) -> Vector:
    """(N, D) -> (D,): the mean of unit vectors; a single one stays as it is."""
    if len(vectors) == 1:
        single: Vector = vectors[0]
        return single
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    mean: Vector = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0).mean(axis=0)
    return mean


def cosines(one: Matrix, other: Matrix) -> NDArray[np.float64]:
    """Of each row of the one with the same row of the other: two (N, D) of any length -> (N,)."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


TEXTS_KEPT = 4096
"""Vectors that are remembered of each model: 8 MiB at 512 dimensions."""


class CachedTexts:
    """Texts to vectors, by one model; the least recently used are forgotten. Thread-safe.

    :ivar hits: texts that were known; :ivar misses: those that were not.
    """

    def __init__(self, encoder: Encoder, size: int = TEXTS_KEPT) -> None:
        self._encoder = encoder
        self._kept: LRUCache[bytes, Vector] = LRUCache(size)
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def __call__(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> list[Vector]:
        """N texts -> N vectors (D,) float32, not normalised; what is not known, in one pass.

        With several templates, a text's vector is the mean of the unit vectors that it has in each.
        """
        keys = {text: _key(text, templates) for text in texts}
        with self._lock:
            known = {text: self._kept.get(key) for text, key in keys.items()}
            unknown = [text for text, vector in known.items() if vector is None]
            self.misses += len(unknown)
            self.hits += len(known) - len(unknown)
        if unknown:
            new = dict(zip(unknown, self._embed(unknown, templates), strict=True))
            known |= new
            with self._lock:
                self._kept.update({keys[text]: np.array(vector) for text, vector in new.items()})
        return [np.array(known[text]) for text in texts]

    def _embed(self, texts: Sequence[str], templates: Sequence[str]) -> Matrix:
        prompts = [prompt for text in texts for prompt in filled(templates, text)]
        vectors = self._encoder.encode_texts(prompts)
        if len(templates) == 1:
            return vectors
        return np.stack([mean_direction(some) for some in np.split(vectors, len(texts))])


def _key(text: str, templates: Sequence[str]) -> bytes:
    """Of one length, however long the text is."""
    return blake2b(repr((text, *templates)).encode(), digest_size=16).digest()
