"""What became of a run's inputs: how many ended how, which failed and where, and those once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from t2i_pipelines._towhee.door import DataQueue
from t2i_pipelines._towhee.result import register_summary
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.images.source import path_key
from t2i_pipelines.pipelines.build import OUTCOME_COLUMNS, build_insert_pipeline, shows_settings
from t2i_pipelines.types import Outcome, Reason, Skipped, Stopwatch, budget, in_order

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("inserted", "updated", "reused", "unchanged", "deleted", "skipped", "failed")
SHOWN = 10


class InsertReport:
    """Counts the outcomes of a run, and keeps the failures.

    Memory grows with the failures only, all of which are kept; with ``keep_rows`` with all rows.

    :param keep_rows: keep every row, also of what went well.
    :ivar counts: how many inputs ended with each status; ``deleted`` counts rows that had no input.
    :ivar failed: the failures as :class:`~t2i_pipelines.types.Outcome`, in the order of the source. The
        ``reason`` of each is a text with a ``stage``: ``read``, ``decode``, ``encode`` or ``insert``.
    :ivar rows: every outcome, with ``keep_rows``; else empty.
    :ivar dry_run: nothing was changed: the outcomes are what :func:`~t2i_pipelines.sync` would do.
    :ivar clocks: of what ran; ``seconds``, ``stages`` and ``budget`` sum them up.
    :ivar note: what ``sync`` left undone, or of a dry run would refuse to do, and why; mostly empty.
    """

    def __init__(self, keep_rows: bool = False) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
        self.failed: list[Outcome] = []
        self.rows: list[Outcome] = []
        self.dry_run = False
        self.note = ""
        self.clocks: list[Stopwatch] = []
        self._keep_rows = keep_rows

    @classmethod
    def collect(cls, rows: DataQueue | Iterable[Sequence[Any]], keep_rows: bool = False) -> InsertReport:
        """Report on what an insert pipeline returned: ``InsertReport.collect(insert("photos"))``.

        :param rows: rows ``(path, id, status, reason)``; a queue of Towhee's is emptied.
        """
        report = cls(keep_rows)
        for row in _emptied(rows) if isinstance(rows, DataQueue) else rows:
            report.add(Outcome(*row))
        return report

    def add(self, outcome: Outcome) -> None:
        """Take one outcome, and the clock that came with it."""
        clock = outcome.clock
        if clock is not None and clock not in self.clocks:
            self.clocks.append(clock)
        self.counts[outcome.status] += 1
        if outcome.status == "failed":
            self.failed.append(outcome)
        if self._keep_rows:
            self.rows.append(outcome)

    @property
    def total(self) -> int:
        """How many inputs the run had."""
        return self.counts.total() - self.counts["deleted"]

    @property
    def skipped(self) -> Skipped:
        """Files and folders that the source left out, with the reason of each kind."""
        found = Skipped()
        for clock in self.clocks:
            found.update(clock.skipped)
        return found

    @property
    def seconds(self) -> float:
        """Wall seconds of the run; 0 where nothing was timed."""
        if not self.clocks:
            return 0.0
        return max(one.ended for one in self.clocks) - min(one.began for one in self.clocks)

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> wall seconds for which it was busy; stages work at the same time."""
        busy: dict[str, float] = {}
        for clock in self.clocks:
            for stage, seconds in clock.stages.items():
                busy[stage] = busy.get(stage, 0.0) + seconds
        return in_order(busy)

    def budget(self) -> str:
        """Return one line, see :func:`t2i_pipelines.types.budget`; empty where nothing was timed."""
        hints = {stage: hint for clock in self.clocks for stage, hint in clock.hints.items()}
        return budget(self.total, self.seconds, self.stages, hints) if self.clocks else ""

    def summary(self) -> str:
        """Return one line: how many inputs, and how many of each status that came up."""
        always = ("inserted", "unchanged", "failed")
        counts = self.counts.copy()  # one moment's: the run may go on while it is summed up
        parts = [
            f"{count:,} {status}" for status in STATUSES if (count := counts[status]) or status in always
        ]
        would = "; nothing was changed, this is what would be" if self.dry_run else ""
        total = counts.total() - counts["deleted"]
        return f"{total:,} {'image' if total == 1 else 'images'}: {', '.join(parts)}{would}"

    def __str__(self) -> str:
        """The summary, the first ten failures, and where the time went."""
        lines = [self.summary(), *(f"  {one}" for one in (self.note, self.skipped.summary()) if one)]
        lines += [f"  {_stage(one)}: {one.reason}" for one in self.failed[:SHOWN]]
        if (more := len(self.failed) - SHOWN) > 0:
            lines.append(f"  ... and {more:,} more")
        lines += [self.budget()] if self.clocks else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<InsertReport: {self.summary()}>"

    def as_dict(self) -> dict[str, Any]:
        """Return all but the rows, of JSON's types.

        ``dry_run``, ``note``, ``counts``, times, and each failure.
        """
        failed = [
            {"path": one.path, "id": one.id, "stage": _stage(one), "reason": str(one.reason)}
            for one in self.failed
        ]
        return {
            "dry_run": self.dry_run,
            "note": self.note,
            "counts": dict(self.counts),
            "skipped": self.skipped.as_list(),
            "seconds": self.seconds,
            "stages": self.stages,
            "failed": failed,
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return the failures, with ``keep_rows`` every row; the counts are in ``.attrs["counts"]``.

        :return: columns path, id, status, stage, reason, all text; stage is empty unless the row failed.
        """
        import pandas as pd

        kept = self.rows if self._keep_rows else self.failed
        table = [(one.path, one.id, one.status, _stage(one), str(one.reason)) for one in kept]
        frame = pd.DataFrame(table, columns=["path", "id", "status", "stage", "reason"])
        frame.attrs["counts"] = dict(self.counts)
        return frame


register_summary(OUTCOME_COLUMNS, InsertReport.collect)


@shows_settings
def retry(failed: Iterable[Outcome], **settings: Unpack[SettingsArgs]) -> InsertReport:
    """Insert again what failed: ``retry(report.failed, uri="milvus.db")``. Nothing is deleted.

    Each is inserted under the id and with the metadata that it had.

    :param settings: as for :func:`~t2i_pipelines.build_insert_pipeline`; those of the run that failed.
    """
    rows = [_row(outcome) for outcome in failed]
    return InsertReport.collect(build_insert_pipeline(**settings)(rows)) if rows else InsertReport()


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"path": outcome.path}
    if outcome.id and outcome.id != path_key(outcome.path):
        row["id"] = outcome.id
    return {**getattr(outcome.reason, "metadata", {}), **row}


def _stage(outcome: Outcome) -> str:
    if outcome.status == "failed" and isinstance(outcome.reason, Reason):
        return outcome.reason.stage
    return ""


def _emptied(queue: DataQueue) -> Iterator[list[Any]]:
    while (row := queue.get()) is not None:
        yield row
