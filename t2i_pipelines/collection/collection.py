"""A collection of images in Milvus: rows in, hits out, and the space that its vectors live in.

Open a collection by its settings, and close what was opened.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeVar, Unpack

import numpy as np

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection import lite, schema, search
from t2i_pipelines.collection.catalog import Catalog, Entry
from t2i_pipelines.collection.connection import SLOW, Address, Connection, connection_to, parse_uri
from t2i_pipelines.collection.duplicates import Member, groups
from t2i_pipelines.collection.failures import NotLoadedError, TooLargeError
from t2i_pipelines.collection.rows import Ledger, batches, check_rows, chunks, is_one_of
from t2i_pipelines.collection.schema import check_index_type, check_name
from t2i_pipelines.collection.search import Finder
from t2i_pipelines.config.checks import check_known, check_share, check_whole_number
from t2i_pipelines.config.conditions import NUMBERS, TEXTS
from t2i_pipelines.config.search import MAX_LIMIT, SearchArgs, SearchOptions
from t2i_pipelines.config.storage import AUTO, HowStored, Storage, check_supported
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError
from t2i_pipelines.types import Hit, Matrix, Space, Vector

T = TypeVar("T")

DELETION_SETTLES = 10.0
"""Seconds for which reads after a deletion ask a server for its newest state, at 0.2 s a call."""

SAMPLE = 1000
"""Rows that are looked at to learn which columns there are."""

MOST_WARNINGS = 100
"""Names of columns after which a collection warns no more: clients of a service may send any."""


class Collection:
    """One Milvus collection. Made by :func:`~t2i_pipelines.collection.open_collection`; thread-safe.

    It connects at the first call, and again after :meth:`close`. Reading a collection that is not
    there creates nothing and finds nothing; as soon as it is there, the same object reads it. Every
    method may raise :class:`~t2i_pipelines.errors.StoreError`; the subclass tells why.
    """

    def __init__(
        self, connection: Connection, *, collection_name: str, timeout: float, storage: Storage
    ) -> None:
        self.name = collection_name
        self._connection = connection
        self._timeout = timeout
        self._storage = storage
        self._catalog = Catalog(connection, collection_name)
        self._wanted: Space | None = None
        self._asked_columns: set[str] = set()

    def __repr__(self) -> str:
        return f"Collection({self.name!r} at {self._connection.address})"

    def prepare(self, space: Space) -> None:
        """Make the collection for vectors of ``space``, unless it is there already.

        :raises ModelMismatchError: If it is there for another model.
        :raises ConfigError: If this Milvus cannot store it as was asked.
        """
        if not self.verify(space):
            self._catalog.create(space, self._storage, self._timeout)
            self.verify(space)

    def verify(self, space: Space) -> bool:
        """Whether the collection is there, for vectors of ``space``. Creates nothing.

        :raises ModelMismatchError: If it is there for another model.
        """
        self._connection.join(self)
        entry = self._catalog.ready(self._timeout)
        if entry is not None:
            schema.check_same(entry.space, space, self._where)
            self._wanted = space
        return entry is not None

    def space(self) -> Space | None:
        """What its vectors mean, None if there is no collection."""
        self._connection.join(self)
        return entry.space if (entry := self._catalog.find(self._timeout)) else None

    def upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows; one with a known id takes the other's place entirely. Durable, but not all flushed.

        :param rows: each with id, vector (D,) float32, path, size in bytes, mtime in nanoseconds,
            digest; anything else is metadata. Of rows with one id, the last counts.
        :raises VectorError: If a vector is not finite, zero, or not (D,). Then nothing was stored.
        :raises ConfigError: If another field is wrong. Then nothing was stored.
        :raises CollectionNotFoundError: If :meth:`prepare` has not been called.
        """
        if (entry := self._entry(of_model=True)) is None:
            raise CollectionNotFoundError(
                f"{self._where} does not exist yet; call prepare(space) before upsert"
            )
        for batch in batches(schema.as_stored(entry.storage, check_rows(rows, entry.space.dim))):
            self._send(batch)
            if self._connection.is_full(self._catalog.real_name):
                self._write("flush", slow=True)

    def ledger(self, ids: Sequence[str]) -> dict[str, Ledger]:
        """Size, mtime and digest of those ids that are stored."""
        rows = self.rows(ids, Ledger._fields)
        return {key: Ledger(*(row[field] for field in Ledger._fields)) for key, row in rows.items()}

    def rows(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """These fields of those ids that are stored."""
        found: dict[str, dict[str, Any]] = {}
        for some in chunks(ids):
            rows = self.read("query", filter=is_one_of(some), output_fields=["id", *fields]) or []
            found |= {row["id"]: row for row in rows}
        return found

    def scan(self, fields: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Read every row, a page at a time, in the order of the ids.

        A page of a server has at most 16,384 rows. Milvus Lite looks at every row for every page, so its
        pages have up to 250,000. What others write meanwhile may or may not be seen.

        :param fields: of each row, beside ``id``.
        """
        if (entry := self._entry()) is not None:
            yield from Finder(self, entry, SearchOptions()).pages(fields)

    def search(
        self, vectors: Matrix, options: SearchOptions | None = None, **more: Unpack[SearchArgs]
    ) -> list[list[Hit]]:
        """(N, D) float32 -> N lists of hits, best first. Empty without collection.

        :param options: what to look for; all but ``min_relevance`` is obeyed.
        :param more: options in place of those. A row that lacks one of ``output_fields`` has no such key.
            Python warns once of each column that the options name and no row has.
        :raises VectorError: If a vector is not finite, zero, or not (D,).
        :raises ConfigError: If an option is wrong, or Milvus does not understand ``filter``.
        """
        asked = replace(options or SearchOptions(), **more)
        entry = self._entry(of_model=True)
        queries = search.check_queries(vectors, entry.space.dim if entry else None)
        if entry is None or not len(queries):
            return [[] for _ in queries]
        found = Finder(self, entry, asked).find(queries)
        self._warn_of_unknown_columns(asked, found)
        return found

    def iterate(
        self,
        vector: Vector,
        options: SearchOptions | None = None,
        batch_size: int = 1000,
        **more: Unpack[SearchArgs],
    ) -> Iterator[list[Hit]]:
        """(D,) float32 -> all hits, best first, in lists of ``batch_size``, past Milvus's 16,384.

        Each row comes once, equal scores by id. The first 16,384 are what the index finds, and one that is
        not exact may miss a few; the others follow by an exact comparison with every row, for which the
        vectors are read. What is written meanwhile may or may not be seen.

        :param options: as for :meth:`search`; ``limit`` is ignored.
        :raises VectorError: If the vector is not finite, zero, or not (D,).
        :raises ConfigError: If an option is wrong, or Milvus does not understand ``filter``.
        """
        asked = replace(options or SearchOptions(), **more)
        check_whole_number("batch_size", batch_size, MAX_LIMIT)
        entry = self._entry(of_model=True)
        (query,) = search.check_queries(np.asarray(vector)[None], entry.space.dim if entry else None)
        found = iter(()) if entry is None else Finder(self, entry, asked).every(query)
        return iter(lambda: list(islice(found, batch_size)), [])

    def duplicates(
        self, threshold: float | None = None, *, filter: str = "", where: Mapping[str, Any] | None = None
    ) -> list[list[Member]]:
        """Return groups of near copies, of two and more.

        Each has a cosine of at least ``threshold``, -1 to 1, to another of its group. Every row is compared
        with every other, exactly; the vectors are in a temporary file meanwhile.

        :return: largest group first, then by path; members by path.
        :raises ConfigError: If the threshold, ``filter`` or ``where`` is wrong.
        """
        if threshold is not None:
            check_share("threshold", threshold, lowest=-1)
        asked = SearchOptions(filter=filter, where=where)
        if (entry := self._entry()) is None:
            return []
        return groups(Finder(self, entry, asked).pages(["vector", "path"]), entry.space.dim, threshold)

    def _warn_of_unknown_columns(self, asked: SearchOptions, found: Sequence[Sequence[Hit]]) -> None:
        """Warn of columns that the options name and no row of a sample has, once for each name.

        A column of a hit is one, and so is that of a condition that a hit meets. The sample is the first
        :data:`SAMPLE` rows, of which each may have other columns.
        """
        names = {*asked.output_fields, *filter(None, [asked.group_by])}
        if asked.where and not any(found):
            names |= set(asked.where)
        names -= {"*", "vector", *TEXTS, *NUMBERS} | self._asked_columns
        if not names or len(self._asked_columns) >= MOST_WARNINGS:
            return
        names -= {field for some in found for hit in some for field in hit.fields}
        names = set(sorted(names)[:MOST_WARNINGS])
        if not names:
            return
        rows = self.read("query", filter="", limit=SAMPLE, output_fields=["*"]) or []
        if rows:  # of an empty collection every column is unknown
            self._asked_columns |= names
        known = {field for row in rows for field in row} - {"vector"}
        for name in sorted(names - known) if rows else ():
            near = ", ".join(get_close_matches(name, sorted(known), n=3))
            advice = f"; the nearest are {near}" if near else ""
            warnings.warn(f"no row has a column {name!r}{advice}", stacklevel=3)

    def count(self) -> int:
        """How many rows are stored."""
        rows = self.read("query", filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"]) if rows else 0

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows. Ids that are not stored are passed over."""
        for some in chunks(ids):
            self._write("delete", filter=is_one_of(some))

    def flush(self) -> None:
        """Write everything out and index it, by another index if the rows have outgrown theirs.

        Slow: call it once, when a run ends.
        """
        self._write("flush", slow=True)
        if self._storage.index_type == AUTO and self._entry() is not None:
            self._catalog.keep_index(self.count(), self._timeout)

    def finish(self) -> None:
        """Flush if this process stored rows since it last did so here."""
        if (name := self._catalog.real_name) in self._connection.unflushed:
            self.flush()
            self._connection.unflushed.pop(name, None)

    def drop(self) -> None:
        """Delete the collection with all its rows, if there is one and this library made it."""
        if self._catalog.find(self._timeout) is not None:
            self._write("drop_collection")
            self._catalog.forget()
            self._wanted = None

    def close(self) -> None:
        """Disconnect. The last collection of a Milvus Lite database releases its lock."""
        self._catalog.forget()
        self._connection.leave(self)

    @property
    def is_lite(self) -> bool:
        """Whether Milvus Lite answers."""
        return self._connection.is_lite(self._timeout)

    @property
    def index_type(self) -> str:
        """Of the index that it has now, such as ``FLAT``; empty without collection."""
        return entry.index_type if (entry := self._entry()) else ""

    @property
    def version(self) -> tuple[int, int]:
        """Of a server; (0, 0) of Milvus Lite."""
        return self._connection.version(self._timeout)

    @property
    def patience(self) -> float:
        """Seconds that reading much may take."""
        return max(SLOW, self._timeout)

    @property
    def _where(self) -> str:
        return f"collection {self.name!r} at {self._connection.address}"

    def _entry(self, *, of_model: bool = False) -> Entry | None:
        """The collection, loaded, and where vectors come or go of the right model; None if there is none."""
        self._connection.join(self)
        entry = self._catalog.ready(self._timeout)
        if of_model and entry is not None and self._wanted is not None:
            schema.check_same(entry.space, self._wanted, self._where)
        return entry

    def read(self, method: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        """Return the answer of ``MilvusClient``, None without collection.

        It sees every write of this process.
        """
        with self._connection.kept_open():
            return self._read(method, seconds, arguments)

    def _read(self, method: str, seconds: float | None, arguments: dict[str, Any]) -> Any:
        if (entry := self._entry(of_model=method == "search")) is None:
            return None
        asked = schema.as_asked(entry.storage, {**arguments, "consistency_level": self._consistency()})
        try:
            answer = self._loaded(lambda: self._call(method, seconds=seconds, **asked))
            return schema.as_read(entry.storage, answer)
        except CollectionNotFoundError:  # dropped meanwhile, from elsewhere
            self._catalog.forget()
            return None

    def _write(self, method: str, *, slow: bool = False, **arguments: Any) -> None:
        with self._connection.kept_open():
            self._write_open(method, slow, arguments)

    def _write_open(self, method: str, slow: bool, arguments: dict[str, Any]) -> None:
        if self._entry(of_model=bool(arguments.get("data"))) is None:
            return
        with self._connection.writing(self._timeout) as seconds:
            allowed = max(seconds, SLOW) if slow else seconds
            self._loaded(lambda: self._call(method, seconds=allowed, **arguments))
        self._connection.wrote(method, self._catalog.real_name, arguments.get("data", ()))

    def _consistency(self) -> str:
        """``Session``: reads see this process's writes. A server tells no time for a deletion, though."""
        deleted = self._connection.deletions.get(self._catalog.real_name, float("-inf"))
        return "Strong" if time.monotonic() - deleted < DELETION_SETTLES else "Session"

    def _send(self, batch: list[dict[str, Any]]) -> None:
        """Store a batch, in halves if it is too large for the server."""
        # Milvus Lite's upsert keeps the old row's metadata, and its insert replaces the row.
        method = "insert" if self._connection.is_lite(self._timeout) else "upsert"
        try:
            self._write(method, data=batch)
        except TooLargeError:
            if len(batch) == 1:
                raise
            self._send(batch[: len(batch) // 2])
            self._send(batch[len(batch) // 2 :])

    def _loaded(self, call: Callable[[], T]) -> T:
        for _ in range(2):  # it may be renamed, and then not be loaded
            try:
                return call()
            except (NotLoadedError, CollectionNotFoundError) as err:
                self._catalog.mend(err, self._timeout)
        return call()

    def _call(self, method: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        doing, name = f"{method} in collection {self.name!r}", self._catalog.real_name
        timeout = self._timeout if seconds is None else seconds
        return self._connection.call(method, name, doing=doing, timeout=timeout, **arguments)


_lock = Lock()
_opened: dict[tuple[object, ...], Collection] = {}


def open_collection(
    uri: str | os.PathLike[str] = "milvus.db",
    token: str = "",
    collection_name: str = "image_collection",
    timeout: float = 30.0,
    index_type: str = AUTO,
    **stored: Unpack[HowStored],
) -> Collection:
    """The collection of these settings: equal settings, the same object. Opens nothing yet.

    :param uri: a file that ends in ``.db`` (Milvus Lite), or a server such as
        ``http://localhost:19530``.
    :param token: ``user:password`` or an API key; Milvus Lite needs none.
    :param timeout: seconds that one call to the server may take.
    :param index_type: used when the collection is made. ``AUTO`` is chosen by the number of rows, and again
        whenever they are flushed and have grown past a limit; see :mod:`t2i_pipelines.collection.schema`.
    :param stored: used then, too: ``vector_type``, ``mmap``, ``partition_key``, ``replica_number``; see
        :class:`~t2i_pipelines.config.Storage`. A server is asked whether it knows them only then.
    :raises ConfigError: If one of them cannot work.
    """
    address = parse_uri(uri)
    check_name(collection_name)
    check_known(Storage, dict(stored))
    storage = Storage(index_type=check_index_type(index_type, local=address.path is not None), **stored)
    if address.path is not None:
        check_supported(storage, None, str(address))
    if not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise ConfigError(f"timeout must be a number of seconds above 0, got {timeout!r}")
    key = (address.uri, token, collection_name, float(timeout), storage)
    with _lock:
        if key not in _opened:
            _opened[key] = Collection(
                connection_to(address, token),
                collection_name=collection_name,
                timeout=float(timeout),
                storage=storage,
            )
        return _opened[key]


def collection_names(uri: str | os.PathLike[str] = "milvus.db", token: str = "") -> list[str]:
    """Return the names of the collections of a database, sorted.

    :raises CollectionNotFoundError: If a local database is not there.
    :raises StoreError: If the database does not answer.
    """
    address = parse_uri(uri)
    check_database(address)
    found = connection_to(address, token).call("list_collections", doing="listing collections", timeout=30.0)
    return sorted(found)


def check_database(address: Address) -> None:
    """Refuse a local database that is not there.

    :raises CollectionNotFoundError: With the command that makes one.
    """
    if address.path is not None and not lite.exists(address.path):
        raise CollectionNotFoundError(
            f"there is no database {address}; insert images first: t2i insert FOLDER --uri {address}"
        )


def check_exists(
    uri: str | os.PathLike[str] = "milvus.db", token: str = "", collection_name: str = "image_collection"
) -> None:
    """Refuse a collection that is not there.

    :raises CollectionNotFoundError: Says whether the database or the collection is missing, and which
        collections there are.
    """
    if open_collection(uri, token, collection_name).space() is not None:
        return
    address = parse_uri(uri)
    names = ", ".join(collection_names(uri, token)) or "none"
    raise CollectionNotFoundError(
        f"there is no collection {collection_name!r} at {address}; its collections: {names} "
        "(collection_name, --collection-name)"
    )


def close(uri: str | os.PathLike[str] | None = None) -> None:
    """Close every collection, or those at ``uri``. They open again when they are used again.

    A Milvus Lite database is released: another process may open it right after.
    """
    wanted = None if uri is None else parse_uri(uri).uri
    with _lock:
        chosen = [c for key, c in _opened.items() if wanted is None or key[0] == wanted]
    for collection in chosen:
        collection.close()
