"""A collection as it was found in the database, and the notes that are kept with it."""

from __future__ import annotations

from typing import Any, NamedTuple

from t2i_pipelines.storage import Storage
from t2i_pipelines.types import Space

CHANGING = "t2i_pipelines.changing_until"
"""The index is being changed, for no longer than until then, seconds since 1970."""

BESIDE = "t2i_pipelines.beside"
"""Names of the collections that an alias stood for before, the latest first, with commas between."""

RENAMED = "t2i_pipelines.renamed_to"
"""What a collection is about to be called, so that its name can become an alias."""


class Entry(NamedTuple):
    """A collection as it was found.

    :ivar identity: changes when the collection is dropped and made again.
    :ivar real_name: what the collection is called if it was asked for by an alias.
    :ivar changing_until: the index is being changed, for no longer than until then, seconds since 1970.
    :ivar beside: real names of what its alias stood for before, see :mod:`..collection.aliases`.
    """

    identity: Any
    real_name: str
    space: Space
    index_type: str
    changing_until: float = 0.0
    storage: Storage = Storage()
    beside: tuple[str, ...] = ()
