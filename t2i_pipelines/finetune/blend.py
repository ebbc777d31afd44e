"""Weights between the starting model's and the tuned ones."""

from __future__ import annotations

import logging

from t2i_pipelines.finetune.clip import Clip, Weights
from t2i_pipelines.finetune.result import TOLERANCE
from t2i_pipelines.finetune.scoring import Mark, Scoring

log = logging.getLogger("t2i_pipelines.finetune")

ALPHAS = tuple(number / 10 for number in range(1, 11))


def blended(start: Weights, tuned: Weights, alpha: float) -> Weights:
    """``(1 - alpha) * start + alpha * tuned``, weight by weight (Wortsman et al. 2022, arXiv:2109.01903)."""
    if alpha in (0, 1):
        return dict(tuned if alpha else start)
    return {name: start[name].lerp(tuned[name], alpha) for name in tuned}


def choose_alpha(
    clip: Clip, start: Weights, tuned: Weights, validation: Scoring, outside: Scoring, at: int
) -> float:
    """Of 0.1, 0.2, ... 1.0 the best inside the domain among those that lose at most 2 points outside.

    Where all of them lose more, it is the one that loses least.
    """
    clip.set(start)
    wanted = outside.metrics(at)[f"R@{at}"] - TOLERANCE
    found: list[tuple[bool, float, Mark, float]] = []
    for alpha in ALPHAS:
        clip.set(blended(start, tuned, alpha))
        kept, mark = outside.metrics(at)[f"R@{at}"], validation.mark(at)
        log.info("alpha %.1f: R@%d %.3f inside, %.3f outside", alpha, at, mark.recall, kept)
        # to nine decimals: 0.78 is two points below 0.8, whatever binary fractions say
        fits = round(kept - wanted, 9) >= 0
        found.append((fits, 0.0 if fits else kept, mark, alpha))
    return max(found)[-1]
