"""What a database tells of a collection, with the notes that are kept in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from t2i_pipelines.collection import schema
from t2i_pipelines.collection.creation import read_storage
from t2i_pipelines.config.storage import Storage
from t2i_pipelines.types import Space

CHANGING = "t2i_pipelines.changing_until"
"""Until when its index is being changed, seconds since 1970."""

BESIDE = "t2i_pipelines.beside"
"""Earlier targets of an alias, the latest first, separated by commas."""

RENAMED = "t2i_pipelines.renamed_to"
"""What a collection is about to be called, so that its name can become an alias."""

LONGEST = 255
"""Letters of a collection's name."""


class Entry(NamedTuple):
    """A collection as it was found.

    :ivar identity: changes when the collection is dropped and made again.
    :ivar real_name: what the collection is called if it was asked for by an alias.
    :ivar index_type: empty where there is none yet.
    :ivar changing_until: the index is being changed, for no longer than until then, seconds since 1970.
    :ivar beside: real names of earlier targets of its alias, see :mod:`..collection.aliases`.
    """

    identity: Any
    real_name: str
    space: Space
    index_type: str
    changing_until: float = 0.0
    storage: Storage = Storage()
    beside: tuple[str, ...] = ()


def read_entry(found: Mapping[str, Any], where: str) -> tuple[Entry, str]:
    """A collection without its index type, from what ``describe_collection`` returned.

    :return: the entry, and what the collection is about to be called, mostly empty.
    :raises StoreError: If this library did not make the collection.
    """
    notes = found.get("properties") or {}
    entry = Entry(
        identity=(found.get("collection_id"), found.get("created_timestamp")),
        real_name=found["collection_name"],
        space=schema.read_space(found, where),
        index_type="",
        changing_until=float(notes.get(CHANGING, 0)),
        storage=read_storage(found),
        beside=tuple(filter(None, notes.get(BESIDE, "").split(","))),
    )
    return entry, notes.get(RENAMED, "")


def generation(name: str, space: Space) -> str:
    """Return the real name of a model's collection where ``name`` is the alias: the same at every run."""
    made = "|".join([space.weights, space.preprocessing, str(space.dim), space.metric])
    digest = hashlib.blake2b(made.encode(), digest_size=6).hexdigest()
    return f"{name[: LONGEST - len(digest) - 1]}_{digest}"
