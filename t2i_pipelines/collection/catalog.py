"""Look a collection up, create it, load it, and keep its index: all calls but those for rows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

from t2i_pipelines.collection import lite, schema
from t2i_pipelines.collection.connection import SLOW, Connection
from t2i_pipelines.collection.failures import NotLoadedError
from t2i_pipelines.collection.schema import read_storage
from t2i_pipelines.config.storage import AUTO, Storage, check_supported
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, StoreError
from t2i_pipelines.types import Space

CHANGING = "t2i_pipelines.changing_until"
"""Until when its index is being changed, seconds since 1970."""

BESIDE = "t2i_pipelines.beside"
"""Earlier targets of an alias, the latest first, separated by commas."""

RENAMED = "t2i_pipelines.renamed_to"
"""The new name of a collection whose name is about to become an alias."""

LONGEST = 255
"""Letters of a collection's name."""


class Entry(NamedTuple):
    """A collection as it was found.

    :ivar identity: changes when the collection is dropped and made again.
    :ivar real_name: the name of the collection, which is another where it was asked for by an alias.
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
    """Return a collection without its index type, from what ``describe_collection`` returned.

    :return: the entry, and the name that the collection is about to get, mostly empty.
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


GROUP = "__default_resource_group"
"""The query nodes that a server uses by default."""


def check(connection: Connection, storage: Storage, timeout: float) -> None:
    """Pass if it can.

    :raises ConfigError: Names the setting, and what this Milvus has and would need.
    """
    where = str(connection.address)
    is_lite = connection.is_lite(timeout)
    schema.check_index_type(storage.index_type, local=is_lite)
    check_supported(storage, None if is_lite else connection.version(timeout), where)
    if storage.replica_number > 1:
        group = connection.call(
            "describe_resource_group", GROUP, doing="counting query nodes", timeout=timeout
        )
        if group.num_available_node < storage.replica_number:
            raise ConfigError(
                f"replica_number={storage.replica_number} needs as many query nodes, and {where} has "
                f"{group.num_available_node}"
            )


RECHECK = 5.0
"""Seconds after which a server is asked again: other processes may have recreated a collection there for
another model. A local database belongs to this process."""

BEING_MADE = 2.0
"""Seconds for which a collection may be without an index before its maker is presumed dead."""

BEING_RENAMED = 2.0
"""Seconds for which neither of a collection's names may be known before it is presumed dropped."""

CHANGE_TAKES = 300.0
"""Seconds after which a process that is changing the index is presumed dead."""

A_LOOK = 0.1
"""Seconds between two looks whether that is done."""

TRIES = 20
"""How often a collection is released again when others, who search it, load it meanwhile."""


