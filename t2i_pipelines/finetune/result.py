"""What fine-tuning gave: where the model is, what it gained inside its domain, what it lost outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from t2i_pipelines.types import Outcome

TOLERANCE = 0.02
"""Of R@k outside the domain: what a fine-tuned model may lose before it counts as a regression."""


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
    :ivar before: of the starting model, metric -> value from 0 to 1, on the validation pairs.
    :ivar after: of the result, likewise; metrics are ``R@1``, ``R@5``, ``R@10`` and ``R@k`` of ``recall_at``.
    :ivar outside_before: on the pairs outside the domain; empty where none were given.
    :ivar outside_after: likewise, of the result.
    :ivar alpha: the share of the tuned weights in the result.
    :ivar best_step: the step whose weights were taken; 0 is the starting model.
    :ivar steps: how many were done.
    :ivar stopped_early: whether ``patience`` ended the run.
    :ivar pictures: how many different ones were learned from; likewise ``captions``.
    :ivar failed: pictures that could not be read, as :class:`~t2i_pipelines.types.Outcome`.
    :ivar history: one entry for each evaluation.
    :ivar seconds: of the whole run.
    """

    path: Path
    onnx: Path | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    outside_before: Mapping[str, float]
    outside_after: Mapping[str, float]
    alpha: float
    best_step: int
    steps: int
    stopped_early: bool
    pictures: int
    captions: int
    failed: Sequence[Outcome] = field(default_factory=tuple)
    history: Sequence[Progress] = field(default_factory=tuple)
    seconds: float = 0.0
