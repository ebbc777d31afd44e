"""Weights on disk to a dictionary of tensors, as data: nothing in a checkpoint is ever executed.

===========================  ==============================================================
``*.safetensors``            ``safetensors``: numbers only, by design
TorchScript archive          OpenAI's ``.pt``. Its zip holds code and a pickle; the code is not
                             run, and the pickle is read by an unpickler that knows tensors,
                             dictionaries and plain attributes, and refuses everything else
other ``.pt, .pth, .bin``    ``torch.load(weights_only=True)``
``*.index.json``             the files that it lists, in the same folder, each as above
===========================  ==============================================================
"""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2i_pipelines.errors import CheckpointError, MissingExtraError

Weights = dict[str, torch.Tensor]

INDEX = ".index.json"
"""How the name of a file ends that lists the weights of several files."""

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
# numbers that OpenAI's archives carry beside the weights
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def read_weights(path: Path) -> Weights:
    """Read a checkpoint: name -> tensor, on the CPU, half precision widened to float32.

    :raises CheckpointError: If it is truncated, is no checkpoint, or holds more than data.
    """
    try:
        found: Mapping[str, Any] = {}
        for file in files_of(path):
            found = {**found, **_read(file)}
    except (CheckpointError, MissingExtraError):
        raise
    except Exception as err:  # zipfile, pickle, safetensors and torch each have their own
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise CheckpointError(f"{path} cannot be read, it is damaged or no checkpoint: {reason}") from err
    weights = {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in found.items()
        if isinstance(value, torch.Tensor) and name not in _NOT_WEIGHTS
    }
    if not weights:
        raise CheckpointError(f"{path} holds no weights")
    return weights


def files_of(path: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights: those that an index lists, or the file itself.

    :raises CheckpointError: If an index lists none, or one that is missing or in another folder.
    """
    if not path.name.endswith(INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(f"{path} is no index of weights: {type(err).__name__} {err}") from err
    for name in names:
        if Path(name).name != name or not path.with_name(name).is_file():
            raise CheckpointError(f"{path} lists {name!r}, which is not in its folder")
    if not names:
        raise CheckpointError(f"{path} lists no files")
    return [path.with_name(name) for name in names]


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if _is_torchscript(archive):
                return _torchscript(archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise CheckpointError(
            f"{path} is not plain weights: it would run code when it is unpickled, or is damaged. "
            "Weights are only ever read as data; save a state dict, or model.safetensors"
        ) from err
    for inside in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(inside), Mapping):
            found = found[inside]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not a state dict")
    return found


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as err:
        raise MissingExtraError.of("safetensors", "torch") from err
    return load_file(path)


def _is_torchscript(archive: zipfile.ZipFile) -> bool:
    return any(name.endswith("/constants.pkl") for name in archive.namelist())


def activation_of(path: Path) -> bool | None:
    """Return whether a TorchScript archive's own source says QuickGELU or GELU.

    None where it says neither, or both.

    The source, which OpenAI's archives carry, is searched as text for the classes that it declares.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if not _is_torchscript(archive):
            return None
        code = b"\n".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
    declared = set(re.findall(rb"class (\w*GELU)\(Module\)", code))
    return {b"QuickGELU": True, b"GELU": False}.get(declared.pop()) if len(declared) == 1 else None


def _torchscript(archive: zipfile.ZipFile) -> Mapping[str, torch.Tensor]:
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
    model = _TensorsOnly(archive, root).load()
    weights: Weights = {}
    _collect(model, "", weights)
    return weights


class _Attributes:
    """Placeholder for an object of a TorchScript archive: attributes without behaviour."""


def _collect(node: Any, prefix: str, weights: Weights) -> None:
    for name, value in vars(node).items():
        if isinstance(value, torch.Tensor):
            weights[prefix + name] = value
        elif isinstance(value, _Attributes):
            _collect(value, f"{prefix}{name}.", weights)


class _TensorsOnly(pickle.Unpickler):
    """Reads a TorchScript archive's ``data.pkl``. It can call three functions, all of this module."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._read: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Give harmless stand-ins for the few names there may be.

        :raises CheckpointError: For any other: a pickle that names it is not weights.
        """
        if module.startswith("__torch__"):
            return type("_Part", (_Attributes,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: _rebuild(*parts[:4])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":  # lists of numbers
            return lambda parts: list(parts)
        raise CheckpointError(
            f"the archive names {module}.{name}, which is not weights; it was not opened. Use another copy"
        )

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return the numbers of one storage."""
        _, dtype, key, _, count = pid
        if key not in self._read:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._read[key] = torch.frombuffer(data, dtype=dtype, count=count)
        return self._read[key]


def _rebuild(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


def first_mismatch(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str | None:
    """Return how a checkpoint first differs from what a model needs, in words; None if it fits."""
    for name, value in wanted.items():
        if name.endswith(("num_batches_tracked", "attn_mask", "position_ids")):
            continue
        if name not in found:
            return f"{name} {tuple(value.shape)} is missing"
        if found[name].shape != value.shape:
            return f"{name} is {tuple(found[name].shape)}, not {tuple(value.shape)}"
    extra = next((name for name in found if name not in wanted and not name.endswith("position_ids")), None)
    return None if extra is None else f"{extra} {tuple(found[extra].shape)} has no place in the model"