class Catalog:
    """Finds, makes and loads one collection, and remembers that it did."""

    def __init__(self, connection: Connection, name: str, timeout: float) -> None:
        self.connection = connection
        self.name = name
        self.timeout = timeout

    def find(self) -> Entry | None:
        """Ask the database. None if it, or the collection, does not exist; creates neither.

        :raises StoreError: If this library did not make the collection.
        """
        path = self.connection.address.path
        if path is not None and not lite.exists(path):
            return None
        with suppress(CollectionNotFoundError):
            return self._look_up(self.name)
        end = time.monotonic() + BEING_RENAMED
        while self._is_renamed() and time.monotonic() < end:
            # until its name is an alias there is none of this name, and one look has several calls
            for name in (self.connection.renamed[self.name], self.name):
                with suppress(CollectionNotFoundError):
                    return self._look_up(name)
            time.sleep(A_LOOK)
        self.connection.renamed.pop(self.name, None)
        self.connection.generations.pop(self.name, None)
        return None

    def _look_up(self, name: str) -> Entry:
        found = self._call("describe_collection", self.timeout, name)
        entry, renamed_to = read_entry(found, str(self.connection.address))
        if entry.real_name == self.name != renamed_to:
            self.connection.generations[self.name] = generation(self.name, entry.space)
            if renamed_to:
                self.connection.renamed[self.name] = renamed_to
        return entry._replace(index_type=self._index_type(entry.real_name))

    def _is_renamed(self) -> bool:
        """Return whether the collection that was found before has another name now, or is about to get it.

        A process that was suspended while the renaming was announced finds the new name itself.
        """
        renamed = self.connection.renamed
        if self.name not in renamed and (name := self.connection.generations.get(self.name)):
            with suppress(CollectionNotFoundError):
                found = self._call("describe_collection", self.timeout, name)
                if read_entry(found, str(self.connection.address))[1] == name:
                    renamed[self.name] = name
        return self.name in renamed

    @property
    def real_name(self) -> str:
        """The name of the collection, as of the last look-up; an alias may be moved meanwhile."""
        _, entry = self.connection.entries.get(self.name, (0.0, None))
        return entry.real_name if entry is not None else self.name

    def remembered(self) -> Entry | None:
        """Return the collection as last looked up; None if it was not found, or may have changed since."""
        since, entry = self.connection.entries.get(self.name, (0.0, None))
        fresh = not self.connection.address.is_shared or time.monotonic() - since < RECHECK
        return entry if fresh else None

    def ready(self) -> Entry | None:
        """Return the collection, loaded, or None.

        Asks the database only if it must, and waits for a new index.
        """
        while True:
            remembered = self.remembered()
            if remembered is not None:
                return remembered
            with self.connection.kept_open(), self.connection.loading:
                if (remembered := self.remembered()) is not None:
                    return remembered
                entry = self.find()
                before = self.connection.entries.get(self.name)
                if entry is None:
                    self.forget()
                    return None
                if time.time() >= entry.changing_until:
                    if before is None or before[1] != entry:
                        try:
                            self.load(entry)
                        except CollectionNotFoundError:
                            if self._is_renamed():  # just now
                                continue
                            raise
                    self.connection.entries[self.name] = (time.monotonic(), entry)
                    return entry
            time.sleep(A_LOOK)

    def create(self, space: Space, storage: Storage) -> None:
        """Make the collection with its index, load it, and remember it. Another may be first.

        :raises ConfigError: If this Milvus cannot store one like this.
        """
        from pymilvus import MilvusClient

        check(self.connection, storage, self.timeout)
        # a reader must not find the collection half made: it would try to complete it
        with (
            self.connection.kept_open(),
            self.connection.loading,
            self.connection.writing(self.timeout) as seconds,
        ):
            is_lite = self.connection.is_lite(self.timeout)
            index_type = self._type(storage.index_type)
            arguments = schema.creation(MilvusClient, space, is_lite=is_lite, storage=storage)
            try:
                self._call("create_collection", max(seconds, 60.0), **arguments)
                # apart from it: together they wait half a second for the index, and load one replica
                self._make_index(space, index_type)
                self._call("load_collection", SLOW, **schema.load_arguments(storage))
                self.connection.entries[self.name] = (time.monotonic(), self.find())
                return
            except StoreError:
                if self.find() is None:
                    raise
        self.ready()  # another made it, and may not have finished

    def load(self, entry: Entry | None = None) -> None:
        """Load the collection, which a server's restart and each opening of Milvus Lite undo.

        Index files that a crash left half written are deleted; the load rebuilds them.
        """
        entry = entry or self.find()
        while entry is not None and time.time() < entry.changing_until:
            time.sleep(A_LOOK)
            entry = self.find()
        path = self.connection.address.path
        name = entry.real_name if entry is not None else ""
        if entry is not None and not entry.index_type:
            self._finish(entry)
        replicas = schema.load_arguments(entry.storage) if entry else {}
        try:
            self._call("load_collection", SLOW, name, **replicas)
        except CollectionNotFoundError:
            raise
        except StoreError as err:
            if path is None and entry is not None and not self._index_type(name):
                self._finish(entry)  # another writer was changing the index
                self._call("load_collection", SLOW, name, **replicas)
                return
            if path is None or entry is None or not lite.forget_indexes(path, entry.real_name):
                raise
            lite.log.warning(
                "collection %r at %s did not load (%s); its index files were deleted and are built "
                "again, no rows are lost", self.name, path, err,
            )  # fmt: skip
            self._call("load_collection", SLOW, name)

    def mend(self, err: StoreError) -> None:
        """Make a call possible again that failed so, or raise it again.

        :param err: the collection was released from elsewhere or its server restarted, or it is renamed.
        """
        if isinstance(err, NotLoadedError):
            self.load()
            return
        if not self._is_renamed():
            raise err
        with self.connection.kept_open(), self.connection.mending:
            if self.real_name != self.name:  # another has done it
                return
            if (entry := self.find()) is None:
                raise err
            self._call("load_collection", SLOW, entry.real_name)
            self.connection.entries[self.name] = (time.monotonic(), entry)

    def forget(self) -> None:
        """Ask the database next time, by whatever name it is asked for."""
        entries, real_name = self.connection.entries, self.real_name
        entries.pop(self.name, None)
        for name, (_, entry) in list(entries.items()):
            if entry.real_name == real_name:
                entries.pop(name, None)

    def keep_index(self, rows: int) -> None:
        """Change the index for that of a larger collection, if this one has become one. No row is touched.

        Milvus must release the collection for that, and a server that does so answers with nothing for a
        while. So all who search are notified first, and wait. With Milvus Lite they wait for the lock, and
        one that looks the collection up only then must not find it without an index and create one.
        """
        is_lite = self.connection.is_lite(self.timeout)
        loading = self.connection.loading if is_lite else nullcontext()
        with self.connection.kept_open(), loading, self.connection.writing(self.timeout):
            entry = self.find()
            steps = self._ladder()
            wanted = schema.outgrown(entry.index_type, rows, steps) if entry else None
            if entry is None or wanted is None:
                return
            with nullcontext() if is_lite else self._nobody_searching():
                self._drop_index(entry)
                self._make_either(entry, wanted)
                self._call("load_collection", SLOW, **schema.load_arguments(entry.storage))
        self.forget()

    @contextmanager
    def _nobody_searching(self) -> Iterator[None]:
        """Everybody who uses this library sees the note within ``RECHECK`` seconds."""
        until = time.time() + CHANGE_TAKES
        self._call("alter_collection_properties", self.timeout, properties={CHANGING: str(until)})
        self.forget()
        time.sleep(RECHECK + 1)
        try:
            yield
        finally:
            self._call("alter_collection_properties", self.timeout, properties={CHANGING: "0"})
            self.forget()

    def _make_either(self, entry: Entry, wanted: str) -> None:
        try:
            self._make_index(entry.space, wanted)
        except StoreError as err:
            if self._index_type():  # another writer has made one
                return
            lite.log.warning(
                "collection %r at %s keeps its index %s, since %s cannot be made: %s",
                self.name, self.connection.address, entry.index_type, wanted, err,
            )  # fmt: skip
            self._make_index(entry.space, entry.index_type)

    def _drop_index(self, entry: Entry) -> None:
        for tried in range(1, TRIES + 1):
            self._call("release_collection", SLOW)
            try:
                self._call("drop_index", SLOW, index_name="vector")
            except StoreError:
                if tried == TRIES:
                    self._call("load_collection", SLOW, **schema.load_arguments(entry.storage))
                    raise
                time.sleep(0.1)
            else:
                return

    def _make_index(self, space: Space, index_type: str) -> None:
        from pymilvus import MilvusClient

        is_lite = self.connection.is_lite(self.timeout)
        params = schema.index(MilvusClient, space, index_type, is_lite=is_lite)
        # a server builds it in the background, and compares every row until it has
        self._call("create_index", SLOW, index_params=params, sync=False)

    def _finish(self, entry: Entry) -> None:
        """Make the index that a writer was killed before making."""
        end = time.monotonic() + BEING_MADE
        while not self._index_type():
            if time.monotonic() > end:
                with self.connection.writing(self.timeout):
                    if not self._index_type():  # another may have had the turn before
                        self._make_index(entry.space, self._type(AUTO))
                return
            time.sleep(0.05)

    def _type(self, index_type: str) -> str:
        """Return the type that a collection begins with."""
        return schema.choice(0, self._ladder()) if index_type == AUTO else index_type

    def _ladder(self) -> Mapping[str, int]:
        connection = self.connection
        return schema.ladder(
            is_lite=connection.is_lite(self.timeout), version=connection.version(self.timeout)
        )

    def _index_type(self, name: str = "") -> str:
        names = self._call("list_indexes", self.timeout, name)
        if not names:
            return ""
        found = self._call("describe_index", self.timeout, name, index_name=names[0])
        return str(found["index_type"]) if found else ""  # it may be dropped meanwhile

    def _call(self, method: str, timeout: float, name: str = "", **arguments: Any) -> Any:
        doing = f"{method} of {self.name!r}"
        name = name or self.real_name
        return self.connection.call(method, name, doing=doing, timeout=timeout, **arguments)
