"""Where a run's time goes: each step adds its seconds to the stopwatch of the run, and a line sums up."""

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


class Stopwatch:
    """The busy seconds of each stage of one run. Thread-safe. A copy begins anew.

    :param now: the time in seconds, from any start.
    :ivar counts: how many records ended with each status so far.
    :ivar hints: stage -> the setting, with its value, that would make this stage faster.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.counts: Counter[str] = Counter()
        self.hints: dict[str, str] = {}
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
    line = f"{images:,} images in {_figure(seconds)} s{rate}"
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
