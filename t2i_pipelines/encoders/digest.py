"""Digest the weights of a model by their values, so that all forms of one model have one digest.

A safetensors file, OpenAI's half-precision archive and an ONNX export of one model differ in names, order,
transposition, splits (one matrix for queries, keys and values, or three) and precision. The multiset of the
values of their matrices, rounded to float16, is the same, and is what is digested: a histogram of 65,536
bins. The smallest, up to two steps of float16, count as zero: converters to float16 round them up. Left out
are masks, whose values are above any weight's, vectors (biases, norms), which exporters fold into other
operators, and float convolution kernels, into which they fold batch norms. Integers of 8 bits are counted
as they are.

The activation of the text tower is digested, too: QuickGELU and GELU have the same weights.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import CheckpointError

BINS = 1 << 16
_DIGEST = re.compile(rb"[0-9a-f]{32}")
CHUNK = 1 << 20
"""Values that are counted at a time, so that a chunk stays in the processor's cache."""
_QUICK_GELU = {"Sigmoid", "QuickGelu"}
_VERSION = "2"
"""Of how the values are counted: digests in the cache that were counted otherwise are not used."""
_TINY = 3
"""Bins of float16 from zero up that count as zero: below 1e-7, to which ONNX's converter rounds up."""
_MASK = int(np.float16(1e4).view(np.uint16))
"""The first bin that no weight reaches. Masks do, be they of -inf or what converters make of it."""


def digest_values(arrays: Iterable[NDArray[Any]], *, quick_gelu: bool) -> str:
    """Return the hex digest of a model's matrices.

    :param arrays: all weights of both towers, in any order; other arrays are skipped.
    :param quick_gelu: whether the text tower's activation is QuickGELU.
    :raises CheckpointError: If there are none, as all such models would have one digest.
    """
    counts = np.zeros(BINS, np.int64)
    integers = np.zeros(BINS >> 8, np.int64)
    for array in arrays:
        if array.dtype.name == "bfloat16":  # of another kind than numpy's own floats
            array = array.astype(np.float32)
        if array.dtype.itemsize == 1 and array.dtype.kind != "b" and array.ndim > 1:
            integers += np.bincount(array.view(np.uint8).ravel(), minlength=len(integers))
        elif array.dtype.kind == "f" and sum(side > 1 for side in array.shape) == 2 and array.ndim < 4:
            counts += _histogram(array.ravel())
    if not counts.any() and not integers.any():
        raise CheckpointError(
            "the model has no matrices, so its digest would be that of any other such model"
        )
    digest = hashlib.blake2b(counts.tobytes() + integers.tobytes(), digest_size=16)
    digest.update(b"quick_gelu" if quick_gelu else b"")
    return digest.hexdigest()


def _histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count values by their float16 bits; nothing of an attention mask."""
    counts = np.zeros(BINS, np.int64)
    with np.errstate(over="ignore"):
        for at in range(0, len(values), CHUNK):
            halves = values[at : at + CHUNK].astype(np.float16)
            counts += np.bincount(halves.view(np.uint16), minlength=BINS)
    by_size = counts.reshape(2, -1)  # positive and negative
    if by_size[:, _MASK:].any():
        return np.zeros(BINS, np.int64)
    tiny = by_size[:, :_TINY].sum()
    by_size[:, :_TINY] = 0
    counts[0] = tiny
    return counts


def digest_module(module: Any, *, quick_gelu: bool = False) -> str:
    """Return the digest of a torch module's weights."""
    weights = (one for one in module.state_dict().values() if one.is_floating_point())
    return digest_values((one.float().cpu().numpy() for one in weights), quick_gelu=quick_gelu)


def digest_onnx(image_tower: Path, text_tower: Path) -> str:
    """Return the digest of two ONNX towers, which may keep weights in files of their own.

    :raises CheckpointError: If a file is no ONNX model, or its external weights are missing.
    """
    import onnx

    graphs = {}
    for path in (image_tower, text_tower):
        try:
            graphs[path] = onnx.load(str(path), load_external_data=False).graph
        except Exception as err:  # protobuf's errors have no base class of their own
            raise CheckpointError(f"{path} is no ONNX model, or is cut off: {err}") from err
        if not graphs[path].node:
            raise CheckpointError(f"{path} is no ONNX model, or is cut off: it has no nodes")
    quick_gelu = any(node.op_type in _QUICK_GELU for node in graphs[text_tower].node)
    arrays = (array for path, graph in graphs.items() for array in _weights(onnx, graph, path))
    return digest_values(arrays, quick_gelu=quick_gelu)


def _weights(onnx: Any, graph: Any, path: Path) -> Iterator[NDArray[Any]]:
    constants = (
        attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute
    )
    for tensor in (*graph.initializer, *constants):
        if sum(side > 1 for side in tensor.dims) > 1:
            try:
                yield onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
            except Exception as err:  # onnx's own, numpy's, and the file system's
                raise CheckpointError(f"{path} lacks the values of {tensor.name!r}: {err}") from err


def cached_digest(files: Sequence[Path], compute: Callable[[], str], options: str = "") -> str:
    """Return the digest of a model's files, from the cache if none of them has changed since.

    A changed file has another size, or time of modification or change of state. A cache that cannot be
    written is not an error.

    :param options: what else the digest depends on.
    """
    from huggingface_hub import cached_assets_path

    states = [(os.path.realpath(file), file.stat()) for file in files]
    times = ((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in states)
    key = repr([_VERSION, options, *times])
    name = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    try:
        kept = cached_assets_path("t2i_pipelines", "digests", "by_file") / name
        found = kept.read_bytes() if kept.is_file() else b""
    except (OSError, ValueError):  # huggingface_hub's, if a file is in the way, is a ValueError
        return compute()
    if _DIGEST.fullmatch(found):
        return found.decode()
    digest = compute()
    try:
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, suffix=".part", delete=False) as part:
            part.write(digest)
        Path(part.name).replace(kept)
    except OSError:
        pass
    return digest
