"""What a backend makes of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import Compute


class Input(NamedTuple):
    """One input of a tower.

    :ivar dtype: in numpy's terms.
    :ivar batch: items a pass where the file fixes that number, else None.
    """

    dtype: str
    batch: int | None


class Tower(Protocol):
    """Half a model, ready to run. Thread-safe."""

    @property
    def inputs(self) -> Sequence[Input]:
        """In the order that :meth:`run` takes them."""
        ...

    def run(self, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        """One pass: arrays of N items -> (N, D) float32."""
        ...


def open_tower(path: Path, compute: Compute) -> Tower:
    """Load an ONNX file.

    :param compute: as :func:`choose_onnx` gives it.
    :raises CheckpointError: If the file cannot be loaded.
    """
    try:
        if compute.backend == "openvino":
            from t2i_pipelines.encoders.backends.openvino import OpenvinoTower

            return OpenvinoTower(path, compute)
        from t2i_pipelines.encoders.backends.onnxruntime import OnnxruntimeTower

        return OnnxruntimeTower(path, compute)
    except Exception as err:  # neither library has a base class of its own errors
        raise CheckpointError(f"{path} cannot be loaded: {str(err).strip().splitlines()[0]}") from err
