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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.errors import ConfigError, MissingExtraError

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
        """The figure of (Q,) values of single queries."""
        of = np.median if name == "median rank" else np.mean
        return Metric(name, float(of(values)), *self.interval(values, of))


def judged(
    found: NDArray[np.int64] | Sequence[Sequence[int]], right: Sequence[Sequence[int]]
) -> dict[str, NDArray[np.float64]]:
    """What the best 10 alone tell, by trec_eval.

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
    """A figure with its interval as people read it: ``58.8 % (57.4 to 60.1)``; ranks without per cent."""
    if metric.name == "median rank":
        text, ends = f"{metric.value:g}", f"{metric.low:g} to {metric.high:g}"
    else:
        text, ends = f"{100 * metric.value:.1f} %", f"{100 * metric.low:.1f} to {100 * metric.high:.1f}"
    return text if np.isnan(metric.low) else f"{text} ({ends})"


def in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are there, in the order of :data:`METRICS`."""
    return {name: values[name] for name in METRICS if name in values}


def require_library() -> None:
    """Check that what computes the figures is there, before anything is embedded.

    :raises MissingExtraError: If ``ir_measures`` is not installed.
    """
    if find_spec("ir_measures") is None:
        raise MissingExtraError("ir_measures is not installed; run: pip install 't2i-pipelines[eval]'")


def _measures() -> dict[str, Any]:
    from ir_measures import AP, P, Success, nDCG

    return {
        **{f"R@{k}": Success @ k for k in (1, 5, 10)},
        "P@10": P @ DEPTH,
        "nDCG@10": nDCG @ DEPTH,
        "mAP@10": AP @ DEPTH,
    }
