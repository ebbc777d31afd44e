"""Arithmetic of directions. A vector's length means nothing to a cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import VectorError
from t2i_pipelines.types import Matrix, Vector

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
