"""OpenVINO, from the extra of that name: bfloat16 and int8 on CPUs that have instructions for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.encoders.backends.tower import Input
from t2i_pipelines.types import Compute


@contextmanager
def _untold() -> Iterator[None]:
    """OpenVINO tells Google Analytics that it is imported, unless its package for that is not there."""
    modules: dict[str, Any] = sys.modules
    hidden = modules.setdefault("openvino_telemetry", None) is None
    try:
        yield
    finally:
        if hidden:
            del modules["openvino_telemetry"]


with _untold():
    import openvino

CORE = openvino.Core()
"""One for the life of the process. With its CPU plugin a core changes the stack that signals of the thread
are handled on, and takes it away as it goes: of two cores, the second to go leaves a stack that is unmapped,
and the next signal, as of Ctrl-C, ends the process by SIGSEGV (OpenVINO 2026.4)."""


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenvinoTower:
    """A compiled model, with one infer request for each thread that is in it at the same time."""

    def __init__(self, path: Path, compute: Compute) -> None:
        # what int8 leaves over is computed in bf16 where that is fast
        halves = compute.precision == "bf16" or (compute.precision == "int8" and has_bfloat16())
        self._model = CORE.compile_model(
            str(path),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "bf16" if halves else "f32", "NUM_STREAMS": "1"},
        )
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self.inputs = [_input(one) for one in self._model.inputs]

    def run(self, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        """One pass: arrays of N items -> (N, D) float32."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._model.create_infer_request()
        try:
            return np.array(request.infer(list(arrays), share_inputs=True)[0], np.float32)
        finally:
            self._idle.put(request)


def _input(port: Any) -> Input:
    batch = port.get_partial_shape()[0]
    fixed = None if batch.is_dynamic else batch.get_length()
    return Input(np.dtype(port.get_element_type().to_dtype()).name, fixed)
