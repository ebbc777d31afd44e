"""What the figures must reach, as ratios to the Milvus tutorial's loop in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.peers.figures import Row, ratio

FAITHFUL = 0.999
"""Mean cosine to float32 torch from which a row counts as faithful."""

WITHIN = 0.9
"""End to end must be at least this part of encoding alone."""


@dataclass(frozen=True)
class Target:
    """The best of the faithful rows that ``counts`` must be at least ``wanted`` times the loop's speed."""

    name: str
    wanted: float
    counts: Callable[[Row], bool]


def _is(backend: str, precision: str) -> Callable[[Row], bool]:
    return lambda row: row.contender.options == {"backend": backend, "precision": precision}


def _is_int8(row: Row) -> bool:
    return row.contender.options.get("precision") == "int8"


TARGETS = (
    Target("end to end, fp32 or bf16", 3.7, lambda row: not _is_int8(row)),
    Target("end to end, int8", 6.0, _is_int8),
    Target("base install (ONNX Runtime only), fp32", 1.7, _is("onnxruntime", "fp32")),
    Target("base install (ONNX Runtime only), int8", 4.5, _is("onnxruntime", "int8")),
)


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured.

    :ivar value: None if nothing that counts was measured.
    :ivar by: the row that the value is of.
    """

    name: str
    wanted: float
    value: float | None = None
    by: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the value is at least what is wanted."""
        return self.value is not None and self.value >= self.wanted

    @property
    def margin(self) -> float | None:
        """How far the value is above (or, negative, below) what is wanted, as a part of it."""
        return None if self.value is None else self.value / self.wanted - 1


def judge(rows: Sequence[Row], base: Row | None) -> list[Verdict]:
    """Every target, then for each configuration of ours how much of its encoding speed reaches the table.

    :param base: the Milvus tutorial's loop.
    """
    ours = [row for row in rows if row.contender.ours and row.is_measured]
    inserts = {row.contender.name: row for row in ours if row.mode == "insert"}
    verdicts = [_best(target, list(inserts.values()), base) for target in TARGETS]
    for row in ours:
        if row.mode == "encode" and (through := inserts.get(row.contender.name)):
            share = through.speed / row.speed
            verdicts.append(Verdict("end to end / encoding alone", WITHIN, share, row.contender.name))
    return verdicts


def _best(target: Target, inserts: Sequence[Row], base: Row | None) -> Verdict:
    found = [
        (value, row.contender.name)
        for row in inserts
        if row.cosine >= FAITHFUL and target.counts(row) and (value := ratio(row, base)) is not None
    ]
    return Verdict(target.name, target.wanted, *max(found)) if found else Verdict(target.name, target.wanted)
