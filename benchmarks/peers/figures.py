"""From what each round measured to the figures of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.peers.job import Outcome
from benchmarks.peers.plan import Contender, Mode
from t2i_pipelines.encoders.vectors import cosines
from t2i_pipelines.types import Matrix


@dataclass(frozen=True)
class Row:
    """One contender in one mode. With a ``reason``, nothing was measured.

    :ivar speed: images a second, median over the rounds.
    :ivar spread: (fastest - slowest) / median of the rounds.
    :ivar cosine: to the right vectors, mean over the images, and the least.
    :ivar memory: bytes, median over the rounds.
    :ivar text_ms: median over all queries of all rounds.
    """

    contender: Contender
    mode: Mode
    speed: float = 0.0
    spread: float = 0.0
    cosine: float = 0.0
    least_cosine: float = 0.0
    memory: float = 0.0
    text_ms: float = 0.0
    running: str = ""
    reason: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether there are figures."""
        return not self.reason


def row(contender: Contender, mode: Mode, outcomes: Sequence[Outcome], right: Matrix) -> Row:
    """Sum up the rounds; one that failed makes the row a failed one.

    :param right: (N, D), what the images' vectors should be, of any length.
    """
    reasons = [outcome.reason for outcome in outcomes if outcome.reason]
    if reasons or not outcomes:
        return Row(contender, mode, reason=reasons[0] if reasons else "not run")
    speeds = [outcome.speed for outcome in outcomes]
    found = np.concatenate([cosines(outcome.images, right) for outcome in outcomes])
    return Row(
        contender,
        mode,
        speed=median(speeds),
        spread=(max(speeds) - min(speeds)) / median(speeds),
        cosine=float(found.mean()),
        least_cosine=float(found.min()),
        memory=median(outcome.memory for outcome in outcomes),
        text_ms=float(np.median(np.concatenate([outcome.text_ms for outcome in outcomes]))),
        running=outcomes[-1].running,
    )


def ratio(one: Row, base: Row | None) -> float | None:
    """How many times as fast as ``base``; None if either was not measured."""
    if base is None or not (one.is_measured and base.is_measured):
        return None
    return one.speed / base.speed
