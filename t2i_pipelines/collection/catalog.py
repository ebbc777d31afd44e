"""What a database knows of one collection: whether it is there, for which model, and loaded."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from t2i_pipelines.collection import lite, schema
from t2i_pipelines.collection.connection import SLOW, Connection
from t2i_pipelines.errors import CollectionNotFoundError, StoreError
from t2i_pipelines.types import Space

RECHECK = 5.0
"""Seconds after which a server is asked again: others may have dropped a collection there and made it
anew for another model. A local database is this process's alone."""


class Entry(NamedTuple):
    """A collection as it was found.

    :ivar identity: changes when the collection is dropped and made again.
    :ivar real_name: what the collection is called if it was asked for by an alias.
    """

    identity: Any
    real_name: str
    space: Space
    index_type: str


class Catalog:
    """Finds, makes and loads one collection, and remembers that it did."""

    def __init__(self, connection: Connection, collection_name: str) -> None:
        self._connection = connection
        self._name = collection_name

    def find(self, timeout: float) -> Entry | None:
        """Ask the database. None if it, or the collection, does not exist; creates neither.

        :raises StoreError: If this library did not make the collection.
        """
        path = self._connection.address.path
        if path is not None and not lite.exists(path):
            return None
        try:
            found = self._call("describe_collection", timeout)
        except CollectionNotFoundError:
            return None
        where = str(self._connection.address)
        identity = (found.get("collection_id"), found.get("created_timestamp"))
        space = schema.read_space(found, where)
        return Entry(identity, found["collection_name"], space, self._index_type(timeout))

    def ready(self, timeout: float) -> Entry | None:
        """The collection, loaded, or None. Asks the database only if it must."""
        remembered = self._remembered()
        if remembered is not None:
            return remembered
        with self._connection.loading:
            if (remembered := self._remembered()) is not None:
                return remembered
            entry = self.find(timeout)
            before = self._connection.entries.get(self._name)
            if entry is None:
                self.forget()
                return None
            if before is None or before[1] != entry:
                self.load(timeout, entry)
            self._connection.entries[self._name] = (time.monotonic(), entry)
            return entry

    def create(self, space: Space, index_type: str, timeout: float) -> None:
        """Make the collection with its index, and load it. Another may be first."""
        from pymilvus import MilvusClient

        # a reader must not find the collection half made: it would set about finishing it
        with self._connection.loading, self._connection.writing(timeout) as seconds:
            is_lite = self._connection.is_lite(timeout)
            arguments = schema.creation(MilvusClient, space, index_type, is_lite=is_lite)
            try:
                self._call("create_collection", max(seconds, 60.0), **arguments)
            except StoreError:
                if self.find(timeout) is None:
                    raise

    def load(self, timeout: float, entry: Entry | None = None) -> None:
        """Load the collection, which a server's restart and each opening of Milvus Lite undo.

        Index files that a crash left half written are deleted; the load builds them anew.
        """
        entry = entry or self.find(timeout)
        path = self._connection.address.path
        if entry is not None and not entry.index_type:
            self._finish(entry, timeout)
        try:
            self._call("load_collection", SLOW)
        except CollectionNotFoundError:
            raise
        except StoreError as err:
            if path is None or entry is None or not lite.forget_indexes(path, entry.real_name):
                raise
            lite.log.warning(
                "collection %r at %s did not load (%s); its index files were deleted and are built "
                "again, no rows are lost", self._name, path, err,
            )  # fmt: skip
            self._call("load_collection", SLOW)

    def forget(self) -> None:
        """Ask the database next time."""
        self._connection.entries.pop(self._name, None)

    def _finish(self, entry: Entry, timeout: float) -> None:
        """Make the index that a writer was killed before making."""
        from pymilvus import MilvusClient

        with self._connection.writing(timeout) as seconds:
            params = schema.index(MilvusClient, entry.space, "AUTOINDEX")
            self._call("create_index", max(seconds, 60.0), index_params=params)

    def _remembered(self) -> Entry | None:
        since, entry = self._connection.entries.get(self._name, (0.0, None))
        fresh = self._connection.address.path is not None or time.monotonic() - since < RECHECK
        return entry if fresh else None

    def _index_type(self, timeout: float) -> str:
        names = self._connection.call(
            "list_indexes", self._name, doing=f"looking at {self._name!r}", timeout=timeout
        )
        if not names:
            return ""
        return str(self._call("describe_index", timeout, index_name=names[0])["index_type"])

    def _call(self, method: str, timeout: float, **arguments: Any) -> Any:
        doing = f"{method} of {self._name!r}"
        return self._connection.call(method, self._name, doing=doing, timeout=timeout, **arguments)
