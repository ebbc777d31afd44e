"""Write new rows into files and import them into a Milvus server; replace known rows one by one."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.connection import channel_options, parse_uri
from t2i_pipelines.collection.failures import quiet, translate
from t2i_pipelines.collection.rows import Ledger, check_rows
from t2i_pipelines.errors import ConfigError, CopyError, MissingExtraError
from t2i_pipelines.jobs.backup.folder import Folder
from t2i_pipelines.operators.milvus import MilvusInsert
from t2i_pipelines.types import Outcome, Reason, Record, Space

REST = (2, 4)
"""The first Milvus that imports by its REST interface; from 2.5 on, it is the only way."""


class State(NamedTuple):
    """Of one import.

    :ivar reason: why it failed; empty if it did not.
    """

    done: bool
    reason: str = ""


class Importer(Protocol):
    """Tells a server what to do. Every method raises :class:`~t2i_pipelines.errors.StoreError`."""

    def schema(self) -> Any:
        """Return the collection's ``CollectionSchema``."""

    def start(self, path: str) -> str:
        """Begin to import a file, as the server names it; gives a name for the import."""

    def state(self, job: str) -> State:
        """Return how far it is."""

    def running(self) -> list[str]:
        """Imports into the collection that have not ended."""

    def show(self) -> None:
        """Let the rows of imports that are done be found."""


def importer_of(collection: Collection, place: Mapping[str, Any]) -> Importer:
    """Return the importer of the server that a collection is on.

    :raises ConfigError: If it is Milvus Lite, which has none.
    :raises MissingExtraError: If Milvus's bulk writer is not installed.
    """
    if parse_uri(place["uri"]).path is not None or collection.is_lite:
        raise ConfigError(
            f"Milvus Lite at {parse_uri(place['uri'])} has no importer; leave --bulk out, or give the uri of "
            f"a Milvus server"
        )
    try:
        import pymilvus.bulk_writer  # noqa: F401 - what it needs is not part of pymilvus
    except ImportError as err:
        raise MissingExtraError(
            f"{err.name} is not installed, which Milvus's bulk writer needs; run: pip install "
            f"'t2i-pipelines[bulk]'"
        ) from err
    return (RestImporter if collection.version >= REST else RpcImporter)(place)


class _Server:
    """What both ways share."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        from pymilvus import MilvusClient

        self._address, self._timeout = parse_uri(place["uri"]), place["timeout"]
        self._token, self._name = place["token"], place["collection_name"]
        with self._asking("connecting"):
            self._client = MilvusClient(
                uri=self._address.uri,
                token=self._token,
                timeout=self._timeout,
                dedicated=True,
                grpc_options=channel_options(self._address),
            )

    def schema(self) -> Any:
        """Return the collection's ``CollectionSchema``."""
        from pymilvus import CollectionSchema

        with self._asking("looking at the collection"):
            told = self._client.describe_collection(self._name, timeout=self._timeout)
            return CollectionSchema.construct_from_dict(told)

    def show(self) -> None:
        """Let the rows of imports that are done be found."""
        with self._asking("loading what was imported"):
            self._client.refresh_load(self._name, timeout=max(self._timeout, 300.0))

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        with quiet():
            try:
                yield
            except Exception as err:
                what = f"{doing} for collection {self._name!r}"
                raise translate(err, doing=what, where=str(self._address), timeout=self._timeout) from err


class RpcImporter(_Server):
    """Milvus before 2.4. ``MilvusClient`` has no method for it, its connection has."""

    def start(self, path: str) -> str:
        """Begin to import a file."""
        return str(self._ask("beginning an import", "do_bulk_insert", self._name, "", [path]))

    def state(self, job: str) -> State:
        """Return how far it is."""
        return _state(self._ask("asking for an import", "get_bulk_insert_state", int(job)))

    def running(self) -> list[str]:
        """Imports into the collection that have not ended."""
        tasks = self._ask("asking for imports", "list_bulk_insert_tasks", 100, self._name)
        return [str(one.task_id) for one in tasks if not _state(one).done]

    def _ask(self, doing: str, method: str, *arguments: Any) -> Any:
        with self._asking(doing):
            return getattr(self._client._get_connection(), method)(*arguments, timeout=self._timeout)


def _state(told: Any) -> State:
    failed = told.state_name.startswith("Failed")
    reason = told.failed_reason or "it does not say why"
    return State(failed or told.state_name == "Completed", reason if failed else "")


