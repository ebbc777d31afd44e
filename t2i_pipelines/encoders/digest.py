"""Digest the weights of a model by their values, so that all forms of one model have one digest.

A safetensors file, OpenAI's half-precision archive and an ONNX export of one model differ in names, order,
transposition, splits (one matrix for queries, keys and values, or three) and precision. The multiset of the
values of their matrices, rounded to float16, is the same, and is what is digested: a histogram of 65,536
bins. Left out are vectors (biases, norms), which exporters fold into other operators, and float convolution
kernels, into which they fold batch norms. Integers of 8 bits are counted as they are.

The activation of the text tower is digested, too: QuickGELU and GELU have the same weights.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import CheckpointError

BINS = 1 << 16
CHUNK = 1 << 20
"""Values that are counted at a time, so that a chunk stays in the processor's cache."""
_QUICK_GELU = {"Sigmoid", "QuickGelu"}
_INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))


def digest_values(arrays: Iterable[NDArray[Any]], *, quick_gelu: bool) -> str:
    """Return the hex digest of a model's matrices.

    :param arrays: all weights of both towers, in any order; other arrays are skipped.
    :param quick_gelu: whether the text tower's activation is QuickGELU.
    """
    counts = np.zeros(BINS, np.int64)
    integers = np.zeros(BINS >> 8, np.int64)
    for array in arrays:
        if array.dtype in _INTEGERS and array.ndim > 1:
            integers += np.bincount(array.view(np.uint8).ravel(), minlength=len(integers))
        elif array.dtype.kind == "f" and sum(side > 1 for side in array.shape) == 2 and array.ndim < 4:
            counts += _histogram(array.ravel())
    digest = hashlib.blake2b(counts.tobytes() + integers.tobytes(), digest_size=16)
    digest.update(b"quick_gelu" if quick_gelu else b"")
    return digest.hexdigest()


def _histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count values by their float16 bits; nothing of what exceeds float16, such as an attention mask."""
    counts = np.zeros(BINS, np.int64)
    with np.errstate(over="ignore"):
        for at in range(0, len(values), CHUNK):
            halves = values[at : at + CHUNK].astype(np.float16)
            if not np.isfinite(halves).all():
                return np.zeros(BINS, np.int64)
            counts += np.bincount(halves.view(np.uint16), minlength=BINS)
    return counts


def digest_module(module: Any, *, quick_gelu: bool = False) -> str:
    """Return the digest of a torch module's weights."""
    weights = (one for one in module.state_dict().values() if one.is_floating_point())
    return digest_values((one.float().cpu().numpy() for one in weights), quick_gelu=quick_gelu)


def digest_onnx(image_tower: Path, text_tower: Path) -> str:
    """Return the digest of two ONNX towers, which may keep weights in files of their own.

    :raises CheckpointError: If a file is no ONNX model.
    """
    import onnx

    graphs = {}
    for path in (image_tower, text_tower):
        try:
            graphs[path] = onnx.load(str(path), load_external_data=False).graph
        except Exception as err:  # protobuf's errors have no base class of their own
            raise CheckpointError(f"{path} is no ONNX model, or is cut off: {err}") from err
    quick_gelu = any(node.op_type in _QUICK_GELU for node in graphs[text_tower].node)
    arrays = (array for path, graph in graphs.items() for array in _weights(onnx, graph, path))
    return digest_values(arrays, quick_gelu=quick_gelu)


def _weights(onnx: Any, graph: Any, path: Path) -> Iterator[NDArray[Any]]:
    constants = (
        attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute
    )
    for tensor in (*graph.initializer, *constants):
        if sum(side > 1 for side in tensor.dims) > 1:
            yield onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))


def cached_digest(files: Sequence[Path], compute: Callable[[], str], options: str = "") -> str:
    """Return the digest of a model's files, from the cache if none of them has changed since.

    A changed file has another size or modification time. A cache that cannot be written is not an error.

    :param options: what else the digest depends on.
    """
    from huggingface_hub import cached_assets_path

    states = [(os.path.realpath(file), file.stat()) for file in files]
    key = repr([options, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in states)])
    name = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    try:
        kept = cached_assets_path("t2i_pipelines", "digests", "by_file") / name
        if len(found := kept.read_text(encoding="ascii") if kept.is_file() else "") == 32:
            return found
    except OSError:
        return compute()
    digest = compute()
    try:
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, suffix=".part", delete=False) as part:
            part.write(digest)
        Path(part.name).replace(kept)
    except OSError:
        pass
    return digest
