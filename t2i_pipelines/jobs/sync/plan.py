"""What has to be done so that a collection equals a source.

Images with the same content, so that each is decoded and embedded once.

What the pipeline would do with records, without decoding, embedding or storing anything.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import digest, read
from t2i_pipelines.images.address import is_http, split_member
from t2i_pipelines.images.packed import PackedDict, find, packed, whole
from t2i_pipelines.jobs.sync.inventory import FAILED, PENDING, UNCHANGED, Inventory, Spill, content_key, stamp
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.types import KEPT, Batch, Record

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
        """Whether nothing needs to be read; bytes that came with the record are compared as well."""
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
    """Whether its tar is neither packed nor on the web, so that one file can be read out of it."""
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
        """An image with this content; None if ``record`` is the first, which others may then get.

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
        """The packed id of a stored row that stays as it is until the run is about to end."""
        if (key := self._stored.get(content)) is not None:
            return key
        place = int(find(self._inventory.contents, packed([content]), self._by_content)[0])
        if place < 0 or self._inventory.states[place] == PENDING:
            return None
        return bytes(self._inventory.keys[place])


_FORESEEN_AT_ONCE = 256
READS = 32
"""Files that are read, or waited for, at the same time."""


def foresee(records: Iterable[Record], look_up: SkipUnchanged, twins: Twins) -> Iterator[Record]:
    """Read the files, and end each record as it would end if every file can be decoded and embedded.

    :param look_up: tells what is stored under each id.
    :param twins: of its own; it counts as stored what is only foreseen.
    """
    records = iter(records)
    with ThreadPoolExecutor(READS, "t2i-foresee") as pool:
        while batch := Batch.take(records, _FORESEEN_AT_ONCE):
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
