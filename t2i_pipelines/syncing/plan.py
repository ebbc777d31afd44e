"""What has to be done so that a collection equals a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from t2i_pipelines.syncing.inventory import FAILED, PENDING, UNCHANGED, Inventory, stamp
from t2i_pipelines.syncing.packed import SIZE, whole
from t2i_pipelines.syncing.spill import Spill
from t2i_pipelines.types import KEPT, Record

_AT_ONCE = 1000


class Plan:
    """Reads the source once, against the inventory, and puts aside what needs work.

    A new or changed record waits on disk, beyond some megabytes, at 16 bytes of memory each.

    :param waiting: takes the records that are new or changed, as the source gave them.
    """

    def __init__(self, inventory: Inventory, waiting: Spill) -> None:
        self.waiting = waiting
        self._inventory = inventory
        self._waiting_ids = bytearray()

    def read(self, records: Iterable[Record]) -> Iterator[Record]:
        """Take the source in; give the records that have ended already: unchanged, or failed."""
        records = iter(records)
        while some := list(islice(records, _AT_ONCE)):
            places = self._inventory.places([record.id for record in some])
            for record, place in zip(some, map(int, places), strict=True):
                self._judge(record, place)
            waiting = [record for record in some if record.status is None]
            if waiting:
                self.waiting.add(waiting)
            self._waiting_ids += b"".join(self._inventory.ids.pack(record.id) for record in waiting)
            yield from (record for record in some if record.status is not None)

    def _judge(self, record: Record, place: int) -> None:
        """Compare a record with its row, and note in the inventory that the source names it."""
        states = self._inventory.states
        if place < 0:
            return
        if record.status is not None:
            states[place] = states[place] or FAILED
            record.reason += KEPT
        elif _stamp(record) == self._inventory.stamps[place] and states[place] != PENDING:
            states[place], record.status = UNCHANGED, "unchanged"
        elif states[place] == UNCHANGED:
            _refuse_double(record)
        else:
            states[place] = PENDING

    def work(self) -> Iterator[Record]:
        """The new and changed records, in the order of the source, each id once."""
        keys, counts = np.unique(np.frombuffer(self._waiting_ids, f"S{SIZE}"), return_counts=True)
        double = set(map(whole, keys[counts > 1]))
        first: dict[bytes, int] = {}
        for record in self.waiting:
            key = self._inventory.ids.pack(record.id)
            if key in double:
                mark = _stamp(record)
                if key in first and first[key] == mark:
                    record.status = "unchanged"
                elif key in first:
                    _refuse_double(record)
                first.setdefault(key, mark)
            yield record


def _stamp(record: Record) -> int:
    return stamp(record.size, record.mtime, record.digest)


def _refuse_double(record: Record) -> None:
    record.fail(
        f"id {record.id!r} of {record.path} is already that of another row of the source; ids must be unique"
    )
