"""Weights between the starting model's and the tuned ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from t2i_pipelines.finetune.clip import Clip, Weights
from t2i_pipelines.finetune.result import TOLERANCE, largest_loss
from t2i_pipelines.finetune.scoring import Mark, Scoring

log = logging.getLogger("t2i_pipelines.finetune")

ALPHAS = tuple(number / 10 for number in range(10, 0, -1))


def blended(start: Weights, tuned: Weights, alpha: float) -> Weights:
    """``(1 - alpha) * start + alpha * tuned``, weight by weight (Wortsman et al. 2022, arXiv:2109.01903)."""
    if alpha in (0, 1):
        return dict(tuned if alpha else start)
    return {name: start[name].lerp(tuned[name], alpha) for name in tuned}


def choose_alpha(
    clip: Clip,
    start: Weights,
    tuned: Weights,
    validation: Scoring,
    outside: Scoring,
    at: int,
    *,
    before: Mapping[str, float],
) -> float:
    """Go down from 1 by tenths to the first that loses at most 2 points outside, and on while it is better.

    Where all of them lose more, it is the one that loses least.

    :param before: metrics of the starting model on the pairs outside.
    """
    best: tuple[bool, float, Mark, float] | None = None
    for alpha in ALPHAS:
        clip.set(blended(start, tuned, alpha))
        lost, mark = largest_loss(before, outside.metrics(at)), validation.mark(at)
        log.info("alpha %.1f: R@%d %.3f, lost outside %.3f", alpha, at, mark.recall, lost)
        # to nine decimals: 0.78 is two points below 0.8, whatever binary fractions say
        fits = round(lost, 9) <= TOLERANCE
        found = (fits, 0.0 if fits else -lost, mark, alpha)
        if best is not None and best[0] and found < best:
            break
        best = found if best is None else max(best, found)
    assert best is not None
    return best[-1]
