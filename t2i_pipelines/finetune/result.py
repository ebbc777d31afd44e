"""The result of fine-tuning: its files, gains inside the domain and losses outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from t2i_pipelines.types import Outcome

TOLERANCE = 0.02
"""Of recall outside the domain: what a fine-tuned model may lose before it counts as a regression."""


def largest_loss(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the most that R@1, R@5, R@10 or that of ``recall_at`` fell; negative where all of them rose."""
    return max(value - after[name] for name, value in before.items() if name.startswith("R@"))


class Progress(NamedTuple):
    """Where a run stands, after each step.

    :ivar step: batches learned from, 1 to ``steps``.
    :ivar epoch: 1 and up.
    :ivar loss: of this batch, in nats.
    :ivar rate: learning rate of this step.
    :ivar norm: L2 norm of the gradient before it was clipped.
    :ivar recall: R@k on the validation pairs, 0 to 1, where they were just evaluated; else None.
    :ivar seconds: since the run began, those before it was killed included.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    rate: float
    norm: float
    recall: float | None
    seconds: float


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned model and its report; ``print`` it.

    :ivar path: the checkpoint folder, which ``model_name=`` and ``checkpoint_path=`` take.
    :ivar onnx: its ONNX export, which runs without torch; None without ``export``.
    :ivar before: of the starting model, metric -> value from 0 to 1, on the validation pairs: ``R@1``,
        ``R@5``, ``R@10`` and that of ``recall_at``, of texts that ask for images; ``P@10`` where each text
        has ten right ones or more; ``image to text R@1`` and so on.
    :ivar after: of the result, likewise.
    :ivar outside_before: on the pairs outside the domain; empty where none were given.
    :ivar outside_after: likewise, of the result.
    :ivar recall_at: the k of the R@k that was watched.
    :ivar alpha: the share of the tuned weights in the result.
    :ivar best_step: the step whose weights were taken; 0 is the starting model.
    :ivar steps: how many were done.
    :ivar stopped_early: whether ``patience`` ended the run.
    :ivar images: how many different ones were learned from; likewise ``captions``.
    :ivar failed: images that could not be read, as :class:`~t2i_pipelines.types.Outcome`.
    :ivar history: one entry for each evaluation.
    :ivar seconds: of the whole run.
    """

    path: Path
    onnx: Path | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    outside_before: Mapping[str, float]
    outside_after: Mapping[str, float]
    recall_at: int
    alpha: float
    best_step: int
    steps: int
    stopped_early: bool
    images: int
    captions: int
    failed: Sequence[Outcome] = field(default_factory=tuple)
    history: Sequence[Progress] = field(default_factory=tuple)
    seconds: float = 0.0

    @property
    def lost(self) -> float | None:
        """The most that one R@k fell outside the domain; None without ``outside`` pairs."""
        return largest_loss(self.outside_before, self.outside_after) if self.outside_before else None

    @property
    def is_regression(self) -> bool:
        """Whether more than 2 points were lost outside the domain."""
        return self.lost is not None and round(self.lost, 9) > TOLERANCE

    def __str__(self) -> str:
        """What was done, before and after, and what to do where it went wrong."""
        stopped = ", stopped early" if self.stopped_early else ""
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        lines = [
            f"{self.images:,} images{failed}, {self.captions:,} captions: {self.steps:,} steps in "
            f"{self.seconds:,.0f} s{stopped}; weights of step {self.best_step:,}, alpha {self.alpha:g}",
            *_table("validation", self.before, self.after),
            *_table("outside", self.outside_before, self.outside_after),
        ]
        if not self.best_step:
            lines.append(
                "no evaluation was better than the starting model, which is the result; lower learning_rate, "
                "or give more pairs"
            )
        if self.is_regression:
            lines.append(
                f"outside the domain, recall fell by {100 * (self.lost or 0):.1f} points, more than "
                f"{100 * TOLERANCE:.0f}: give such pairs by replay=, or lower alpha or learning_rate"
            )
        return "\n".join([*lines, f"model: {self.path}"])

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, of JSON's types."""
        failed = [{"path": one.path, "reason": str(one.reason)} for one in self.failed]
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "path": str(self.path),
            "onnx": None if self.onnx is None else str(self.onnx),
            "lost": self.lost,
            "is_regression": self.is_regression,
            "failed": failed,
            "history": [one._asdict() for one in self.history],
        }


def _table(title: str, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Metrics as lines of text; none where there are none."""
    if not before:
        return []
    width = max(len(title), *map(len, before))
    lines = [f"{title:<{width}}  before   after  points"]
    return lines + [
        f"{name:<{width}}{value:8.3f}{after[name]:8.3f}{100 * (after[name] - value):+8.1f}"
        for name, value in before.items()
    ]
