"""The schema, storage and index of a collection, and the note that names the model that filled it.

Which index a collection has depends on its size. Measured on 100,000 images as ``t2i_mini`` embeds them, for
captions (``benchmarks/search_index.py``): text and image embeddings occupy different regions of the space,
and an index that is built for neighbours finds images for texts badly. HNSW with the usual ``ef`` of 64 has a
recall@10 of 0.83, IVF that probes a tenth of its lists one of 0.93. So all rows are compared where that is
quick, and a graph is denser and searched deeper than usual.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from t2i_pipelines.collection.lite import INDEX_TYPES
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.config.storage import AUTO, Storage
from t2i_pipelines.errors import ConfigError, ModelMismatchError, StoreError
from t2i_pipelines.types import Space

LITE = {"AUTOINDEX": -1, "FLAT": 0, "IVF_FLAT": 5_000}
"""Of Milvus Lite, with the number of rows from which each is used. IVF has one list there and is FAISS's
exact comparison; FLAT is done by NumPy and five times slower. In 8 bits a number (IVF_SQ8) it misses more
than one in a hundred. AUTOINDEX, a graph, is what earlier versions of this library made."""

SERVER = {"FLAT": 0, "HNSW": 100_000}
"""Rows up to which HNSW on a server is not faster at the same recall."""

QUANTIZED = {"HNSW_SQ": 1_000_000}
"""From Milvus 2.5 on: a graph over 8 bits a number, and the best of what it finds compared in 16."""

GRAPH = {"M": 32, "efConstruction": 400}
REFINED = {"sq_type": "SQ8", "refine": True, "refine_type": "FP16"}
"""8 bits alone miss more than one in a hundred of the best ten."""
REFINE_K = 2
RABITQ_REFINE_K = 4
"""For one bit a dimension. Milvus's page on IVF_RABITQ recommends 1 to 5."""
LARGEST_EF, LARGEST_NPROBE = 32768, 65536


def ladder(*, is_lite: bool, version: tuple[int, int]) -> Mapping[str, int]:
    """Index types, each with the number of rows from which it is used, rising."""
    if is_lite:
        return LITE
    return SERVER | QUANTIZED if version >= (2, 5) else SERVER


def choice(rows: int, steps: Mapping[str, int]) -> str:
    """Return the index type for that many rows."""
    return [index_type for index_type, start in steps.items() if rows >= start][-1]


def outgrown(index_type: str, rows: int, steps: Mapping[str, int]) -> str | None:
    """Return the index type that should take this one's place, None if it may stay.

    Never a smaller one, and never in place of one that is not on the ladder: that was chosen explicitly.
    """
    wanted = choice(rows, steps)
    return wanted if steps.get(index_type, rows + 1) < steps[wanted] else None


def build_params(index_type: str, *, is_lite: bool) -> dict[str, Any]:
    """Return how the index is built."""
    params: dict[str, Any] = {}
    if index_type == "HNSW_SQ" and not is_lite:
        params = GRAPH | REFINED
    elif index_type.startswith("HNSW"):
        params = dict(GRAPH)
    elif index_type.startswith("IVF"):
        params = {"nlist": 1 if is_lite else 1024}
        if index_type == "IVF_RABITQ":
            params |= {"refine": True, "refine_type": "SQ8"}
    # Milvus Lite overlooks parameters unless they are in a field of their own
    return {"params": params} if is_lite and params else params


@dataclass(frozen=True)
class Depth:
    """How an index of some type is searched.

    :ivar rungs: numbers of hits that it is asked for; see
        :class:`~t2i_pipelines.collection.search.Rankings`.
    :ivar exact: it misses no row.
    """

    index_type: str
    is_lite: bool
    rungs: tuple[int, ...]
    exact: bool

    def params(self, rung: int, *, filtered: bool) -> dict[str, int]:
        """Milvus's search parameters for a rung.

        :param filtered: rows are left out. Milvus Lite walks the graph over them as over all others, and
            finds the fewer the more are left out; a server compares all that are left if they are few.
        """
        if self.index_type.startswith("HNSW"):
            refined = {"refine_k": REFINE_K} if self.index_type == "HNSW_SQ" and not self.is_lite else {}
            return {"ef": LARGEST_EF if self.is_lite and filtered else 2 * rung} | refined
        if self.index_type.startswith("IVF"):
            refined = {"refine_k": RABITQ_REFINE_K} if self.index_type == "IVF_RABITQ" else {}
            return {"nprobe": LARGEST_NPROBE if self.is_lite else 128} | refined
        if self.index_type == "DISKANN":
            return {"search_list": 2 * rung}
        return {}


def depth(index_type: str, *, is_lite: bool) -> Depth:
    """Return how an index of this type is searched."""
    if index_type == "AUTOINDEX" and is_lite:
        index_type = "HNSW"  # what it is there
    exact = index_type == "FLAT" or (is_lite and index_type.startswith("IVF"))
    rungs = (2048, MAX_LIMIT) if exact else (512, 4096, MAX_LIMIT)
    return Depth(index_type, is_lite, rungs, exact)


