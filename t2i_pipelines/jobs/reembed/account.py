"""One outcome for each row of the old collection, however often it is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.images.packed import find
from t2i_pipelines.jobs.sync.inventory import Inventory
from t2i_pipelines.pipelines.report import STATUSES, InsertReport
from t2i_pipelines.types import Outcome

OPEN = 0
"""The state of a row without outcome yet; others are one more than the outcome's place in ``STATUSES``."""

FAILED = STATUSES.index("failed") + 1


class Account:
    """What became of each row, at 41 bytes a row, twice that while the collection is looked at again.

    :param report: takes the outcomes; that of a row which is done again takes the place of the one before.
    :ivar rows: of the old collection when it was last looked at.
    :ivar todo: (N,) of these, those that are new or changed since the time before.
    """

    def __init__(self, report: InsertReport, progress: Callable[[Outcome], object] | None) -> None:
        self.rows = Inventory([])
        self.todo: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._report, self._progress = report, progress
        self._lock = threading.Lock()

    def look(self, rows: Inventory) -> list[str]:
        """Take a new look; gives the ids that are gone since the last one."""
        before, self.rows = self.rows, rows
        places = find(before.keys, rows.keys)
        known = places >= 0
        rows.states[known] = before.states[places[known]]
        same = known.copy()
        same[known] = (before.stamps[places[known]] == rows.stamps[known]) & (
            before.contents[places[known]] == rows.contents[known]
        )
        self.todo = ~same | (rows.states == OPEN)
        gone = find(rows.keys, before.keys) < 0
        self._gone = {before.ids.unpack(key): int(state) for key, state in _pairs(before, gone)}
        return list(self._gone)

    def ids_to_do(self, many: int) -> Iterator[list[str]]:
        """The ids of these rows, ``many`` at a time."""
        places = np.flatnonzero(self.todo)
        for start in range(0, len(places), many):
            yield [self.rows.ids.unpack(key) for key in self.rows.keys[places[start : start + many]]]

    def is_to_do(self, ids: Sequence[str]) -> list[bool]:
        """For each id whether it is one of them; what came after the last look is not."""
        return [place >= 0 and bool(self.todo[place]) for place in self.rows.places(ids)]

    def tell(self, outcome: Outcome) -> None:
        """Take the outcome of a row. Thread-safe."""
        with self._lock:
            place = int(self.rows.places([outcome.id])[0])
            state = self._gone.pop(outcome.id, OPEN) if place < 0 else int(self.rows.states[place])
            if state != OPEN:
                self._take_back(outcome.id, state)
            if place >= 0:
                self.rows.states[place] = STATUSES.index(outcome.status) + 1
            self._report.add(outcome)
        if self._progress is not None:
            self._progress(outcome)

    def missing(self, stored: Inventory) -> tuple[int, int]:
        """How many rows the new collection lacks: those that failed, and others."""
        absent = find(stored.keys, self.rows.keys) < 0
        failed = int(np.count_nonzero(absent & (self.rows.states == FAILED)))
        return failed, int(np.count_nonzero(absent)) - failed

    def _take_back(self, id: str, state: int) -> None:
        report = self._report
        report.counts[STATUSES[state - 1]] -= 1
        report.rows[:] = [one for one in report.rows if one.id != id]
        if state == FAILED:
            report.failed[:] = [one for one in report.failed if one.id != id]


def _pairs(rows: Inventory, chosen: NDArray[np.bool_]) -> Iterator[tuple[bytes, int]]:
    return zip(rows.keys[chosen], rows.states[chosen], strict=True)
