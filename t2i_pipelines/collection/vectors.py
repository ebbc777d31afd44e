"""The only vectors that Milvus is given: float32, finite, not zero, of the right length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from t2i_pipelines.errors import VectorError
from t2i_pipelines.types import Matrix, Vector

SMALLEST_NORM = 1e-12
"""A shorter vector has no direction that float32 could tell."""


def check_vectors(
    vectors: Sequence[Any], names: Sequence[str], dim: int, *, may_be_zero: bool = False
) -> Matrix:
    """N vectors (D,) -> (N, D) float32.

    :param names: what each vector is called in a message, for example ``row 'a.jpg'``.
    :param may_be_zero: as where distances are compared, not directions.
    :raises VectorError: For the first that is of another length, not finite, or zero.
    """
    checked = [_as_vector(v, name, dim) for v, name in zip(vectors, names, strict=True)]
    if not checked:
        return np.empty((0, dim), np.float32)
    matrix = np.stack(checked)
    finite = np.isfinite(matrix)
    for row in map(int, np.flatnonzero(~finite.all(axis=1))):
        at = int(np.flatnonzero(~finite[row])[0])
        raise VectorError(f"{names[row]}: the vector is not finite: {matrix[row, at]} at {at}")
    if may_be_zero:
        return matrix
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    for row in map(int, np.flatnonzero(norms < SMALLEST_NORM)):
        raise VectorError(
            f"{names[row]}: the vector is zero (its norm is {norms[row]:.3g}), so it has no "
            f"direction to compare"
        )
    return matrix


def _as_vector(vector: Any, name: str, dim: int) -> Vector:
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            array = np.ascontiguousarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as err:
        raise VectorError(f"{name}: the vector is not made of numbers: {err}") from err
    if np.shape(vector) != (dim,):
        raise VectorError(f"{name}: the vector has shape {np.shape(vector)}, the collection holds ({dim},)")
    return array
