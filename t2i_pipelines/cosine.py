"""How alike two sets of vectors are, row by row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Matrix


def cosines(one: Matrix, other: Matrix) -> NDArray[np.float64]:
    """Of each row of the one with the same row of the other: two (N, D) of any length -> (N,)."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
