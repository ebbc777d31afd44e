"""Vectors to unit length, so that a dot product is a cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from t2i_pipelines.errors import VectorError
from t2i_pipelines.operators.base import ItemOperator
from t2i_pipelines.types import OnError, Record, Stage, Vector


class Normalize(ItemOperator):
    """``ops.t2i.normalize``: x -> x / ||x||, the Euclidean norm."""

    stage: ClassVar[Stage] = "encode"

    def __init__(self, on_error: OnError = "record") -> None:
        self.on_error = on_error

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N vectors (D,) -> N vectors (D,) float32 of length 1.

        :raises VectorError: If one is zero, not finite, or not a vector.
        """
        return [_unit(item) for item in items]

    def fill(self, records: list[Record]) -> None:
        """Normalise the vectors of a batch."""
        for record in records:
            try:
                record.vector = _unit(record.vector)
            except VectorError as err:
                self.reject(record, VectorError(f"cannot embed image {record.path}: {err}"))


def _unit(item: Any) -> Vector:
    vector = np.asarray(item, np.float32)
    if vector.ndim != 1:
        raise VectorError(f"a vector has one axis; got shape {vector.shape}")
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise VectorError(f"a vector of length {length} has no direction")
    return vector / length
