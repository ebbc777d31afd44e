"""Vectors to unit length, so that a dot product is a cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from t2i_pipelines.encoders.vectors import unit, weighted_sum
from t2i_pipelines.errors import QueryError, VectorError
from t2i_pipelines.operators.base import ItemOperator
from t2i_pipelines.search.query import Blend
from t2i_pipelines.types import OnError, Record, Stage, Vector


class Normalize(ItemOperator):
    """``ops.t2i.normalize``: x -> x / ||x||, the Euclidean norm."""

    stage: ClassVar[Stage] = "encode"

    def __init__(self, on_error: OnError = "record") -> None:
        self.on_error = on_error

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N vectors (D,), or operands of a query -> N vectors (D,) float32 of length 1.

        Operands are normalised one by one, weighed, summed, and normalised; see
        :mod:`t2i_pipelines.search.query`.

        :raises VectorError: If one is zero, not finite, or not a vector.
        :raises QueryError: If the operands of a query cancel each other out.
        """
        return [_direction(item) for item in items]

    def fill(self, records: list[Record]) -> None:
        """Normalise the vectors of a batch."""
        for record in records:
            try:
                record.vector = unit(record.vector)
            except VectorError as err:
                self.reject(record, VectorError(f"cannot embed image {record.path}: {err}"))


def _direction(item: Any) -> Vector:
    if not isinstance(item, Blend):
        return unit(item)
    try:
        return weighted_sum([weight for weight, _ in item.query.terms], item.items)
    except VectorError as err:
        raise QueryError(f"the query {item.query} has no direction: {err}") from err