KEY_BYTES = 255
"""Bytes of a partition key value at most, as UTF-8."""

REPLICAS = "t2i_pipelines.replica_number"
MMAP = "mmap.enabled"


def properties(storage: Storage) -> dict[str, str]:
    """Return the properties of a collection that record how it is stored."""
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
    """Return how a collection is stored, from what ``describe_collection`` returned; all but its index."""
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
    """Return an answer of a query or a search, with vectors of float32.

    Of float16, Milvus gives the bytes.
    """
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


ID_BYTES, PATH_BYTES, DIGEST_BYTES = 128, 4096, 64
NOTE = "t2i_pipelines"
VERSION = 1
"""Of fields and note together. A change that old code would read wrongly counts one up."""

PLAIN = Storage()

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def check_name(collection_name: str) -> str:
    """Return the name, if every Milvus accepts it.

    :raises ConfigError: If not.
    """
    if not isinstance(collection_name, str) or not _NAME.fullmatch(collection_name):
        raise ConfigError(
            f"collection_name must be letters, digits and _, at most 255, and not start with a "
            f"digit; got {collection_name!r}"
        )
    return collection_name


def check_index_type(index_type: str, *, local: bool) -> str:
    """Return the type in capitals. Milvus Lite takes any name and then cannot open the collection again.

    :raises ConfigError: If Milvus Lite does not support it.
    """
    name = str(index_type).upper()
    if local and name not in (AUTO, *INDEX_TYPES):
        raise ConfigError(
            f"index_type must be one of {AUTO}, {', '.join(INDEX_TYPES)} on Milvus Lite, got {index_type!r}; "
            f"a Milvus server has more"
        )
    return name


def describe(space: Space) -> str:
    """Return the note for a collection that holds vectors of ``space``."""
    return json.dumps({NOTE: {"version": VERSION, "space": asdict(space)}})


def creation(client: Any, space: Space, *, is_lite: bool, storage: Storage = PLAIN) -> dict[str, Any]:
    """Arguments of ``create_collection`` but the index. Milvus Lite forgets a description, keeps properties.

    :param client: the ``MilvusClient`` class, passed in so that this module need not import it.
    :param storage: its index settings are ignored.
    """
    from pymilvus import DataType

    note = describe(space)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True, description=note)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ID_BYTES)
    add_fields(schema, storage, space.dim)
    schema.add_field("path", DataType.VARCHAR, max_length=PATH_BYTES)
    schema.add_field("size", DataType.INT64)
    schema.add_field("mtime", DataType.INT64)
    schema.add_field("digest", DataType.VARCHAR, max_length=DIGEST_BYTES)
    kept = properties(storage) | ({NOTE: note} if is_lite else {})
    return {"schema": schema, **({"properties": kept} if kept else {})}


def index(client: Any, space: Space, index_type: str, *, is_lite: bool) -> Any:
    """Index parameters of the field ``vector``."""
    params = client.prepare_index_params()
    params.add_index(
        "vector",
        index_type=index_type,
        index_name="vector",
        metric_type=space.metric,
        params=build_params(index_type, is_lite=is_lite),
    )
    return params


def read_space(description: Mapping[str, Any], where: str) -> Space:
    """Return the note of a collection, from what ``describe_collection`` returned.

    :raises StoreError: If there is none, or a newer version of this library wrote it.
    """
    name = description.get("collection_name")
    texts = (description.get("description"), (description.get("properties") or {}).get(NOTE))
    for text in texts:
        try:
            note = json.loads(text or "")[NOTE]
            version, space = note["version"], note["space"]
        except (ValueError, TypeError, KeyError):
            continue
        if version != VERSION:
            raise StoreError(
                f"collection {name!r} at {where} has format {version}, and this t2i-pipelines knows "
                f"{VERSION}; install the version that made it, or choose another collection_name"
            )
        return Space(**space)
    raise StoreError(
        f"collection {name!r} at {where} was not made by t2i-pipelines, so nothing tells which model "
        f"its vectors are of; choose another collection_name"
    )


def check_same(stored: Space, wanted: Space, where: str) -> None:
    """Pass if vectors of the two may be compared. Names do not decide: digests do.

    :raises ModelMismatchError: If not; shows both.
    """
    keys = ("weights", "preprocessing", "dim", "metric")
    if all(getattr(stored, key) == getattr(wanted, key) for key in keys):
        return
    recorded = (
        f"model_name={stored.model_name!r}"
        if stored.model_name != wanted.model_name
        else f"the weights {stored.weights[:12]} that {stored.model_name!r} had then"
    )
    raise ModelMismatchError(
        f"{where} holds vectors of {_shown(stored)}, which cannot be compared with {_shown(wanted)}; "
        f"choose another collection_name, or use {recorded}"
    )


def _shown(space: Space) -> str:
    return (
        f"{space.model_name!r} (weights {space.weights[:12]}, {space.dim}-d {space.metric}, "
        f"preprocessing {space.preprocessing!r})"
    )
