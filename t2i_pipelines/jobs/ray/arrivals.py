"""Every input's outcome is counted, and counted once, although Ray may do a piece of work twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from t2i_pipelines.errors import ClusterError
from t2i_pipelines.jobs.ray.shipment import Shipment
from t2i_pipelines.operators.outcomes import Outcomes
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.stages import Stopwatch
from t2i_pipelines.types import Outcome


@dataclass
class _Arrived:
    """What has come of one part.

    :ivar upto: records, from its first on, without a gap.
    :ivar beyond: start -> length of what came out of turn.
    :ivar total: how many records it has, once known.
    """

    upto: int = 0
    beyond: dict[int, int] = field(default_factory=dict)
    total: int | None = None

    def take(self, start: int, length: int) -> bool:
        """Take note of some records; False if they have come before."""
        if start < self.upto or start in self.beyond:
            return False
        self.beyond[start] = length
        while self.upto in self.beyond:
            self.upto += self.beyond.pop(self.upto)
        return True


class Arrivals:
    """Puts what comes in, in any order, into a report.

    Memory: of a part that is complete only its length is kept.

    :param report: to be filled.
    :param clock: of the run.
    :param tell: called with each outcome that has not come before.
    """

    def __init__(self, report: InsertReport, clock: Stopwatch, tell: Callable[[Outcome], object]) -> None:
        self._report, self._clock, self._tell = report, clock, tell
        self._parts: dict[int, _Arrived] = {}
        self._to_sort = [_Sorted(report.failed), _Sorted(report.rows)]
        self._outcomes = Outcomes()
        self.changed = False

    def take(self, shipment: Shipment) -> None:
        """Count the outcomes of a batch, unless they have been counted.

        :raises T2IError: The one that the shipment carries.
        """
        if shipment.error is not None:
            raise shipment.error
        self._clock.add(shipment.stages)
        part = self._parts.setdefault(shipment.part, _Arrived())
        if shipment.total is not None:
            if part.total is None:
                for (kind, reason), count in shipment.skipped:
                    self._clock.skipped.add(kind, reason, count)
            part.total = shipment.total
            return
        if not part.take(shipment.start, len(shipment.batch)):
            return
        shipment.batch.clock = self._clock
        for number, outcome in enumerate(self._outcomes(shipment.batch), shipment.start):
            self.changed |= outcome.status not in ("unchanged", "skipped", "failed")
            self._report.add(outcome)
            for kept in self._to_sort:
                kept.note((shipment.part, number))
            self._tell(outcome)

    def check(self, parts: int) -> int:
        """See that nothing is missing of the first ``parts`` parts; give how many records there are.

        :raises ClusterError: If something is.
        """
        found = [self._parts.get(number, _Arrived()) for number in range(parts)]
        total = sum(part.total or 0 for part in found)
        whole = [part.total == part.upto and not part.beyond for part in found]
        if not all(whole):
            came = sum(part.upto + sum(part.beyond.values()) for part in found)
            raise ClusterError(
                f"Ray gave {came:,} outcomes for {total:,} inputs, so some are not accounted for; "
                "what was stored is safe: run it again"
            )
        return total

    def sort(self) -> None:
        """Put what the report keeps into the order of the source."""
        for kept in self._to_sort:
            kept.sort()


class _Sorted:
    """The end of a list that grows, to be sorted by the place of each."""

    def __init__(self, grows: list[Any]) -> None:
        self._grows = grows
        self._first = len(grows)
        self._places: list[tuple[int, int]] = []

    def note(self, place: tuple[int, int]) -> None:
        """The place of what was added, if anything was."""
        if len(self._grows) > self._first + len(self._places):
            self._places.append(place)

    def sort(self) -> None:
        """By place."""
        added = self._grows[self._first :]
        pairs = sorted(zip(self._places, added, strict=True), key=lambda pair: pair[0])
        self._grows[self._first :] = [one for _, one in pairs]
