"""ONNX Runtime, which every installation has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from t2i_pipelines.encoders.backends.tower import Input
from t2i_pipelines.types import Compute

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OnnxruntimeTower:
    """A session; it may be entered by many threads at once."""

    def __init__(self, path: Path, compute: Compute) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # idle threads that spin take the cores that decoding needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS[compute.device])
        self._names = [one.name for one in self._session.get_inputs()]
        self.inputs = [
            Input(_dtype(one.type), one.shape[0] if isinstance(one.shape[0], int) else None)
            for one in self._session.get_inputs()
        ]

    def run(self, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        """One pass: arrays of N items -> (N, D) float32."""
        feeds = dict(zip(self._names, arrays, strict=True))
        return np.asarray(self._session.run(None, feeds)[0], np.float32)


def _dtype(name: str) -> str:
    """An input's type in numpy's terms: ``tensor(int32)`` is int32."""
    name = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32"}.get(name, name)
