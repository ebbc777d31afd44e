"""A collection of images in Milvus: rows in, hits out, and the space that its vectors live in.

Open and close collections by their settings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from typing import Any, TypeVar, Unpack

import numpy as np

from t2i_pipelines.collection import schema, search
from t2i_pipelines.collection.catalog import Catalog, Entry
from t2i_pipelines.collection.columns import (
    ColumnWarnings,
    Values,
    check_column,
    check_condition,
    commonest,
    types_of,
)
from t2i_pipelines.collection.connection import FLUSH_AGAIN, SLOW, Connection
from t2i_pipelines.collection.duplicates import Member, groups
from t2i_pipelines.collection.failures import NotLoadedError, TooLargeError
from t2i_pipelines.collection.rows import Ledger, batches, check_metadata, check_rows, chunks, is_one_of
from t2i_pipelines.collection.search import Finder
from t2i_pipelines.config.args import SearchArgs
from t2i_pipelines.config.checks import check_share, check_whole_number
from t2i_pipelines.config.search import MAX_LIMIT, SearchOptions
from t2i_pipelines.config.storage import AUTO, Storage
from t2i_pipelines.errors import CollectionNotFoundError, StoreTimeoutError
from t2i_pipelines.types import Hit, Matrix, Space, Vector

T = TypeVar("T")

DELETION_SETTLES = 10.0
"""Seconds for which reads after a deletion ask a server for its newest state, at 0.2 s a call."""

SAMPLE = 1000
"""Rows that are looked at to learn which columns there are."""

MOST_ROWS = 1_000_000
"""Rows that are looked at for the values of a column, at most: they are counted in memory."""

METADATA_PAGE = 1000
"""Rows whose metadata is read from a server at a time: at most 64 MB, which is the limit of its answers."""


class Collection:
    """One Milvus collection. Made by :func:`~t2i_pipelines.collection.open_collection`; thread-safe.

    It connects at the first call, and again after :meth:`close`. Reading a collection that is not
    there creates nothing and finds nothing; as soon as it is there, the same object reads it. Every
    method may raise :class:`~t2i_pipelines.errors.StoreError`; the subclass tells why.

    :ivar name: the name that it was opened by, which may be an alias.
    :ivar connection: the client of its database, shared by all collections of that database.
    :ivar catalog: the collection's real name, model, index and storage, as the database tells them.
    """

    def __init__(
        self, connection: Connection, *, collection_name: str, timeout: float, storage: Storage
    ) -> None:
        self.name = collection_name
        self.connection = connection
        self._storage = storage
        self.catalog = Catalog(connection, collection_name, timeout)
        self._wanted: Space | None = None
        self._warnings = ColumnWarnings()
        self._block = threading.local()

    def __repr__(self) -> str:
        return f"Collection({self.name!r} at {self.connection.address})"

    def prepare(self, space: Space) -> None:
        """Make the collection for vectors of ``space``, unless it is there already.

        :raises ModelMismatchError: If it is there for another model.
        :raises ConfigError: If this Milvus cannot store it as was asked.
        """
        if not self.verify(space):
            self.catalog.create(space, self._storage)
            self.verify(space)

    def verify(self, space: Space) -> bool:
        """Return whether the collection is there, for vectors of ``space``. Creates nothing.

        :raises ModelMismatchError: If it is there for another model.
        """
        entry = self.entry()
        if entry is not None:
            schema.check_same(entry.space, space, self.where)
            self._wanted = space
        return entry is not None

    @contextmanager
    def looked_up(self) -> Iterator[None]:
        """Look the collection up once for all calls of this thread within the block."""
        if hasattr(self._block, "entry"):
            yield
            return
        self._block.entry = self.entry()
        try:
            yield
        finally:
            del self._block.entry

    def space(self) -> Space | None:
        """Return what its vectors mean, None if there is no collection."""
        self.connection.join(self)
        return entry.space if (entry := self.catalog.find()) else None

    def upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows; one with a known id takes the other's place entirely. Durable, but not all flushed.

        :param rows: each with id, vector (D,) float32, path, size in bytes, mtime in nanoseconds,
            digest; anything else is metadata. Of rows with one id, the last counts.
        :raises VectorError: If a vector is not finite, zero, or not (D,). Then nothing was stored.
        :raises ConfigError: If another field is wrong. Then nothing was stored.
        :raises CollectionNotFoundError: If :meth:`prepare` has not been called.
        """
        if (entry := self.entry(of_model=True)) is None:
            raise CollectionNotFoundError(
                f"{self.where} does not exist yet; call prepare(space) before upsert"
            )
        for batch in batches(schema.as_stored(entry.storage, check_rows(rows, entry.space.dim))):
            self._send(batch)
            if self.connection.is_full(self.catalog.real_name):
                self.write("flush", least=self.patience)

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

    def scan(
        self,
        fields: Sequence[str],
        *,
        filter: str = "",
        where: Mapping[str, Any] | None = None,
        after: str = "",
        page_rows: int | None = None,
    ) -> Iterator[list[dict[str, Any]]]:
        """Read rows, a page at a time, in the order of the ids.

        A page of a server has at most 16,384 rows. Milvus Lite looks at every row for every page, so its
        pages have up to 250,000. Each row that is stored all the while is read once, whatever is inserted or
        deleted meanwhile; rows that others write may or may not be seen.

        :param fields: of each row, beside ``id``; ``$meta`` is all metadata but a partition key.
        :param filter: with ``where``, which rows; as for :meth:`search`.
        :param after: only rows of a higher id.
        :param page_rows: rows of a page, in place of what suits most collections.
        :raises ConfigError: If ``filter`` or ``where`` is wrong.
        """
        asked = SearchOptions(filter=filter, where=where)
        if page_rows is not None:
            check_whole_number("page_rows", page_rows, MAX_LIMIT)
        if (entry := self.entry()) is not None:
            yield from Finder(self, entry, asked).pages(fields, after=after, most=page_rows)

    def columns(self, *, rows: int = SAMPLE) -> dict[str, str]:
        """Return the columns of metadata, by name, with the type of their values.

        Each row may have columns of its own, so those are found that some of the first rows have.

        :param rows: rows that are looked at, in the order of the ids.
        :return: a name of JSON Schema for each column: ``string``, ``integer``, ``number``, ``boolean``,
            ``array`` or ``object``; ``mixed`` where rows differ.
        """
        check_whole_number("rows", rows, MOST_ROWS)
        return types_of(islice(self._metadata(rows), rows))

    def values(self, column: str, *, limit: int = 20, rows: int = 10_000) -> Values:
        """Return the commonest values of a column. Of a list, each item counts.

        :param column: of metadata; no row need have it.
        :param limit: values to return, at most.
        :param rows: rows that are looked at, in the order of the ids.
        :raises ConfigError: If the column is one of the collection's own, or a number is wrong.
        """
        check_column(column)
        check_whole_number("limit", limit, MAX_LIMIT)
        check_whole_number("rows", rows, MOST_ROWS)
        return commonest(self._metadata(rows), column, limit=limit, most=rows)

    def _metadata(self, rows: int) -> Iterator[dict[str, Any]]:
        """Read the metadata of the first ``rows`` rows, and of at least one more if there is one."""
        page_rows = min(rows + 1, MAX_LIMIT if self.is_lite else METADATA_PAGE)
        return chain.from_iterable(self.scan(self.metadata_fields, page_rows=page_rows))

    @property
    def metadata_fields(self) -> list[str]:
        """Fields of a row that together are its metadata."""
        entry = self.entry()
        key = None if entry is None else entry.storage.partition_key
        return ["$meta"] if key is None else ["$meta", key]

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
        asked = replace(options or SearchOptions(), **more) if more or options is None else options
        entry = self.entry(of_model=True)
        queries = search.check_queries(vectors, entry.space.dim if entry else None)
        if entry is None or not len(queries):
            return [[] for _ in queries]
        found = Finder(self, entry, asked).find(queries)
        self._warnings.check(
            asked, found, lambda: self.read("query", filter="", limit=SAMPLE, output_fields=["*"]) or []
        )
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
        vectors are read. Rows written meanwhile may or may not be seen.

        :param options: as for :meth:`search`; ``limit`` is ignored.
        :raises VectorError: If the vector is not finite, zero, or not (D,).
        :raises ConfigError: If an option is wrong, or Milvus does not understand ``filter``.
        """
        asked = replace(options or SearchOptions(), **more)
        check_whole_number("batch_size", batch_size, MAX_LIMIT)
        entry = self.entry(of_model=True)
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
        if (entry := self.entry()) is None:
            return []
        return groups(Finder(self, entry, asked).pages(["vector", "path"]), entry.space.dim, threshold)

    def count(self, *, filter: str = "", where: Mapping[str, Any] | None = None) -> int:
        """Return how many rows are stored.

        :param filter: with ``where``, which rows; as for :meth:`search`.
        :raises ConfigError: If ``filter`` or ``where`` is wrong.
        """
        asked = SearchOptions(filter=filter, where=where)
        return 0 if (entry := self.entry()) is None else Finder(self, entry, asked).count()

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows. Ids that are not stored are passed over."""
        for some in chunks(ids):
            self.write("delete", filter=is_one_of(some))

    def delete_by_filter(self, filter: str = "", where: Mapping[str, Any] | None = None) -> int:
        """Remove the rows that meet ``filter`` and ``where``, and return how many.

        Rows that are stored meanwhile may or may not be removed. Searches and writes go on.

        :raises ConfigError: If ``filter`` or ``where`` is wrong, or neither leaves out any row.
        """
        check_condition(filter, where)
        removed, page_rows = 0, None if self.is_lite else MAX_LIMIT
        for page in self.scan([], filter=filter, where=where, page_rows=page_rows):
            self.delete([row["id"] for row in page])
            removed += len(page)
        return removed

    def update(self, id: str, changes: Mapping[str, Any]) -> bool:
        """Change metadata of a row, and return whether there is such a row. The vector stays.

        So do size, mtime and digest: an insert of the same file and metadata finds the row unchanged, and
        one with other metadata or a changed file replaces the whole row. No write of this process is lost,
        and with Milvus Lite none of another. Where several processes write to a server, the last counts.

        :param changes: column -> value; None removes the column. Others stay as they are.
        :raises ConfigError: If a name is reserved, a value cannot be stored, or the metadata is too large.
        """
        check_metadata(changes, f"row {id!r}")
        with self.connection.updating(self.catalog.timeout):
            self.require_strong_consistency()
            row = self.rows([id], ["*"]).get(id)
            if row is not None:
                self.upsert([{**row, **changes}])
        return row is not None

    def flush(self) -> None:
        """Write everything out and index it, by another index if the rows have outgrown theirs.

        Slow: call it once, when a run ends.
        """
        if self.entry() is None:
            return
        is_lite = self.connection.is_lite(self.catalog.timeout)
        ends = time.monotonic() + self.patience
        while True:
            try:
                self.write("flush", least=self.patience if is_lite else FLUSH_AGAIN)
                break
            except StoreTimeoutError:
                if is_lite or time.monotonic() > ends:
                    raise
        if self._storage.index_type == AUTO:
            self.catalog.keep_index(self.count())

    def finish(self) -> None:
        """Flush if this process stored rows since it last did so here."""
        if (name := self.catalog.real_name) in self.connection.unflushed:
            self.flush()
            self.connection.unflushed.pop(name, None)

    def drop(self) -> None:
        """Delete the collection with all its rows, if there is one and this library made it."""
        if self.catalog.find() is not None:
            self.write("drop_collection")
            self.catalog.forget()
            self._wanted = None

    def close(self) -> None:
        """Disconnect. The last collection of a Milvus Lite database releases its lock."""
        self.catalog.forget()
        self.connection.leave(self)

    def read_note(self, name: str) -> str | None:
        """Return a text that is kept with the collection; None without it, or without collection."""
        if self.entry() is None:
            return None
        try:
            found = self._call("describe_collection")
        except CollectionNotFoundError:  # dropped meanwhile by another process
            return None
        text = (found.get("properties") or {}).get(name)
        return None if text is None else str(text)

    def write_note(self, name: str, text: str) -> None:
        """Keep a text in the collection's properties, in place of one of that name.

        :raises StoreError: If the database refuses, as without the right to change a collection.
        """
        self.write("alter_collection_properties", properties={name: text})

    def is_unchanged(self, before: Entry | None, now: Entry | None) -> bool:
        """Return whether the collection was not dropped and made again between two results of :meth:`entry`.

        A local one is the same object as long as the database was not closed either.
        """
        return before == now if self.connection.address.is_shared else before is now

    def require_strong_consistency(self) -> None:
        """Let reads of the next :data:`DELETION_SETTLES` seconds see what other processes have written.

        A server tells a process the time of its own writes only.
        """
        self.connection.deletions[self.catalog.real_name] = time.monotonic()

    @property
    def is_lite(self) -> bool:
        """Whether Milvus Lite answers."""
        return self.connection.is_lite(self.catalog.timeout)

    @property
    def index_type(self) -> str:
        """Of the index that it has now, such as ``FLAT``; empty without collection."""
        return entry.index_type if (entry := self.entry()) else ""

    @property
    def version(self) -> tuple[int, int]:
        """Of a server; (0, 0) of Milvus Lite."""
        return self.connection.version(self.catalog.timeout)

    @property
    def patience(self) -> float:
        """Seconds that reading much may take."""
        return max(SLOW, self.catalog.timeout)

    @property
    def where(self) -> str:
        """The collection and its database, for messages."""
        return f"collection {self.name!r} at {self.connection.address}"

    def entry(self, *, of_model: bool = False) -> Entry | None:
        """Look the collection up, and load it. None without collection.

        :param of_model: refuse a collection of another model than :meth:`verify` has seen.
        """
        self.connection.join(self)
        if hasattr(self._block, "entry"):
            entry = self.catalog.remembered()
            if entry is None and self._block.entry is not None:  # dropped, closed, or too long ago
                entry = self.catalog.ready()
            self._block.entry = entry
        else:
            entry = self.catalog.ready()
        if of_model and entry is not None and self._wanted is not None:
            schema.check_same(entry.space, self._wanted, self.where)
        return entry

    def read(self, method: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        """Return the answer of ``MilvusClient``, None without collection.

        It sees every write of this process.
        """
        with self.connection.kept_open():
            return self._read(method, seconds, arguments)

    def _read(self, method: str, seconds: float | None, arguments: dict[str, Any]) -> Any:
        if (entry := self.entry(of_model=method == "search")) is None:
            return None
        asked = schema.as_asked(entry.storage, {**arguments, "consistency_level": self._consistency()})
        try:
            answer = self._loaded(lambda: self._call(method, seconds=seconds, **asked))
            return schema.as_read(entry.storage, answer)
        except CollectionNotFoundError:  # dropped meanwhile, from elsewhere
            self.catalog.forget()
            return None

    def write(self, method: str, *, least: float = 0.0, **arguments: Any) -> None:
        """Call a writing method of ``MilvusClient``. Do nothing without collection.

        :param least: seconds that it is allowed at least.
        """
        with self.connection.kept_open():
            self._write_open(method, least, arguments)

    def _write_open(self, method: str, least: float, arguments: dict[str, Any]) -> None:
        if self.entry(of_model=bool(arguments.get("data"))) is None:
            return
        with self.connection.writing(self.catalog.timeout) as seconds:
            allowed = max(seconds, least)
            self._loaded(lambda: self._call(method, seconds=allowed, **arguments))
        self.connection.wrote(method, self.catalog.real_name, arguments.get("data", ()))

    def _consistency(self) -> str:
        """``Session``: reads see this process's writes. A server tells no time for a deletion, though."""
        deleted = self.connection.deletions.get(self.catalog.real_name, float("-inf"))
        return "Strong" if time.monotonic() - deleted < DELETION_SETTLES else "Session"

    def _send(self, batch: list[dict[str, Any]]) -> None:
        """Store a batch, in halves if it is too large for the server."""
        # Milvus Lite's upsert keeps the old row's metadata, and its insert replaces the row.
        method = "insert" if self.connection.is_lite(self.catalog.timeout) else "upsert"
        try:
            self.write(method, data=batch)
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
                self.catalog.mend(err)
        return call()

    def _call(self, method: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        doing, name = f"{method} in collection {self.name!r}", self.catalog.real_name
        timeout = self.catalog.timeout if seconds is None else seconds
        return self.connection.call(method, name, doing=doing, timeout=timeout, **arguments)
