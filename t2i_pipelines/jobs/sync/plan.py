"""What has to be done so that a collection equals a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from t2i_pipelines.images import digest
from t2i_pipelines.images.address import is_http, split_member
from t2i_pipelines.images.packed import whole
from t2i_pipelines.jobs.sync.inventory import FAILED, PENDING, UNCHANGED, Inventory, content_key, stamp
from t2i_pipelines.jobs.sync.spill import Spill
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