class RestImporter(_Server):
    """Milvus 2.4 and later."""

    def start(self, path: str) -> str:
        """Begin to import a file."""
        from pymilvus.bulk_writer import bulk_import

        told = self._ask("beginning an import", bulk_import, collection_name=self._name, files=[[path]])
        return str(told["jobId"])

    def state(self, job: str) -> State:
        """Return how far it is."""
        from pymilvus.bulk_writer import get_import_progress

        told = self._ask("asking for an import", get_import_progress, job_id=job)
        failed = told["state"] == "Failed"
        return State(
            failed or told["state"] == "Completed",
            (told.get("reason") or "it does not say why") if failed else "",
        )

    def running(self) -> list[str]:
        """Imports into the collection that have not ended."""
        from pymilvus.bulk_writer import list_import_jobs

        told = self._ask("asking for imports", list_import_jobs, collection_name=self._name, page_size=100)
        ended = ("Completed", "Failed")
        return [str(one["jobId"]) for one in told.get("records", []) if one["state"] not in ended]

    def _ask(self, doing: str, ask: Callable[..., Any], **arguments: Any) -> Any:
        parts = urlsplit(self._address.uri)
        where: dict[str, Any] = {
            "url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            "api_key": self._token,
            "db_name": parts.path.strip("/"),
        }
        if self._address.is_here:  # `requests` would ask the proxy of http_proxy and its like
            where["proxies"] = dict.fromkeys(("http", "https", "all"))
        with self._asking(doing):
            return ask(**where, **arguments, timeout=self._timeout).json()["data"]


FILE_ROWS = 50_000
A_LOOK = 1.0
"""Seconds between two looks at an import."""

PATIENCE = 3600.0
"""Seconds in which at least one import must end; and 1/20 of it until its rows are found."""

Row = dict[str, Any]
Tell = Callable[[Outcome], None]


@dataclass
class _File:
    """A file that the server is importing."""

    job: str
    local: Path
    name: str
    rows: int
    since: float


