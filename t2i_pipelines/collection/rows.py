"""Check rows and vectors before Milvus gets them, since it checks little, or late; and ask for rows by id."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np

from t2i_pipelines.collection.schema import DIGEST_BYTES, ID_BYTES, PATH_BYTES
from t2i_pipelines.config.search import literal
from t2i_pipelines.errors import ConfigError, VectorError
from t2i_pipelines.types import Matrix, Vector

SMALLEST_NORM = 1e-12
"""A shorter vector has no direction that float32 could tell."""


def check_vectors(
    vectors: Sequence[Any], names: Sequence[str], dim: int, *, may_be_zero: bool = False
) -> Matrix:
    """N vectors (D,) -> (N, D) float32.

    :param names: the name of each vector in a message, for example ``row 'a.jpg'``.
    :param may_be_zero: as where distances are compared, not directions.
    :raises VectorError: For the first that is of another length, not finite, or zero.
    """
    checked = [_as_vector(v, name, dim) for v, name in zip(vectors, names, strict=True)]
    if not checked:
        return np.empty((0, dim), np.float32)
    matrix = np.stack(checked)
    finite = np.isfinite(matrix)
    for row in map(int, np.flatnonzero(~finite.all(axis=1))):
        at = int(np.flatnonzero(~finite[row])[0])
        raise VectorError(f"{names[row]}: the vector is not finite: {matrix[row, at]} at {at}")
    if may_be_zero:
        return matrix
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    for row in map(int, np.flatnonzero(norms < SMALLEST_NORM)):
        raise VectorError(
            f"{names[row]}: the vector is zero (its norm is {norms[row]:.3g}), so it has no "
            f"direction to compare"
        )
    return matrix


def _as_vector(vector: Any, name: str, dim: int) -> Vector:
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            array = np.ascontiguousarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as err:
        raise VectorError(f"{name}: the vector is not made of numbers: {err}") from err
    if np.shape(vector) != (dim,):
        raise VectorError(f"{name}: the vector has shape {np.shape(vector)}, the collection holds ({dim},)")
    return array


IDS_A_CALL = 1000


class Ledger(NamedTuple):
    """Size, time of change and digest of a stored file: enough to see that it has not changed.

    :ivar size: bytes.
    :ivar mtime: nanoseconds since the epoch.
    :ivar digest: hex digest of the content.
    """

    size: int
    mtime: int
    digest: str


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield the ids, each once, in as many lists as there will be calls."""
    unique = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
    for start in range(0, len(unique), IDS_A_CALL):
        yield unique[start : start + IDS_A_CALL]


def is_one_of(ids: list[str]) -> str:
    """Return the filter that finds these rows. Any text is safe in it."""
    return f"id in {literal(ids)}"


FIELDS = ("id", "vector", "path", "size", "mtime", "digest")
"""Every row has these. No metadata may go by one of these names."""

BATCH_BYTES = 8 << 20
"""Of one call. A server refuses more than 64 MB."""

BATCH_ROWS = 5000
METADATA_BYTES = 65535
_TEXTS = {"id": ID_BYTES, "path": PATH_BYTES, "digest": DIGEST_BYTES}


def check_rows(rows: Sequence[Mapping[str, Any]], dim: int) -> list[dict[str, Any]]:
    """Return rows that Milvus takes, one for each id: of several, the last.

    :raises ConfigError: If a field is missing, of a wrong type or too long. Names row and field.
    :raises VectorError: If a vector is not finite, zero, or not (dim,).
    """
    checked = {row["id"]: row for row in map(_check_row, rows)}
    names = [f"row {key!r}" for key in checked]
    vectors = check_vectors([row["vector"] for row in checked.values()], names, dim)
    return [{**row, "vector": v} for row, v in zip(checked.values(), vectors, strict=True)]


def batches(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in order, in lists of at most ``BATCH_BYTES`` and ``BATCH_ROWS``."""
    batch: list[dict[str, Any]] = []
    total = 0
    for row in rows:
        size = row["vector"].nbytes + len(row["path"]) + _metadata_bytes(row)
        if batch and (total + size > BATCH_BYTES or len(batch) == BATCH_ROWS):
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch


def check_metadata(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Metadata as Milvus can store it: NumPy values as Python's, None and NaN left out.

    :param name: the name of the row in a message.
    :raises ConfigError: If a name is reserved, or a value cannot be JSON.
    """
    checked: dict[str, Any] = {}
    for key, value in metadata.items():
        if key in FIELDS:
            raise ConfigError(
                f"{name}: metadata may not be called {key!r}, which the collection uses itself "
                f"({', '.join(FIELDS)}); rename it"
            )
        if not isinstance(key, str) or not key or key.startswith("$"):
            raise ConfigError(f"{name}: {key!r} is no name for metadata; use text without a leading $")
        plain = _plain(value, f"{name}: metadata {key!r}")
        if plain is not None:
            checked[key] = plain
    return checked


def _check_row(row: Mapping[str, Any]) -> dict[str, Any]:
    name = f"row {row.get('id')!r}"
    if missing := [field for field in FIELDS if field not in row]:
        raise ConfigError(f"{name} has no {', '.join(missing)}; a row needs {', '.join(FIELDS)}")
    checked = {field: _text(row[field], limit, name, field) for field, limit in _TEXTS.items()}
    if not checked["id"]:
        raise ConfigError(f"{name}: the id is empty")
    numbers = {field: _int(row[field], name, field) for field in ("size", "mtime")}
    metadata = check_metadata({k: v for k, v in row.items() if k not in FIELDS}, name)
    if (size := _metadata_bytes(metadata)) > METADATA_BYTES:
        raise ConfigError(
            f"{name}: metadata takes {size} bytes as JSON, Milvus stores {METADATA_BYTES}; "
            f"leave out what no filter needs"
        )
    return {**checked, **numbers, "vector": row["vector"], **metadata}


def _text(value: Any, limit: int, name: str, field: str) -> str:
    """Milvus Lite counts characters and a server counts bytes, so bytes are counted here."""
    if not isinstance(value, str):
        raise ConfigError(f"{name}: {field} must be text, got {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as err:
        raise ConfigError(f"{name}: {field} {value!r} is not valid Unicode: {err.reason}") from err
    if size > limit:
        raise ConfigError(f"{name}: {field} takes {size} bytes as UTF-8, at most {limit} are stored")
    return value


def _int(value: Any, name: str, field: str) -> int:
    try:
        number = index(value)
    except TypeError:
        raise ConfigError(f"{name}: {field} must be a whole number, got {value!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ConfigError(f"{name}: {field} does not fit 64 bits: {number}")
    return number


def _plain(value: Any, name: str) -> Any:
    """``value`` of JSON's types only; None for NaN."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, METADATA_BYTES, name, "text")
    if isinstance(value, int):
        return _int(value, name, "number")
    if isinstance(value, float):
        return _float(value, name)
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_text(key, METADATA_BYTES, name, "key"): _plain(item, name) for key, item in value.items()}
    raise ConfigError(
        f"{name} is a {type(value).__name__}, which JSON does not know; give text, a number, "
        f"true or false, or a list or dict of these"
    )


def _float(value: float, name: str) -> float | None:
    if math.isinf(value):
        raise ConfigError(f"{name} is {value}, which JSON does not know; leave it out")
    return None if math.isnan(value) else value


def _metadata_bytes(row: Mapping[str, Any]) -> int:
    metadata = {key: value for key, value in row.items() if key not in FIELDS}
    return len(json.dumps(metadata, ensure_ascii=False).encode())
