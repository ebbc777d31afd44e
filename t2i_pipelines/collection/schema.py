"""What a collection looks like, and the note in it that tells which model filled it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from t2i_pipelines.collection.creation import add_fields, properties
from t2i_pipelines.collection.indexes import build_params
from t2i_pipelines.collection.lite import INDEX_TYPES
from t2i_pipelines.config.storage import AUTO, Storage
from t2i_pipelines.errors import ConfigError, ModelMismatchError, StoreError
from t2i_pipelines.types import Space

ID_BYTES, PATH_BYTES, DIGEST_BYTES = 128, 4096, 64
NOTE = "t2i_pipelines"
VERSION = 1
"""Of fields and note together. A change that old code would read wrongly counts one up."""

PLAIN = Storage()

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def check_name(collection_name: str) -> str:
    """The name, if every Milvus accepts it.

    :raises ConfigError: If not.
    """
    if not isinstance(collection_name, str) or not _NAME.fullmatch(collection_name):
        raise ConfigError(
            f"collection_name must be letters, digits and _, at most 255, and not start with a "
            f"digit; got {collection_name!r}"
        )
    return collection_name


def check_index_type(index_type: str, *, local: bool) -> str:
    """The type in capitals. Milvus Lite takes any name and then cannot open the collection again.

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
    """The note for a collection that holds vectors of ``space``."""
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
    """The note of a collection, from what ``describe_collection`` returned.

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
