"""The account of a run: busy seconds of each stage, and files that the source skipped."""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

STAGES = (
    *("scan", "compare", "foresee", "load", "read", "look up"),
    *("decode", "encode", "insert", "delete"),
)
"""In the order of a run: ``scan`` and ``compare`` the collection with the source, ``foresee`` the outcomes of
a dry run, ``load`` the model, ``read`` source and files, ``look up`` what is stored."""

log = logging.getLogger("t2i_pipelines.ingest")
log.addHandler(logging.NullHandler())


class Skipped:
    """Count the files and folders that a source leaves out, by kind and reason. Thread-safe.

    :ivar counts: (kind, reason) -> how many; the kind is a suffix such as ``.mp4``, a folder such as
        ``@eaDir/``, or a glob that excludes it.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Skipped], tuple[()]]:
        return Skipped, ()

    def add(self, kind: str, reason: str, count: int = 1) -> None:
        """Count files or folders of one kind."""
        with self._lock:
            self.counts[kind, reason] += count

    def update(self, other: Skipped) -> None:
        """Add the counts of another part of the same run."""
        for (kind, reason), count in other.snapshot():
            self.add(kind, reason, count)

    def snapshot(self) -> list[tuple[tuple[str, str], int]]:
        """Return ((kind, reason), count) in the order of first sight."""
        with self._lock:
            return list(self.counts.items())

    @property
    def total(self) -> int:
        """How many files and folders were skipped."""
        return sum(count for _, count in self.snapshot())

    def summary(self) -> str:
        """Return one line, such as ``12 skipped: 7 .cr2 (camera RAW, ...), 5 .mp4 (video)``, or nothing."""
        found = self.snapshot()
        parts = [f"{count:,} {kind} ({reason})" for (kind, reason), count in found]
        return f"{self.total:,} skipped: {', '.join(parts)}" if found else ""

    def as_list(self) -> list[dict[str, Any]]:
        """Return the counts as JSON types."""
        return [{"kind": kind, "reason": reason, "count": count} for (kind, reason), count in self.snapshot()]


class Stopwatch:
    """The busy seconds of each stage of one run. Thread-safe. A copy starts empty.

    :param now: the time in seconds, from any start.
    :ivar counts: how many records ended with each status so far.
    :ivar hints: stage -> the setting, with its value, that would make this stage faster.
    :ivar skipped: files and folders that the source left out.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.counts: Counter[str] = Counter()
        self.hints: dict[str, str] = {}
        self.skipped = Skipped()
        self._now = now
        self.began = self.ended = now()
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._threads: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Stopwatch], tuple[()]]:
        return Stopwatch, ()

    @contextmanager
    def busy(self, stage: str, records: Sequence[Any] = ()) -> Iterator[None]:
        """Count the wall time of the block for a stage. Steps of one run work at the same time.

        :param records: what is worked on; its length is logged.
        """
        began = self._now()
        try:
            yield
        finally:
            self.ended = self._now()
            seconds = self.ended - began
            with self._lock:
                self._busy[stage] += seconds
            fields = {"stage": stage, "records": len(records), "seconds": seconds}
            log.debug("%s: %d records in %.3f s", stage, len(records), seconds, extra=fields)

    @contextmanager
    def thread(self, stage: str) -> Iterator[None]:
        """Count the time of the block, one of several threads' within ``busy("decode")``, for a stage."""
        began = self._now()
        try:
            yield
        finally:
            seconds = self._now() - began
            with self._lock:
                self._threads[stage] += seconds

    def add(self, stages: Mapping[str, float]) -> None:
        """Count seconds that another process was busy."""
        self.ended = self._now()
        with self._lock:
            for stage, seconds in stages.items():
                self._busy[stage] += seconds

    @property
    def seconds(self) -> float:
        """Wall seconds from the first step to the last."""
        return self.ended - self.began

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> busy wall seconds, in the order of :data:`STAGES`.

        Files are read by the threads that decode them: the wall time of that step is divided between
        ``read`` and ``decode`` as the time of its threads is.
        """
        with self._lock:
            busy, threads = self._busy.copy(), self._threads.copy()
        if total := sum(threads.values()):
            reading = busy["decode"] * threads["read"] / total
            busy["read"] += reading
            busy["decode"] -= reading
        return in_order(busy)

    def log_end(self) -> None:
        """Log how the run went."""
        images = self.counts.total()
        fields = {"counts": dict(self.counts), "seconds": self.seconds, "stages": self.stages}
        log.info("%s", budget(images, self.seconds, self.stages, self.hints), extra=fields)


def log_failure(path: str, id: str, stage: str, reason: str) -> None:
    """Log an input that failed."""
    log.warning("%s: %s", stage, reason, extra={"path": path, "id": id, "stage": stage, "reason": reason})


def in_order(stages: Mapping[str, float]) -> dict[str, float]:
    """Those that took time, in the order of :data:`STAGES`."""
    return {stage: stages[stage] for stage in STAGES if stages.get(stage, 0) > 0}


def budget(
    images: int, seconds: float, stages: Mapping[str, float], hints: Mapping[str, str] | None = None
) -> str:
    """One line: ``300 images in 6.0 s (50/s): decode 71 %, encode 22 %, insert 7 %, encoder idle 73 %``.

    The stages work at the same time. Their percentages are shares of the sum of their busy wall seconds,
    those below 0.5 left out; idle is the part of the run, in wall seconds, in which nothing was embedded.

    :param seconds: wall seconds of the run.
    :param stages: stage -> busy wall seconds.
    :param hints: stage -> a setting; named where that stage has more than half of the sum.
    """
    rate = f" ({_figure(images / seconds)}/s)" if seconds > 0 else ""
    line = f"{images:,} {'image' if images == 1 else 'images'} in {_figure(seconds)} s{rate}"
    total = sum(stages.values())
    if not total:
        return line
    shares = [
        f"{stage} {100 * busy / total:.0f} %" for stage, busy in stages.items() if busy >= 0.005 * total
    ]
    if stages.get("encode") and seconds > 0:
        shares.append(f"encoder idle {100 * max(0.0, 1 - stages['encode'] / seconds):.0f} %")
    busiest = max(stages, key=lambda stage: stages[stage])
    hint = (hints or {}).get(busiest, "") if stages[busiest] > total / 2 else ""
    return f"{line}: {', '.join(shares)}" + (f"; {hint} would help" if hint else "")


def _figure(value: float) -> str:
    return f"{value:,.1f}" if value < 9.95 else f"{value:,.0f}"
