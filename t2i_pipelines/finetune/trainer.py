"""The training loop, the learning-rate schedule, and a learning rate that is safe for a model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i_pipelines.config.training import FinetuneOptions, Train
from t2i_pipelines.errors import FinetuneError
from t2i_pipelines.finetune import store
from t2i_pipelines.finetune.clip import Clip, Side, Weights, contrast
from t2i_pipelines.finetune.material import Batch, Mark, Order, Scoring, Truth
from t2i_pipelines.finetune.result import Progress

LARGE = 50_000_000
"""Weights from which on a model counts as large. OpenAI's smallest CLIP has 102 million, t2i_mini 15."""

LARGE_RATE = 1e-5
"""What FLYP fine-tunes CLIP ViT-B/16 with (Goyal et al. 2023, arXiv:2212.00638, appendix)."""

SMALL_RATE = 1e-4
"""Measured on the first t2i_mini, of 8 million weights, on 600 charts with scenes replayed: with 3e-4 it
learns faster, R@5 0.98 in place of
0.93 after 8 epochs, but loses 4.7 points of R@1 on the gallery in place of 0.7."""

HEAD_RATE = 1e-3
"""Measured by ``make quality``. The two projections are linear, and do not undo what the towers know."""


def safe_rate(weights: int, train: Train) -> float:
    """Return the learning rate that is taken where none is given.

    :param weights: how many numbers the whole model has.
    :param train: what learns.
    """
    if train == "heads":
        return HEAD_RATE
    return LARGE_RATE if weights >= LARGE else SMALL_RATE


def rate_at(step: int, steps: int, *, warmup_ratio: float, top: float) -> float:
    """Return the learning rate of a step.

    A straight rise, then half a cosine, which would be 0 after the last step.

    Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts; the rise is of Goyal et al. 2017,
    arXiv:1706.02677.

    :param step: 1 to ``steps``.
    :param warmup_ratio: share of the steps that the rise takes.
    :param top: reached at the end of the rise.
    """
    rise = math.ceil(warmup_ratio * steps)
    if step <= rise:
        return top * step / rise
    return top * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise + 1)))


log = logging.getLogger("t2i_pipelines.finetune")

CROPS = 3


@dataclass
class Best:
    """The best weights so far.

    :ivar step: 0 is the starting model.
    :ivar waited: evaluations since then.
    """

    mark: Mark
    step: int
    weights: Weights
    waited: int = 0


@dataclass
class Trainer:
    """One run.

    :ivar run: what the checkpoint is known by, see :mod:`t2i_pipelines.finetune.store`.
    :ivar rate: the highest learning rate.
    """

    clip: Clip
    order: Order
    truth: Truth
    see: Side
    read: Side
    validation: Scoring
    options: FinetuneOptions
    rate: float
    folder: Path
    run: Mapping[str, Any]
    tell: Callable[[Progress], None]
    history: list[Progress] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Count the steps, and make what learns."""
        planned = self.options.epochs * self.order.steps_an_epoch
        self.steps = min(planned, self.options.max_steps or planned)
        self.every = min(self.options.eval_steps or self.order.steps_an_epoch, self.steps)
        self.optimiser = _optimiser(self.clip.learning, self.options.weight_decay)

    def train(self) -> Best:
        """Learn from where the checkpoint is, or from the start; give the best weights.

        :raises FinetuneError: If the loss, or its gradient, is not a number.
        """
        best = self._resume() or Best(self.validation.mark(self.options.recall_at), 0, self.clip.weights())
        began = time.monotonic() - self.seconds
        for batch in self.order.batches(self.step, self.steps):
            if self.is_over(best):
                break
            loss, rate, norm = self._learn(batch)
            self.step = batch.step
            mark = None
            if self.step % self.every == 0 or self.step == self.steps:
                mark = self.validation.mark(self.options.recall_at)
                best = self._better(best, mark)
            self.seconds = time.monotonic() - began
            recall = None if mark is None else mark.recall
            told = Progress(self.step, self.steps, batch.epoch, loss, rate, norm, recall, self.seconds)
            if recall is not None:
                self.history.append(told)
                self._log(told)
            if recall is not None or self.step % self.options.save_steps == 0:
                self._save(best)
            self.tell(told)
        return best

    def is_over(self, best: Best) -> bool:
        """Return whether waiting any longer is of no use."""
        return self.options.patience is not None and best.waited >= self.options.patience

    def _learn(self, batch: Batch) -> tuple[float, float, float]:
        """(loss, rate, norm of the gradient before it is clipped)."""
        rate = rate_at(batch.step, self.steps, warmup_ratio=self.options.warmup_ratio, top=self.rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        truth = torch.from_numpy(self.truth(batch.captions, batch.images)).to(self.clip.running.device)
        with self.clip.half():
            images = self.see(batch.images, (self.options.seed, CROPS, batch.step))
            captions = self.read(batch.captions, ())
        loss = contrast(images.float(), captions.float(), truth, self.clip.scale)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.clip.learning.values(), self.options.max_grad_norm)
        for what, value in (("loss", loss), ("gradient of the loss", norm)):
            if not np.isfinite(value.item()):
                raise FinetuneError(
                    f"the {what} is {value.item()} at step {batch.step}, with a learning rate of {rate:.3g}; "
                    f"lower learning_rate (its highest is {self.rate:.3g}), say precision='fp32', or check "
                    "the weights it started from"
                )
        self.optimiser.step()
        self.clip.bound_scale()
        return loss.item(), rate, norm.item()

    def _better(self, best: Best, mark: Mark) -> Best:
        if mark > best.mark:
            return Best(mark, self.step, self.clip.weights())
        return Best(best.mark, best.step, best.weights, best.waited + 1)

    def _save(self, best: Best) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "weights": self.clip.weights(),
            "optimiser": self.optimiser.state_dict(),
            "history": [tuple(one) for one in self.history],
            "best": {
                "mark": tuple(best.mark),
                "step": best.step,
                "weights": best.weights,
                "waited": best.waited,
            },
        }
        store.save(self.folder, self.run, state)

    def _resume(self) -> Best | None:
        if not self.options.resume:
            return None
        state = store.load(self.folder, self.run)
        if state is None:
            return None
        self.step, self.seconds = state["step"], state["seconds"]
        self.clip.set(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = [Progress(*one) for one in state["history"]]
        log.info("going on after step %d of %d", self.step, self.steps)
        best = state["best"]
        return Best(Mark(*best["mark"]), best["step"], best["weights"], best["waited"])

    def _log(self, told: Progress) -> None:
        log.info(
            "step %d of %d, epoch %d: loss %.3f, rate %.2e, R@%d %.3f, %.0f s",
            told.step,
            told.steps,
            told.epoch,
            told.loss,
            told.rate,
            self.options.recall_at,
            told.recall,
            told.seconds,
        )


def _optimiser(learning: Mapping[str, nn.Parameter], decay: float) -> torch.optim.Optimizer:
    """AdamW that lets matrices decay, and nothing else, as CLIP was trained."""
    groups = [
        {"params": [one for one in learning.values() if one.ndim > 1], "weight_decay": decay},
        {"params": [one for one in learning.values() if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)