class Shipment:
    """In place of a collection for those who insert: new rows go into files, stored ones are replaced.

    :param here: an empty local folder. Files are deleted as soon as their rows are found, here and there.
    :param there: the folder that the server reads.
    :param tell: called with the outcome of each row of a file, once.
    """

    def __init__(
        self, collection: Collection, importer: Importer, here: Path, there: Folder, tell: Tell
    ) -> None:
        self._collection, self._importer, self._tell = collection, importer, tell
        self._here, self._there = here, there
        self._space: Space | None = None
        self._writer: Any = None
        self._written = 0
        self._under_way: list[_File] = []
        self._number = 0
        self._last_end = 0.0

    def prepare(self, space: Space) -> None:
        """Make the collection, unless it is there."""
        self._collection.prepare(space)
        self._space = space

    def looked_up(self) -> AbstractContextManager[None]:
        """Look the collection up once for all calls of this thread within the block."""
        return self._collection.looked_up()

    def rows(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """These fields of those ids that are stored."""
        return self._collection.rows(ids, fields)

    def finish(self) -> None:
        """Flush the replaced rows."""
        self._collection.finish()

    def upsert(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Take rows; gives the ids of those that went into a file.

        :raises VectorError: If a vector does not fit. Then no row was taken.
        :raises ConfigError: If another field is wrong. Then no row was taken.
        :raises CopyError: If a file cannot be written.
        """
        if self._space is None or not rows:
            return []
        checked = check_rows(rows, self._space.dim)
        stored = self._collection.ledger([row["id"] for row in checked])
        self._collection.upsert([row for row in checked if row["id"] in stored])
        new = [row for row in checked if row["id"] not in stored]
        for row in new:
            self._append(row)
        return [row["id"] for row in new]

    def end(self) -> None:
        """Send the remaining rows, and wait until all are imported.

        :raises StoreError: If the server does not answer.
        """
        self._send()
        while self._under_way:
            self._look()
            if self._under_way:
                time.sleep(A_LOOK)

    def _append(self, row: Row) -> None:
        if self._writer is None:
            self._writer = _writer(self._importer.schema(), self._here)
        self._writer.append_row(dict(row))
        self._written += 1
        if self._written >= FILE_ROWS:
            self._send()

    def _send(self) -> None:
        """Close the file, bring it where the server reads, and have it imported."""
        if not self._written:
            return
        before = len(self._writer.batch_files)
        self._writer.commit()
        if len(self._writer.batch_files) == before:  # it only logs what went wrong
            raise CopyError(
                f"Milvus's bulk writer could not write {self._written:,} rows to {self._here}; make room "
                f"there, or set TMPDIR to another folder"
            )
        (local,) = map(Path, self._writer.batch_files[-1])
        self._number += 1
        name = f"{self._number}.parquet"
        with local.open("rb") as file, self._there.writing(name) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
        job = self._importer.start(_as_the_server_says(self._there, name))
        self._under_way.append(_File(job, local, name, self._written, time.monotonic()))
        self._written = 0
        self._look()

    def _look(self) -> None:
        """Tell of the files whose import has ended."""
        for file in list(self._under_way):
            state = self._importer.state(file.job)
            if not state.done and time.monotonic() - max(file.since, self._last_end) < PATIENCE:
                continue
            self._under_way.remove(file)
            self._last_end = time.monotonic()
            where = self._there.where(file.name)
            if not state.done:
                why = f"import {file.job} of {where} has not ended in {PATIENCE:g} s; see the server's log"
                self._end(file, {}, why)
            elif state.reason:
                why = f"the server could not import {where}: {state.reason}; can it read that file?"
                self._end(file, {}, why)
            else:
                found = self._found(file)
                self._end(file, found, f"{where} was imported, but this row of it is not found")
                if len(found) == file.rows:
                    self._there.remove(file.name)

    def _found(self, file: _File) -> dict[str, Ledger]:
        """Return the rows of a file that a search would find, after a while."""
        ids = [id for id, _ in _inputs(file.local)]
        end = time.monotonic() + PATIENCE / 20
        while True:
            self._importer.show()
            found = self._collection.ledger(ids)
            if len(found) == len(ids) or time.monotonic() > end:
                return found
            time.sleep(A_LOOK)

    def _end(self, file: _File, found: Mapping[str, Ledger], why: str) -> None:
        for id, path in _inputs(file.local):
            if id in found:
                self._tell(Outcome(path, id, "inserted", ""))
            else:
                reason = Reason(f"cannot insert {path}: {why}", "insert")
                self._tell(Outcome(path, id, "failed", reason))
        file.local.unlink()


def _as_the_server_says(folder: Folder, name: str) -> str:
    """Return a file of a local folder by its path, one of an object store by what follows the bucket."""
    path = folder.path(name)
    return path if folder.is_local else path.lstrip("/").partition("/")[2]


def _writer(schema: Any, folder: Path) -> Any:
    from pymilvus.bulk_writer import BulkFileType, LocalBulkWriter

    logging.getLogger("pymilvus.bulk_writer").setLevel(logging.WARNING)  # it tells of every step
    # files are closed by us: by itself, it does not say when it could not
    return LocalBulkWriter(schema, str(folder), chunk_size=1 << 62, file_type=BulkFileType.PARQUET)


def _inputs(file: Path) -> Iterator[tuple[str, str]]:
    """Id and path of every row."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(columns=["id", "path"]):
            yield from zip(batch.column("id").to_pylist(), batch.column("path").to_pylist(), strict=True)


class BulkInsert(MilvusInsert):
    """Hands batches to a shipment, and remembers the ids that are on their way: an import replaces none.

    :ivar waiting: ids of the rows in files.
    """

    def __init__(self, shipment: Shipment, **settings: Any) -> None:
        super().__init__(**settings)
        self.waiting: set[str] = set()
        self._shipment = shipment
        self._turn = threading.Lock()

    @property
    def collection(self) -> Any:
        """The shipment, in place of a collection."""
        return _Noting(self._shipment, self.waiting)

    def answering(self, *, beside: bool = True) -> Any:
        """As ``collection``: the shipment has looked up whether the name is of this model."""
        return self.collection

    def fill(self, records: list[Record]) -> None:
        """Take the records of a batch."""
        with self._turn:
            super().fill(records)


class _Noting:
    """A shipment, whose ids are noted."""

    def __init__(self, shipment: Shipment, waiting: set[str]) -> None:
        self._waiting = waiting
        self._shipment = shipment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shipment, name)

    def upsert(self, rows: list[dict[str, Any]]) -> None:
        """Take rows."""
        self._waiting.update(self._shipment.upsert(rows))
