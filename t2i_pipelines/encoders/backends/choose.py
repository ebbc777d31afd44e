"""From what was asked for, and what is installed, to how a model is run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from t2i_pipelines.errors import ConfigError, MissingExtraError
from t2i_pipelines.types import Backend, Compute, Device, Precision


def choose_onnx(wanted: Compute) -> Compute:
    """How to run an ONNX folder, without any ``auto``.

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
    import onnxruntime

    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if wanted.device == "cuda" and not cuda:
        raise MissingExtraError(
            "device='cuda' needs ONNX Runtime for GPUs; run: pip uninstall onnxruntime && "
            "pip install onnxruntime-gpu"
        )
    return "cuda" if cuda else "cpu"


def _openvino_precision(wanted: Precision) -> Precision:
    if find_spec("openvino") is None:
        raise MissingExtraError("openvino is not installed; run: pip install 't2i-pipelines[openvino]'")
    if wanted in ("fp32", "int8"):
        return wanted
    from t2i_pipelines.encoders.backends.openvino import has_bfloat16

    native = has_bfloat16()
    if wanted == "bf16" and not native:
        raise _no_bf16("this CPU has no instructions for it")
    return "bf16" if native else "fp32"


def choose_torch(wanted: Compute) -> Compute:
    """How to run a torch checkpoint, without any ``auto``: on a GPU, and in bf16, where there is either.

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
    native = torch.cuda.is_bf16_supported() if device == "cuda" else _cpu_has_bf16(torch)
    if wanted.precision == "bf16" and not native:
        raise _no_bf16(f"this {'GPU' if device == 'cuda' else 'CPU'} has no instructions for it")
    precision = wanted.precision
    if precision == "auto":
        precision = "bf16" if native else "fp32"
    return Compute(device, precision, backend)


def _cpu_has_bf16(torch: Any) -> bool:
    """Whether the CPU multiplies bfloat16; torch tells from version 2.11 on."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _no_bf16(why: str) -> ConfigError:
    return ConfigError(f"precision='bf16' cannot be had: {why}, or say precision='auto'")
