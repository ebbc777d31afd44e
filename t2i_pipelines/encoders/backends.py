"""Run the towers of an ONNX folder, by ONNX Runtime or by OpenVINO.

Every installation has ONNX Runtime. OpenVINO comes with the extra of that name, and computes in bfloat16 and
int8 on CPUs that have instructions for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import CheckpointError, ConfigError, MissingExtraError
from t2i_pipelines.types import Backend, Compute, Device, Precision


class Input(NamedTuple):
    """One input of a tower.

    :ivar name: as the file names it.
    :ivar dtype: in numpy's terms.
    :ivar batch: items a pass where the file fixes that number, else None.
    """

    name: str
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
            return OpenvinoTower(path, compute)
        return OnnxruntimeTower(path, compute)
    except Exception as err:  # neither library has a base class of its own errors
        raise CheckpointError(f"{path} cannot be loaded: {str(err).strip().splitlines()[0]}") from err


def choose_onnx(wanted: Compute) -> Compute:
    """Return how to run an ONNX folder, without any ``auto``.

    A GPU goes before OpenVINO, and OpenVINO, where it is installed, before ONNX Runtime; bf16 goes before
    fp32 where the CPU has instructions for it. int8 is taken only if it was asked for.

    :raises ConfigError: If what was asked for does not go together.
    :raises MissingExtraError: If it needs what is not installed.
    """
    if wanted.backend == "torch":
        raise ConfigError(
            "backend='torch' runs torch checkpoints, and this model is an ONNX folder; "
            "say backend='auto', 'onnxruntime' or 'openvino'"
        )
    if wanted.precision == "fp16":
        raise ConfigError(
            "precision='fp16' is for torch checkpoints on a GPU, and this model is an ONNX folder, which is "
            "run in the numbers that its file has; say precision='auto', or backend='torch'"
        )
    device = _onnx_device(wanted)
    backend = wanted.backend
    if backend == "auto":
        openvino = device == "cpu" and find_spec("openvino") is not None
        backend = "openvino" if openvino else "onnxruntime"
    if backend == "onnxruntime":
        if wanted.precision == "bf16":
            raise _no_bf16("ONNX Runtime computes in fp32 or int8; for bf16 use backend='openvino'")
        return Compute(device, "fp32" if wanted.precision == "auto" else wanted.precision, backend)
    if device == "cuda":
        raise ConfigError("backend='openvino' does not run on cuda; say backend='onnxruntime'")
    return Compute(device, _openvino_precision(wanted.precision), backend)


def _onnx_device(wanted: Compute) -> Device:
    if wanted.device == "cpu" or (wanted.device == "auto" and wanted.backend == "openvino"):
        return "cpu"
    cuda = "CUDAExecutionProvider" in _onnxruntime().get_available_providers()
    if wanted.device == "cuda" and not cuda:
        raise MissingExtraError(
            "device='cuda' needs ONNX Runtime for GPUs; run: pip uninstall onnxruntime && "
            "pip install onnxruntime-gpu"
        )
    return "cuda" if cuda else "cpu"


def _openvino_precision(wanted: Precision) -> Precision:
    if find_spec("openvino") is None:
        raise MissingExtraError.of("openvino", "openvino")
    if wanted in ("fp32", "int8"):
        return wanted

    native = has_bfloat16()
    if wanted == "bf16" and not native:
        raise _no_bf16("this CPU has no instructions for it")
    return "bf16" if native else "fp32"


def choose_torch(wanted: Compute) -> Compute:
    """Return how to run a torch checkpoint, without any ``auto``.

    On a GPU, and in bf16, where there is either. fp16 is taken only if it was asked for.

    :raises ConfigError: If what was asked for does not go together, or the machine lacks it.
    """
    import torch

    backend: Backend = "torch"
    if wanted.backend not in ("auto", backend):
        raise ConfigError(
            f"backend={wanted.backend!r} runs ONNX folders, and this model is a torch checkpoint; "
            "turn it into one by `t2i export`, or say backend='torch'"
        )
    if wanted.precision == "int8":
        raise ConfigError(
            "precision='int8' needs an ONNX folder, and this model is a torch checkpoint; "
            "turn it into one by `t2i export`, then `t2i quantize` it"
        )
    cuda = torch.cuda.is_available()
    if wanted.device == "cuda" and not cuda:
        raise ConfigError("device='cuda', but torch finds no GPU; say device='auto' or 'cpu'")
    device: Device = "cuda" if cuda and wanted.device != "cpu" else "cpu"
    if wanted.precision == "fp16" and device == "cpu":
        raise ConfigError("precision='fp16' is for GPUs; say precision='auto', 'bf16' or 'fp32' on a CPU")
    native = torch.cuda.is_bf16_supported() if device == "cuda" else _cpu_has_bf16(torch)
    if wanted.precision == "bf16" and not native:
        raise _no_bf16(f"this {'GPU' if device == 'cuda' else 'CPU'} has no instructions for it")
    precision = wanted.precision
    if precision == "auto":
        precision = "bf16" if native else "fp32"
    return Compute(device, precision, backend)


def _cpu_has_bf16(torch: Any) -> bool:
    """Return whether the CPU multiplies bfloat16; torch tells from version 2.11 on."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _no_bf16(why: str) -> ConfigError:
    return ConfigError(f"precision='bf16' cannot be had: {why}, or say precision='auto'")


PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


def _onnxruntime() -> Any:
    import onnxruntime

    return onnxruntime


class OnnxruntimeTower:
    """A session; it may be entered by many threads at once."""

    def __init__(self, path: Path, compute: Compute) -> None:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # idle threads that spin take the cores that decoding needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS[compute.device])
        self._names = [one.name for one in self._session.get_inputs()]
        self._embedding = embedding_of([one.name for one in self._session.get_outputs()])
        self.inputs = [
            Input(one.name, _dtype(one.type), one.shape[0] if isinstance(one.shape[0], int) else None)
            for one in self._session.get_inputs()
        ]

    def run(self, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        """One pass: arrays of N items -> (N, D) float32."""
        feeds = dict(zip(self._names, arrays, strict=True))
        return np.asarray(self._session.run([self._embedding], feeds)[0], np.float32)


def embedding_of(outputs: Sequence[str]) -> str:
    """Return the output that is the vector: optimum's towers give hidden states as well."""
    named = [one for one in outputs if one.endswith("_embeds")]
    return [*named, *(one for one in outputs if one == "pooler_output"), outputs[0]][0]


def _dtype(name: str) -> str:
    """Return an input's type in numpy's terms: ``tensor(int32)`` is int32."""
    name = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32"}.get(name, name)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry package, through which it reports each import to Google Analytics."""
    modules: dict[str, Any] = sys.modules
    hidden = modules.setdefault("openvino_telemetry", None) is None
    try:
        yield
    finally:
        if hidden:
            del modules["openvino_telemetry"]


@cache
def core() -> Any:
    """Return the one OpenVINO core of the process.

    With its CPU plugin a core changes the stack on which the thread handles signals, and removes it when it
    is deleted. Of two cores, the second to go leaves an unmapped stack, and the next signal, such as that of
    Ctrl-C, ends the process by SIGSEGV (OpenVINO 2026.4).
    """
    with _without_telemetry():
        import openvino
    return openvino.Core()


def has_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenvinoTower:
    """A compiled model, with one infer request for each thread that is in it at the same time."""

    def __init__(self, path: Path, compute: Compute) -> None:
        # what int8 leaves over is computed in bf16 where that is fast
        halves = compute.precision == "bf16" or (compute.precision == "int8" and has_bfloat16())
        self._model = core().compile_model(
            str(path),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "bf16" if halves else "f32", "NUM_STREAMS": "1"},
        )
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self.inputs = [_input(one) for one in self._model.inputs]
        names = [min(one.get_names(), default="") for one in self._model.outputs]
        self._embedding = names.index(embedding_of(names))

    def run(self, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        """One pass: arrays of N items -> (N, D) float32."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._model.create_infer_request()
        try:
            return np.array(request.infer(list(arrays), share_inputs=True)[self._embedding], np.float32)
        finally:
            self._idle.put(request)


def _input(port: Any) -> Input:
    batch = port.get_partial_shape()[0]
    fixed = None if batch.is_dynamic else batch.get_length()
    return Input(min(port.get_names(), default=""), np.dtype(port.get_element_type().to_dtype()).name, fixed)
