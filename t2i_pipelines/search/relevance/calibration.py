"""What the best hit scores that answers nothing, fitted to the background; and relevance from it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import erfc, pi, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Matrix, Vector

Numbers = NDArray[np.float64]

MATCH = 0.5
"""The relevance from which on a hit matches: 5 % of the best hits of unanswered queries reach it."""

NO_MATCH = 0.1
"""The relevance below which the best hit says that nothing matches, as two thirds of unanswered queries do.

Between the two, the scores of a small model do not decide, and nothing is claimed.
"""

STANDS_OUT = 1.645
"""Spreads above the level at which a hit's relevance is :data:`MATCH`. A normal tail has 1/20 beyond."""

SUSPECT = 2.5
"""Spreads above what nothing answers at which an everyday concept is taken to be in the collection."""

HUBER = 1.345
"""Residuals beyond count less; 95 % efficient on normal data (Huber, "Robust Statistics", 1981)."""

MAD = 1.4826
"""A normal standard deviation in median absolute deviations."""

LEAST_SPREAD = 1e-4
"""Of cosines. Where the background's scores differ less, a model does not tell queries apart."""

VERSION = 1
"""Of the stored form, and of what the numbers mean."""


@dataclass(frozen=True)
class Calibration:
    """What the best hit of a query scores that nothing in the collection answers.

    With the generality ``g`` of a query, its mean cosine to the background, cut to what the background has:
    ``level[0] + level[1] * g``, give or take ``max(spread[0] + spread[1] * g, floor)``.

    :ivar rows: how many images the collection had.
    :ivar background: digest of the queries.
    :ivar weights: digest of the model, as in its :class:`~t2i_pipelines.types.Space`.
    :ivar centre: (D,) float32, mean of the background's unit vectors.
    :ivar general: least and greatest generality in the background.
    :ivar level: of the scores, in cosines.
    :ivar spread: a standard deviation, in cosines.
    :ivar floor: the spread is not less.
    """

    rows: int
    background: str
    weights: str
    centre: Vector
    general: tuple[float, float]
    level: tuple[float, float]
    spread: tuple[float, float]
    floor: float

    def standing_out(self, generality: Any, scores: Any) -> Numbers:
        """Spreads above the level, of scores of queries of this generality. Shapes broadcast."""
        at = np.clip(np.asarray(generality, np.float64), *self.general)
        spread = np.maximum(self.spread[0] + self.spread[1] * at, self.floor)
        out: Numbers = (np.asarray(scores, np.float64) - self.level[0] - self.level[1] * at) / spread
        return out

    def relevance(self, query: Vector, scores: Sequence[float]) -> list[float]:
        """Relevance of hits, in [0, 1]; a higher score is never less relevant.

        :param query: (D,), unit length.
        :param scores: of its hits, cosines.
        """
        return [_relevance(z) for z in self.standing_out(float(query @ self.centre), scores).tolist()]

    def to_json(self) -> str:
        """As it is stored."""
        plain = asdict(self) | {"centre": b64encode(self.centre.astype("<f4").tobytes()).decode()}
        return json.dumps({"version": VERSION, **plain})

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """From what was stored; None if that is of another version, or nothing that can be read."""
        try:
            plain = json.loads(text)
            if plain.pop("version") != VERSION:
                return None
            pairs = {name: tuple(map(float, plain[name])) for name in ("general", "level", "spread")}
            centre = np.frombuffer(b64decode(plain["centre"]), "<f4").astype(np.float32)
            return cls(**plain | pairs | {"centre": centre})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def calibrate(
    everyday: Matrix, elsewhere: Matrix, tops: Sequence[float], *, rows: int, background: str, weights: str
) -> Calibration | None:
    """Fit level and spread to the best scores of the background.

    :param everyday: (N, D) unit vectors of queries that the collection may answer.
    :param elsewhere: (M, D) unit vectors of queries that it hardly does.
    :param tops: the score of the best hit of each, N + M cosines.
    :return: None where the model does not tell the queries apart.
    """
    texts = np.concatenate([everyday, elsewhere]).astype(np.float64)
    scores = np.asarray(tops, np.float64)
    centre = texts.mean(axis=0).astype(np.float32)
    generality = texts @ centre
    sure = np.arange(len(texts)) >= len(everyday)

    def fit(chosen: NDArray[np.bool_]) -> Calibration | None:
        lines = _lines(generality[chosen], scores[chosen])
        if lines is None:
            return None
        level, spread, floor = lines
        ends = float(generality.min()), float(generality.max())
        return Calibration(rows, background, weights, centre, ends, level, spread, floor)

    first = fit(sure)
    if first is None:
        return None
    return fit(sure | (first.standing_out(generality, scores) < SUSPECT))


def _lines(at: Numbers, scores: Numbers) -> tuple[tuple[float, float], tuple[float, float], float] | None:
    """Straight lines over ``at``: the level of the scores, their spread, and the least spread."""
    design = np.stack([np.ones_like(at), at], axis=1)
    trust = np.ones_like(scores)
    for _ in range(20):  # iteratively reweighted least squares; a handful would do
        root = np.sqrt(trust)
        level = np.linalg.lstsq(design * root[:, None], scores * root, rcond=None)[0]
        off = np.abs(scores - design @ level)
        usual = MAD * float(np.median(off))
        if usual < LEAST_SPREAD:
            return None
        trust = np.minimum(1.0, HUBER * usual / np.maximum(off, LEAST_SPREAD * usual))
    # the mean absolute deviation of normal data is sqrt(2 / pi) standard deviations
    spread = np.linalg.lstsq(design, np.minimum(off, 3 * usual), rcond=None)[0] * sqrt(pi / 2)
    return (float(level[0]), float(level[1])), (float(spread[0]), float(spread[1])), usual / 3


def _tail(z: float) -> float:
    """The part of a normal distribution beyond ``z`` standard deviations."""
    return erfc(z / sqrt(2)) / 2


def _relevance(z: float) -> float:
    """The number in [0, 1] whose odds are ``(1 - p) / p`` times those of the tail at :data:`STANDS_OUT`."""
    beyond, rare = _tail(z), _tail(STANDS_OUT)
    return rare * (1 - beyond) / (rare * (1 - beyond) + beyond * (1 - rare))
