"""``ops.towhee.np_normalize``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_pipelines.encoders.vectors import unit
from t2i_pipelines.errors import VectorError
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.types import Vector


class NpNormalize(Operator):
    """x -> x / ||x||, the Euclidean norm, along one axis: float32, of the same shape.

    :param axis: of the array, 0 and up, or from the end, -1 and down.
    """

    def __init__(self, axis: int = 0) -> None:
        self._axis = axis

    def __call__(self, vec: Sequence[float] | Vector) -> Vector:
        """(D,), or more axes -> unit length along ``axis``. The hub's operator gave NaN where this raises.

        :raises VectorError: If a vector is zero or not finite, or the array has no such axis.
        """
        try:
            normal: Vector = np.apply_along_axis(unit, self._axis, np.asarray(vec, np.float32))
        except VectorError:
            raise
        except (TypeError, ValueError) as err:  # NumPy's errors of axes among them
            raise VectorError(f"np_normalize(axis={self._axis!r}) of shape {np.shape(vec)}: {err}") from err
        return normal
