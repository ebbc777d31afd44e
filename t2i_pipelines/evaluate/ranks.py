"""Exact ranks: every query against every vector, by cosine.

Cosines count to six decimals, about what float32 tells: the last bits of a matrix product depend on what
stands beside a row, and would decide between equal images. Of equals, the right ones come last, so that
neither the order of the pairs nor a model that gives every image the same vector makes a figure look good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import ConfigError, VectorError
from t2i_pipelines.types import Matrix

DECIMALS = 6
BLOCK = 1 << 22
"""Cosines that are held at once, 8 bytes each."""


@dataclass(frozen=True)
class Ranking:
    """What each of Q queries finds among N.

    :ivar first: (Q,) rank of the best right one, from 1.
    :ivar found: (Q, K) numbers of the best K, best first; K is at most N.
    :ivar scores: (Q, K) their cosines, -1 to 1.
    :ivar best: (Q,) number of the best right one.
    :ivar best_scores: (Q,) its cosine.
    """

    first: NDArray[np.int64]
    found: NDArray[np.int64]
    scores: NDArray[np.float64]
    best: NDArray[np.int64]
    best_scores: NDArray[np.float64]


def first_ranks(queries: Matrix, gallery: Matrix, right: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The rank of the best right vector of each query, from 1; R@5 is ``(first_ranks(...) <= 5).mean()``.

    :param queries: (Q, D), of any length.
    :param gallery: (N, D), of any length.
    :param right: for each query the numbers of the right vectors, at least one.
    :return: (Q,) int64. Of equal cosines, to six decimals, the right one comes last.
    :raises VectorError: If a vector is zero, not finite, or of another length than the others.
    """
    return rank(queries, gallery, right, 1).first


def rank(
    queries: Matrix,
    gallery: Matrix,
    right: Sequence[Sequence[int]],
    depth: int,
    *,
    without: NDArray[np.int64] | None = None,
) -> Ranking:
    """Rank every vector for every query.

    :param depth: how many of the best to keep.
    :param without: (Q,) the number of a vector that a query does not look at, as itself.
    :raises VectorError: As :func:`first_ranks`.
    :raises ConfigError: If a query has no right vector.
    """
    return rank_units(units(queries, "query"), units(gallery, "image"), right, depth, without=without)


def rank_units(
    asked: Matrix,
    stored: Matrix,
    right: Sequence[Sequence[int]],
    depth: int,
    *,
    without: NDArray[np.int64] | None = None,
) -> Ranking:
    """As :func:`rank`, of vectors of length 1."""
    if asked.shape[1] != stored.shape[1]:
        raise VectorError(f"queries have {asked.shape[1]} dimensions, and images {stored.shape[1]}")
    if len(right) != len(asked) or not all(map(len, right)):
        raise ConfigError(f"each of {len(asked)} queries needs at least one right image")
    depth = min(depth, len(stored) - (without is not None))
    step = max(1, BLOCK // len(stored))
    parts = []
    for at in range(0, len(asked), step):
        block = slice(at, at + step)
        scores = np.asarray(np.round((asked[block] @ stored.T).astype(np.float64), DECIMALS), np.float64)
        if without is not None:
            scores[np.arange(len(scores)), without[block]] = -np.inf
        parts.append(_ranked(scores, right[block], depth))
    return Ranking(*(np.concatenate(some) for some in zip(*parts, strict=True)))


def units(vectors: Matrix, what: str) -> Matrix:
    """(N, D) of any length -> of length 1.

    :raises VectorError: If one is zero or not finite.
    """
    matrix = np.asarray(vectors, np.float32)
    if matrix.ndim != 2 or not len(matrix):
        raise VectorError(f"{what} vectors are an (N, D) matrix of at least one; got shape {matrix.shape}")
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise VectorError(
            f"the vector of {what} {bad[0]} has no direction: its length is {lengths[bad[0], 0]}"
        )
    return np.asarray(matrix / lengths, np.float32)


def _ranked(
    scores: NDArray[np.float64], right: Sequence[Sequence[int]], depth: int
) -> tuple[NDArray[Any], ...]:
    rows = np.repeat(np.arange(len(scores)), [len(one) for one in right])
    columns = np.concatenate([np.asarray(one, np.int64) for one in right])
    # float64 has room between two cosines of six decimals, so right ones step behind their equals
    scores[rows, columns] = np.nextafter(scores[rows, columns], -np.inf)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in right])[:-1]])
    best_scores = np.maximum.reduceat(scores[rows, columns], starts)
    is_best = scores[rows, columns] == best_scores[rows]
    best = np.empty(len(scores), np.int64)
    best[rows[is_best][::-1]] = columns[is_best][::-1]  # of equals, the first
    first = 1 + (scores > best_scores[:, None]).sum(axis=1)
    some = np.argpartition(-scores, depth - 1, axis=1)[:, :depth] if depth < scores.shape[1] else None
    found = np.broadcast_to(np.arange(scores.shape[1]), scores.shape) if some is None else some
    values = np.take_along_axis(scores, found, 1)
    order = np.lexsort((found, -values))[:, :depth]
    found, values = np.take_along_axis(found, order, 1), np.take_along_axis(values, order, 1)
    # + 0.0: there is no -0.0
    return first, found, np.round(values, DECIMALS) + 0.0, best, np.round(best_scores, DECIMALS) + 0.0
