"""How a collection is stored: what Milvus is told when it is made, and how rows and answers are converted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2i_pipelines.config.storage import Storage
from t2i_pipelines.errors import ConfigError

KEY_BYTES = 255
"""Of a value of the partition key, as UTF-8."""

REPLICAS = "t2i_pipelines.replica_number"
MMAP = "mmap.enabled"


def properties(storage: Storage) -> dict[str, str]:
    """What a collection keeps of how it is stored, beside its schema."""
    kept = {MMAP: "true"} if storage.mmap else {}
    return kept | ({REPLICAS: str(storage.replica_number)} if storage.replica_number > 1 else {})


def load_arguments(storage: Storage) -> dict[str, Any]:
    """Further arguments of ``load_collection``."""
    return {"replica_number": storage.replica_number} if storage.replica_number > 1 else {}


def add_fields(schema: Any, storage: Storage, dim: int) -> None:
    """The vector, and the partition key if there is one."""
    from pymilvus import DataType

    schema.add_field("vector", DataType[storage.vector_type], dim=dim)
    if storage.partition_key is not None:
        schema.add_field(storage.partition_key, DataType.VARCHAR, max_length=KEY_BYTES, is_partition_key=True)


def read_storage(description: Mapping[str, Any]) -> Storage:
    """How a collection is stored, from what ``describe_collection`` returned; all but its index."""
    from pymilvus import DataType

    found = description.get("properties") or {}
    chosen: dict[str, Any] = {"replica_number": int(found.get(REPLICAS, 1))}
    chosen["mmap"] = str(found.get(MMAP, "")).lower() == "true"
    for field in description.get("fields", ()):
        if field["name"] == "vector" and field["type"] == DataType.FLOAT16_VECTOR:
            chosen["vector_type"] = "FLOAT16_VECTOR"
        if field.get("is_partition_key"):
            chosen["partition_key"] = field["name"]
    return Storage(**chosen)


def as_stored(storage: Storage, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checked rows as the collection takes them.

    :raises ConfigError: If the partition key of one is no text, or too long. Names row and field.
    """
    key, half = storage.partition_key, storage.vector_type == "FLOAT16_VECTOR"
    if key is None and not half:
        return list(rows)
    more = [{} if key is None else {key: _key(row, key)} for row in rows]
    return [
        {**row, **keyed, "vector": row["vector"].astype(np.float16) if half else row["vector"]}
        for row, keyed in zip(rows, more, strict=True)
    ]


def as_asked(storage: Storage, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a search, with queries of the type that is stored."""
    if storage.vector_type != "FLOAT16_VECTOR" or "data" not in arguments:
        return arguments
    return {**arguments, "data": [np.asarray(one, np.float16) for one in arguments["data"]]}


def as_read(storage: Storage, answer: Any) -> Any:
    """An answer of a query or a search, with vectors of float32: of float16, Milvus gives the bytes."""
    if storage.vector_type != "FLOAT16_VECTOR":
        return answer
    for one in answer:
        for row in one if isinstance(one, list) else [one]:
            _widen(row.get("entity", row))
    return answer


def _key(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str) or len(value.encode()) > KEY_BYTES:
        raise ConfigError(
            f"row {row['id']!r}: {key!r} is the partition key of this collection and must be text of at most "
            f"{KEY_BYTES} bytes, got {json.dumps(value, default=str):.300}"
        )
    return value


def _widen(row: Any) -> None:
    vector = row.get("vector")
    if isinstance(vector, list) and len(vector) == 1 and isinstance(vector[0], bytes):
        vector = vector[0]
    if isinstance(vector, bytes):
        row["vector"] = np.frombuffer(vector, np.float16).astype(np.float32)
