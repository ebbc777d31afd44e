"""The figures of a ranking, each with its bootstrap interval.

=============  =======================================================================================
``R@k``        share of queries with a right one among the best k: the any-caption rule of published
               tables, Success@k in TREC's words
``P@10``       share of right ones among the best 10
``MRR``        mean of 1 / rank of the best right one
``nDCG@10``    gain 1 / log2(rank + 1), over that of the best order
``mAP@10``     sum of the precision at each right one among the best 10, over min(10, how many are
               right), as the Google Landmarks challenges count (mAP@100 there); TREC's ``map_cut_10``
               divides by how many are right, so that a class of 100 could not get beyond 0.1
``median rank``  of the best right one, from 1
=============  =======================================================================================

All but the ranks come from trec_eval, through ``ir_measures``.

Exact ranks: every query against every vector, by cosine.

Cosines count to six decimals, about what float32 tells: the last bits of a matrix product depend on what
stands beside a row, and would decide between equal images. Of equals, the right ones come last, so that
neither the order of the pairs nor a model that gives every image the same vector makes a figure look good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.errors import ConfigError, MissingExtraError, VectorError
from t2i_pipelines.types import Matrix

DEPTH = 10
METRICS = ("R@1", "R@5", "R@10", "P@10", "MRR", "nDCG@10", "mAP@10", "median rank")
CHUNK = 1 << 22
"""Numbers that the bootstrap draws at once."""


@dataclass(frozen=True)
class Metric:
    """One figure.

    :ivar value: 0 to 1, higher is better; the median rank from 1, lower is better.
    :ivar low: the lower end of its bootstrap interval, over queries; NaN of a single query.
    :ivar high: the upper end.
    """

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {shown(self)}"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: percentiles over resampled queries.

    :ivar confidence: 0 to 1, both excluded.
    :ivar resamples: 10 to 100,000.
    :ivar seed: of the generator; the same seed, the same intervals.
    """

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        if isinstance(self.confidence, bool) or not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must be between 0 and 1, as 0.95, got {self.confidence!r}")
        check_whole_number("resamples", self.resamples, 100_000, lowest=10)
        check_whole_number("seed", self.seed, 2**32 - 1, lowest=0)

    def interval(self, values: NDArray[np.float64], of: Any = np.mean) -> tuple[float, float]:
        """Ends of the interval of a statistic of (Q,) values; NaN where there is one value.

        :param of: ``np.mean`` or ``np.median``.
        """
        if len(values) < 2:
            return float("nan"), float("nan")
        from scipy.stats import bootstrap

        found = bootstrap(
            (values,),
            of,
            n_resamples=self.resamples,
            batch=max(1, CHUNK // len(values)),
            confidence_level=self.confidence,
            method="percentile",
            rng=np.random.default_rng(self.seed),
        ).confidence_interval
        return float(found.low), float(found.high)

    def metric(self, name: str, values: NDArray[np.float64]) -> Metric:
        """Return the figure of (Q,) values of single queries."""
        of = np.median if name == "median rank" else np.mean
        return Metric(name, float(of(values)), *self.interval(values, of))


def judged(
    found: NDArray[np.int64] | Sequence[Sequence[int]], right: Sequence[Sequence[int]]
) -> dict[str, NDArray[np.float64]]:
    """Return what the best 10 alone tell, by trec_eval.

    :param found: for each query the numbers of what it found, best first; not all need find as many.
    """
    import ir_measures

    measures = _measures()
    names = [str(number) for number in range(len(right))]
    wanted = {name: {str(one): 1 for one in some} for name, some in zip(names, right, strict=True)}
    run = {
        name: {str(one): float(DEPTH - at) for at, one in enumerate(list(some)[:DEPTH])}
        for name, some in zip(names, found, strict=True)
    }
    values = {name: np.zeros(len(right)) for name in measures}
    known = {measure: name for name, measure in measures.items()}
    for one in ir_measures.iter_calc(list(known), wanted, run):
        values[known[one.measure]][int(one.query_id)] = one.value
    many = np.array([len(one) for one in right], np.float64)
    values["mAP@10"] *= many / np.minimum(many, DEPTH)
    return values


def check_metric(name: str, *, through_index: bool) -> None:
    """Check that there will be a figure to compare by.

    :param through_index: the first 10 hits are all that is known.
    :raises ConfigError: If there will be none; lists those that there will be.
    """
    known = [one for one in METRICS if not through_index or one not in ("MRR", "median rank")]
    if name not in known:
        where = " of what an index finds" if through_index else ""
        raise ConfigError(f"metric{where} must be one of {', '.join(known)}, got {name!r}")


def shown(metric: Metric) -> str:
    """Return a figure with its interval as people read it.

    ``58.8 % (57.4 to 60.1)``; ranks without per cent.
    """
    if metric.name == "median rank":
        text, ends = f"{metric.value:g}", f"{metric.low:g} to {metric.high:g}"
    else:
        text, ends = f"{100 * metric.value:.1f} %", f"{100 * metric.low:.1f} to {100 * metric.high:.1f}"
    return text if np.isnan(metric.low) else f"{text} ({ends})"


def in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those that are there, in the order of :data:`METRICS`."""
    return {name: values[name] for name in METRICS if name in values}


def require_library() -> None:
    """Check that what computes the figures is there, before anything is embedded.

    :raises MissingExtraError: If ``ir_measures`` is not installed.
    """
    if find_spec("ir_measures") is None:
        raise MissingExtraError.of("ir_measures", "eval")


def _measures() -> dict[str, Any]:
    from ir_measures import AP, P, Success, nDCG

    return {
        **{f"R@{k}": Success @ k for k in (1, 5, 10)},
        "P@10": P @ DEPTH,
        "nDCG@10": nDCG @ DEPTH,
        "mAP@10": AP @ DEPTH,
    }


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
    """Return the rank of the best right vector of each query, from 1.

    R@5 is ``(first_ranks(...) <= 5).mean()``.

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
