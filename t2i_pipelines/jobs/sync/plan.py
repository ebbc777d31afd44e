"""Plan a sync: which files are new, changed, moved or gone, and which have the same content.

The rows of the collection and the records that wait for their turn are kept on disk beyond some megabytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from t2i_pipelines.collection.rows import chunks
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import digest, read
from t2i_pipelines.images.address import is_http, split_member
from t2i_pipelines.images.scratch import Scratch, Spill
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.types import KEPT, Batch, Record, content_of

STAMP_FIELDS = ("size", "mtime", "digest")
"""What a scan of the collection must bring beside ``id``."""

GONE, UNCHANGED, PENDING, FAILED = range(4)
"""What the source says of a row: nothing, the same, something else, that it cannot be read."""


class Inventory(Scratch):
    """The rows of a collection: stamp (see :func:`stamp`), content and state of each id. Thread-safe.

    Sorted arrays of NumPy took 49 bytes of memory a row; with them, a sync of 100,000 unchanged files
    (``python -m benchmarks.sync``) took a tenth less processor time.

    :param pages: rows with ``id`` and :data:`STAMP_FIELDS`.
    """

    def __init__(self, pages: Iterable[list[Any]]) -> None:
        super().__init__(
            "CREATE TABLE rows (id TEXT PRIMARY KEY, stamp INTEGER, content BLOB, state INTEGER DEFAULT 0)"
            " WITHOUT ROWID; CREATE TABLE found (content BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID"
        )
        for page in pages:
            self.each("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, 0)", map(described, page))

    def __len__(self) -> int:
        return self.count("TRUE")

    def count(self, where: str) -> int:
        """Return how many rows meet a condition."""
        return int(self.ask(f"SELECT count(*) FROM rows WHERE {where}")[0][0])

    def ids(self, where: str, many: int) -> Iterator[list[str]]:
        """Yield the ids of the rows that meet a condition, in order, ``many`` at a time."""
        last = ""
        page = f"SELECT id FROM rows WHERE {where} AND id > ? ORDER BY id LIMIT ?"
        while some := [id for (id,) in self.ask(page, last, many)]:
            yield some
            last = some[-1]

    def of(self, ids: Sequence[str], where: str = "TRUE") -> dict[str, tuple[int, bytes, int]]:
        """Id -> stamp, content and state, of those that are stored and meet a condition."""
        asked = f"SELECT id, stamp, content, state FROM rows WHERE {where} AND id IN"
        found: dict[str, Any] = {}
        for some in chunks(ids):
            marks = ", ".join("?" * len(some))
            found |= {id: tuple(row) for id, *row in self.ask(f"{asked} ({marks})", *some)}
        return found

    def mark(self, states: Iterable[tuple[int, str]]) -> None:
        """Note the state of some rows: state and id of each."""
        self.each("UPDATE rows SET state = ? WHERE id = ?", states)

    def gone(self) -> int:
        """Return how many rows the source does not name."""
        return self.count(f"state = {GONE}")

    def gone_ids(self, many: int) -> Iterator[list[str]]:
        """Yield the ids of these rows, ``many`` at a time."""
        return self.ids(f"state = {GONE}", many)

    def keep_all(self) -> None:
        """Mark these rows as what the source names and cannot read."""
        self.ask(f"UPDATE rows SET state = {FAILED} WHERE state = {GONE}")

    def moved(self, contents: Iterable[bytes]) -> int:
        """How many of these rows have one of these contents, and so are in the source under other names."""
        self.ask("DELETE FROM found")
        self.each("INSERT OR IGNORE INTO found VALUES (?, NULL)", ((one,) for one in contents))
        return self.count(f"state = {GONE} AND content IN (SELECT content FROM found)")


def described(row: Mapping[str, Any]) -> tuple[str, int, bytes]:
    """Id, stamp and content of a row."""
    return row["id"], stamp(*(row[name] for name in STAMP_FIELDS)), content_key(row["digest"])


def content_key(digest: str) -> bytes:
    """The content's part of a row's digest as 16 bytes, none where the row was not made from a file."""
    try:
        return bytes.fromhex(content_of(digest))
    except ValueError:
        return b""


def stamp(size: int, mtime: int, digest: str) -> int:
    """64 bits of size, time of change and metadata: what a file is known by without being opened.

    :param digest: ``content:metadata``; only the metadata's part counts.
    """
    text = f"{size} {mtime} {digest.partition(':')[2]}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


_AT_ONCE = 1000


class Plan:
    """Reads the source once, against the inventory, and puts aside what needs work.

    A new or changed record waits in memory, beyond some megabytes on disk. With it
    wait the bytes that came with it, unless they can be read again without reading the whole source.

    :param waiting: takes the records that are new or changed, as the source gave them.
    :param refresh: take every record that is stored for changed.
    """

    def __init__(self, inventory: Inventory, waiting: Spill, refresh: bool = False) -> None:
        self.waiting = waiting
        self._inventory = inventory
        self._refresh = refresh

    def read(self, records: Iterable[Record]) -> Iterator[Record]:
        """Take the source in; give the records that have ended already: unchanged, or failed."""
        records = iter(records)
        while some := Batch.take(records, _AT_ONCE):
            stored = self._inventory.of([record.id for record in some])
            states = []
            for record in some:
                row = stored.get(record.id)
                if row is not None:
                    states.append((self._judge(record, *row), record.id))
                self._lighten(record, row)
            self._inventory.mark(states)
            if waiting := some.unfinished:
                self.waiting.add(waiting)
            yield from (record for record in some if record.status is not None)

    def _judge(self, record: Record, stored: int, content: bytes, state: int) -> int:
        """Compare a record with its row; return what the source says of that."""
        if record.status is not None:
            record.reason += KEPT if record.status == "failed" else ""
            return state or FAILED
        if self._is_same(record, stored, content):
            record.status = "unchanged"
            return UNCHANGED
        return PENDING

    def _is_same(self, record: Record, stored: int, content: bytes) -> bool:
        """Return whether nothing needs to be read; bytes that came with the record are compared as well."""
        if self._refresh or _stamp(record) != stored:
            return False
        return record.content is None or content_key(digest(record.content)) == content

    def _lighten(self, record: Record, row: tuple[int, bytes, int] | None) -> None:
        """Release bytes that are not needed while the record waits.

        Where they alone tell that an image has changed, they are needed to tell so again.
        """
        if record.content is not None:
            told = row is None or self._refresh or _stamp(record) != row[0]
            if record.status is not None or (told and _can_be_read_again(record)):
                record.content = None

    def work(self) -> Iterator[Record]:
        """Return the new and changed records, in the order of the source."""
        return iter(self.waiting)


def _can_be_read_again(record: Record) -> bool:
    """Return whether its tar is neither packed nor on the web, so that one file can be read out of it."""
    if not record.path.startswith("tar://"):
        return False
    _, archive = split_member(record.path)
    return archive.lower().endswith(".tar") and not is_http(archive)


def _stamp(record: Record) -> int:
    return stamp(record.size, record.mtime, record.digest)


class Twins:
    """Finds the first image with some content: stored before, stored by this run, or under way.

    Rows that this run is about to change are not offered: they may hold something else when it is time
    to read their vectors.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        inventory.ask("DELETE FROM found")
        inventory.ask("CREATE INDEX IF NOT EXISTS contents ON rows (content)")
        self._under_way: dict[str, Record] = {}
        self._lock = threading.Lock()

    def claim(self, content: str, record: Record) -> Record | None:
        """Return an image with this content; None if ``record`` is the first, which others may then get.

        :param content: 32 hex digits.
        """
        with self._lock:
            found = self._inventory.ask(
                "SELECT id FROM found WHERE content = ?1 UNION ALL SELECT * FROM"
                f" (SELECT id FROM rows WHERE content = ?1 AND state != {PENDING} LIMIT 1)",
                bytes.fromhex(content),
            )
            if found:
                return Record("", found[0][0])
            first = self._under_way.setdefault(content, record)
            return None if first is record else first

    def settle(self, record: Record) -> None:
        """Take note that ``record`` has ended: it is stored, or the next with its content is the first."""
        with self._lock:
            content = content_key(record.digest)
            if self._under_way.get(content.hex()) is record:
                del self._under_way[content.hex()]
                if record.status != "failed":
                    self._inventory.ask("INSERT OR REPLACE INTO found VALUES (?, ?)", content, record.id)


_PREVIEWED_AT_ONCE = 256
READS = 32
"""Files that are read, or waited for, at the same time."""


def preview(records: Iterable[Record], look_up: SkipUnchanged, twins: Twins) -> Iterator[Record]:
    """Read the files, and end each record as it would end if every file can be decoded and embedded.

    :param look_up: tells what is stored under each id.
    :param twins: of its own; it counts as stored what is only foreseen.
    """
    records = iter(records)
    with ThreadPoolExecutor(READS, "t2i-preview") as pool:
        while batch := Batch.take(records, _PREVIEWED_AT_ONCE):
            pending = look_up(batch).pending
            for record, content in zip(pending, pool.map(_content, pending), strict=True):
                record.twins = twins
                if isinstance(content, str):
                    record.has_twin(content)
                    record.finish()
                    twins.settle(record)
                else:
                    record.fail(content)
            yield from batch


def _content(record: Record) -> str | ImageDecodeError:
    try:
        return digest(read(record))
    except ImageDecodeError as err:
        return err
    finally:
        record.content = None
