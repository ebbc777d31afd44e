"""Plan a sync: which files are new, changed, moved or gone, and which have the same content.

The inventory of the collection is kept in memory, records that wait for their turn in a temporary file.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import digest, read
from t2i_pipelines.images.address import is_http, split_member
from t2i_pipelines.images.packed import Ids, Packed, PackedDict, find, packed, whole
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.types import KEPT, Batch, Record, content_of

STAMP_FIELDS = ("size", "mtime", "digest")
"""What a scan of the collection must bring beside ``id``."""

GONE, UNCHANGED, PENDING, FAILED = range(4)
"""What the source says of a row: nothing, the same, something else, that it cannot be read."""


class Inventory:
    """The rows of a collection at 41 bytes each, 49 where files are new, and twice that while it is made.

    :ivar ids: packs and unpacks ids; an id of the source's own costs about 200 bytes more.
    :ivar keys: (N,) packed ids, sorted.
    :ivar stamps: (N,) uint64, see :func:`stamp`.
    :ivar contents: (N,) digests of the files' bytes; empty where the row has none.
    :ivar states: (N,) uint8, what the source says of each row; ``GONE`` at first.
    """

    def __init__(self, pages: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        self.ids = Ids()
        keys, contents, stamps = [packed([])], [packed([])], [np.empty(0, np.uint64)]
        for page in pages:
            keys.append(packed([self.ids.pack(row["id"], remember=True) for row in page]))
            contents.append(packed([content_key(row["digest"]) for row in page]))
            stamps.append(np.array([stamp(*(row[name] for name in STAMP_FIELDS)) for row in page], np.uint64))
        self.keys: Packed = _joined(keys)
        order = np.argsort(self.keys)
        self.keys = self.keys[order]
        self.contents: Packed = _joined(contents)[order]
        self.stamps: NDArray[np.uint64] = _joined(stamps)[order]
        self.states = np.full(len(order), GONE, np.uint8)

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """For each id its row, -1 where it is not stored."""
        return find(self.keys, packed([self.ids.pack(id) for id in ids]))

    def gone(self) -> int:
        """Return how many rows the source does not name."""
        return int(np.count_nonzero(self.states == GONE))

    def gone_ids(self, many: int) -> Iterator[list[str]]:
        """Yield the ids of these rows, ``many`` at a time."""
        places = np.flatnonzero(self.states == GONE)
        for start in range(0, len(places), many):
            yield [self.ids.unpack(key) for key in self.keys[places[start : start + many]]]

    def moved(self, contents: Packed) -> int:
        """How many of these rows have one of these contents, and so are in the source under other names."""
        return int(np.count_nonzero(np.isin(self.contents[self.states == GONE], contents)))


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Join arrays into one and release them."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


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
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


IN_MEMORY = 16 << 20
"""Bytes; beyond that a temporary file is written, which has no name and goes with the process."""


class Spill:
    """Records in, and the same out again as often as one likes; each time new objects."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by close
        self._kept: list[Sequence[Record] | None] = []
        self._count = 0

    def close(self) -> None:
        """Release memory and file."""
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def add(self, records: Sequence[Record]) -> None:
        """Put some aside. What cannot be pickled, such as odd metadata, stays in memory."""
        try:
            written = pickle.dumps(list(records), pickle.HIGHEST_PROTOCOL)
        except Exception:  # a class may raise what it likes
            self._kept.append(records)
        else:
            self._kept.append(None)
            self._file.write(written)
        self._count += len(records)

    def __iter__(self) -> Iterator[Record]:
        self._file.seek(0)
        for kept in self._kept:
            yield from map(copy.copy, kept) if kept is not None else pickle.load(self._file)


_AT_ONCE = 1000


class Plan:
    """Reads the source once, against the inventory, and puts aside what needs work.

    A new or changed record waits on disk, beyond some megabytes, at 16 bytes of memory each. With it
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
            places = self._inventory.places([record.id for record in some])
            for record, place in zip(some, map(int, places), strict=True):
                self._judge(record, place)
                self._lighten(record, place)
            waiting = some.unfinished
            if waiting:
                self.waiting.add(waiting)
            yield from (record for record in some if record.status is not None)

    def _judge(self, record: Record, place: int) -> None:
        """Compare a record with its row, and note in the inventory that the source names it."""
        states = self._inventory.states
        if place < 0:
            return
        if record.status is not None:
            states[place] = states[place] or FAILED
            record.reason += KEPT if record.status == "failed" else ""
        elif self._is_same(record, place):
            states[place], record.status = UNCHANGED, "unchanged"
        else:
            states[place] = PENDING

    def _is_same(self, record: Record, place: int) -> bool:
        """Return whether nothing needs to be read; bytes that came with the record are compared as well."""
        if self._refresh or _stamp(record) != self._inventory.stamps[place]:
            return False
        if record.content is None:
            return True
        return content_key(digest(record.content)) == whole(self._inventory.contents[place])

    def _lighten(self, record: Record, place: int) -> None:
        """Release bytes that are not needed while the record waits.

        Where they alone tell that an image has changed, they are needed to tell so again.
        """
        if record.content is not None:
            told = place < 0 or self._refresh or _stamp(record) != self._inventory.stamps[place]
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
    to read their vectors. What this run stores is remembered at 32 bytes an image.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        # of the rows with one content, those that will change come last
        self._by_content = np.lexsort((inventory.states == PENDING, inventory.contents))
        self._stored = PackedDict()
        self._under_way: dict[str, Record] = {}
        self._lock = threading.Lock()

    def claim(self, content: str, record: Record) -> Record | None:
        """Return an image with this content; None if ``record`` is the first, which others may then get.

        :param content: 32 hex digits.
        """
        with self._lock:
            key = self._find(bytes.fromhex(content))
            if key is not None:
                return Record("", self._inventory.ids.unpack(key))
            first = self._under_way.setdefault(content, record)
            return None if first is record else first

    def settle(self, record: Record) -> None:
        """Take note that ``record`` has ended: it is stored, or the next with its content is the first."""
        with self._lock:
            content = content_key(record.digest)
            if self._under_way.get(content.hex()) is record:
                del self._under_way[content.hex()]
                if record.status != "failed":
                    self._stored[content] = self._inventory.ids.pack(record.id, remember=True)

    def _find(self, content: bytes) -> bytes | None:
        """Return the packed id of a stored row that stays as it is until the run is about to end."""
        if (key := self._stored.get(content)) is not None:
            return key
        place = int(find(self._inventory.contents, packed([content]), self._by_content)[0])
        if place < 0 or self._inventory.states[place] == PENDING:
            return None
        return bytes(self._inventory.keys[place])


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
