"""Compare several evaluations of the same pairs: models, precisions, indexes; as a table and a plot."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import ConfigError, MissingExtraError
from t2i_pipelines.evaluate.metrics import METRICS, Bootstrap, Metric, check_metric, shown
from t2i_pipelines.evaluate.pairs import AnyPairs, Pairs
from t2i_pipelines.evaluate.report import Evaluation, Grid, Tabular, few, save_page, without_nan
from t2i_pipelines.evaluate.run import evaluate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC = "R@5"
SHOWN = ("R@1", "R@5", "R@10", "MRR", "nDCG@10", "mAP@10")


@dataclass(frozen=True)
class Row:
    """One model with one way of searching.

    :ivar label: of the evaluation; with the index where there is one.
    :ivar search: ``exact``, or the type of the index.
    :ivar metrics: of the direction that is compared.
    :ivar per_query: name -> (Q,) float64.
    :ivar ms_a_query: of one query alone, its text embedded and searched; NaN where nothing was timed.
    :ivar queries_a_second: of many at once; NaN where nothing was timed.
    :ivar index_recall: recall@10 of the index; None of an exact search.
    """

    label: str
    search: str
    metrics: Mapping[str, Metric]
    per_query: Mapping[str, NDArray[np.float64]]
    ms_a_query: float
    queries_a_second: float
    index_recall: Metric | None = None


class EvaluationTable(Tabular):
    """Evaluations of the same pairs, compared. Made by :func:`compare` and :func:`evaluate_many`.

    :ivar evaluations: what is compared.
    :ivar rows: one for each evaluation, and one more for each index.
    :ivar metric: the figure that differences and the Pareto front are of.
    """

    def __init__(self, evaluations: Sequence[Evaluation], labels: Sequence[str], metric: str) -> None:
        self.evaluations, self.metric = tuple(evaluations), metric
        self.rows = [row for one, label in zip(evaluations, labels, strict=True) for row in _rows(one, label)]
        check_metric(metric, through_index=any(row.index_recall for row in self.rows))

    @cached_property
    def differences(self) -> list[Metric | None]:
        """By how much each row's ``metric`` is above the first row's; None of the first itself.

        The interval is that of the paired bootstrap, over the differences of single queries: if it does not
        hold 0, the rows differ. For ``median rank`` it is the median of the differences.
        """
        bootstrap = Bootstrap(self.evaluations[0].confidence)
        first = self.rows[0].per_query[self.metric]
        others = [bootstrap.metric(self.metric, row.per_query[self.metric] - first) for row in self.rows[1:]]
        return [None, *others]

    @cached_property
    def pareto(self) -> list[str]:
        """Labels of the rows that no other is both as good as and as fast as, and better in one; by speed."""
        return [row.label for row in sorted(self._front(), key=lambda row: row.ms_a_query)]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each model and search.

        :return: index ``label``; columns ``search``, the figures by name with ``NAME low`` and ``NAME high``
            (float64; shares 0 to 1), ``ms_a_query``, ``queries_a_second``, ``index_recall``, ``difference``
            of ``metric`` to the first row, ``difference_low``, ``difference_high``, and ``pareto`` (bool).
        """
        import pandas as pd

        rows = []
        for row, difference in zip(self.rows, self.differences, strict=True):
            cells: dict[str, Any] = {"label": row.label, "search": row.search}
            for name, one in row.metrics.items():
                cells |= {name: one.value, f"{name} low": one.low, f"{name} high": one.high}
            cells |= {
                "ms_a_query": row.ms_a_query,
                "queries_a_second": row.queries_a_second,
                "index_recall": row.index_recall.value if row.index_recall else np.nan,
                "difference": difference.value if difference else np.nan,
                "difference_low": difference.low if difference else np.nan,
                "difference_high": difference.high if difference else np.nan,
                "pareto": row.label in self.pareto,
            }
            rows.append(cells)
        table = pd.DataFrame(rows).set_index("label")
        table.attrs |= {"metric": self.metric, "pairs": str(self.evaluations[0].pairs)}
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return all evaluations, the differences and the Pareto front, of JSON's types."""
        differences = {
            row.label: without_nan({"value": one.value, "low": one.low, "high": one.high})
            for row, one in zip(self.rows, self.differences, strict=True)
            if one is not None
        }
        return {
            "metric": self.metric,
            "evaluations": [one.as_dict() for one in self.evaluations],
            "differences": differences,
            "pareto": self.pareto,
        }

    def plot(self, metric: str | None = None, ax: Axes | None = None) -> Figure:
        """Quality against milliseconds a query, with intervals and the Pareto front, from this table.

        :param metric: another figure than the table's.
        :param ax: where to draw; a figure of its own, if left out.
        :raises MissingExtraError: If matplotlib is not installed.
        :raises ConfigError: If a row has no such figure, or nothing was timed.
        """
        chosen = self if metric in (None, self.metric) else compare_rows(self, str(metric))
        return draw(chosen.to_pandas(), ax)

    @property
    def grid(self) -> Grid:
        """The table as people read it."""
        import pandas as pd

        names = [name for name in METRICS if name in SHOWN or name == self.metric]
        rows = [
            {
                **{name: _cell(row.metrics.get(name)) for name in names},
                f"{self.metric} to the first": "" if difference is None else _points(difference),
                "index recall": "" if row.index_recall is None else f"{row.index_recall.value:.3f}",
                "ms": "" if np.isnan(row.ms_a_query) else few(row.ms_a_query),
                "queries/s": "" if np.isnan(row.queries_a_second) else f"{row.queries_a_second:,.0f}",
                "": "Pareto" if row.label in self.pareto else "",
            }
            for row, difference in zip(self.rows, self.differences, strict=True)
        ]
        table = pd.DataFrame(rows, index=[row.label for row in self.rows])
        confidence = self.evaluations[0].confidence
        notes = [
            f"shares in per cent; to the first: points of {self.metric}, with {100 * confidence:g} % "
            "intervals of the paired bootstrap",
            f"Pareto: nothing else is as fast and has as high a {self.metric}",
        ]
        return Grid(str(self.evaluations[0].pairs), table.loc[:, (table != "").any()], notes)

    def save_html(self, path: str | os.PathLike[str], title: str = "") -> Path:
        """Write a page that needs nothing else: the table, the plot if matplotlib is there, each evaluation.

        :return: where it is.
        """
        figure = as_uri(self) if self._front() else ""
        return save_page(self.evaluations, path, title, [self.grid], figure)

    def _front(self) -> list[Row]:
        timed = [row for row in self.rows if not np.isnan(row.ms_a_query)]
        places = {row.label: (_good(row.metrics[self.metric]), -row.ms_a_query) for row in timed}
        return [
            row for row in timed if not any(_beats(other, places[row.label]) for other in places.values())
        ]


def compare(
    evaluations: Iterable[Evaluation], labels: Sequence[str] | None = None, *, metric: str = METRIC
) -> EvaluationTable:
    """Put evaluations of the same pairs side by side; the first is what the others are compared with.

    :param labels: one for each; their own, if left out.
    :param metric: the figure that differences and the Pareto front are of.
    :raises ConfigError: If there are none, they are not of the same pairs and direction, labels are not as
        many different names, or there is no such figure.
    """
    given = list(evaluations)
    if not given:
        raise ConfigError("there is nothing to compare: give at least one evaluation")
    for one in given[1:]:
        if one.pairs.digest != given[0].pairs.digest or one.main.name != given[0].main.name:
            raise ConfigError(
                f"{one.label!r} was evaluated on {one.pairs} ({one.main.name}), and {given[0].label!r} on "
                f"{given[0].pairs} ({given[0].main.name}); only figures of the same pairs can be compared"
            )
    names = [one.label for one in given] if labels is None else list(labels)
    if len(names) != len(given) or len(set(names)) < len(names):
        raise ConfigError(f"labels must be {len(given)} different names, got {names!r}; give labels=[...]")
    return EvaluationTable(given, names, metric)


def compare_rows(table: EvaluationTable, metric: str) -> EvaluationTable:
    """Return the same table by another figure."""
    labels = [row.label for row in table.rows if row.search == "exact"]
    return EvaluationTable(table.evaluations, labels, metric)


def evaluate_many(
    pairs: AnyPairs,
    variants: Iterable[Mapping[str, Any]],
    labels: Sequence[str] | None = None,
    *,
    metric: str = METRIC,
    **common: Any,
) -> EvaluationTable:
    """Evaluate in several ways, ``[{"precision": "fp32"}, {"precision": "int8"}]``, and compare.

    :param variants: settings of :func:`evaluate`, one mapping for each evaluation.
    :param labels: one for each; made of the settings that differ, if left out.
    :param metric: the figure that differences and the Pareto front are of.
    :param common: settings that all share.
    :raises ConfigError: As :func:`evaluate` and :func:`compare` do.
    """
    asked = Pairs.of(pairs)
    chosen = [dict(one) for one in variants]
    through_index = any({**common, **one}.get("uri") is not None for one in chosen)
    check_metric(metric, through_index=through_index)
    names = [" ".join(map(str, one.values())) or "default" for one in chosen] if labels is None else labels
    return compare([evaluate(asked, **{**common, **one}) for one in chosen], names, metric=metric)


def _rows(evaluation: Evaluation, label: str) -> list[Row]:
    main, speed, index = evaluation.main, evaluation.speed, evaluation.index
    rows = [
        Row(
            label,
            "exact",
            main.metrics,
            main.per_query,
            speed.ms_a_query if speed else float("nan"),
            speed.queries_a_second if speed else float("nan"),
        )
    ]
    if index is not None and speed is not None:
        rows.append(
            Row(
                f"{label} {index.index}",
                index.index,
                index.metrics,
                index.per_query,
                speed.encode_ms + index.search_ms,
                index.queries_a_second,
                index.recall,
            )
        )
    return rows


def _good(metric: Metric) -> float:
    return -metric.value if metric.name == "median rank" else metric.value


def _beats(other: tuple[float, float], one: tuple[float, float]) -> bool:
    return other != one and other[0] >= one[0] and other[1] >= one[1]


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return ""
    return f"{metric.value:g}" if metric.name == "median rank" else f"{100 * metric.value:.1f}"


def _points(metric: Metric) -> str:
    if metric.name == "median rank":
        return shown(metric)
    ends = "" if np.isnan(metric.low) else f" ({100 * metric.low:+.1f} to {100 * metric.high:+.1f})"
    return f"{100 * metric.value:+.1f}{ends}"


ON_FRONT, BEHIND = "#3f7df0", "#8a8f98"

WIDE = 10
"""How many times as long as the fastest the slowest takes, for milliseconds to be drawn as powers of ten."""


def draw(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the rows of :meth:`EvaluationTable.to_pandas` that were timed.

    Points are numbered by speed. The Pareto front is the line; right of it and below is what another beats.

    :raises MissingExtraError: If matplotlib is not installed.
    :raises ConfigError: If no row was timed.
    """
    metric = table.attrs["metric"]
    timed = table[table.ms_a_query.notna()]
    if timed.empty:
        raise ConfigError("nothing was timed, so there is nothing to plot; evaluate a model, not vectors")
    axes = _axes() if ax is None else ax
    share = 1 if metric == "median rank" else 100
    for number, (label, row) in enumerate(timed.sort_values("ms_a_query").iterrows(), 1):
        value, colour = share * row[metric], ON_FRONT if row.pareto else BEHIND
        ends = [[value - share * row[f"{metric} low"]], [share * row[f"{metric} high"] - value]]
        name = f"{number}  {label}"
        axes.errorbar([row.ms_a_query], [value], ends, fmt="o", color=colour, capsize=3, label=name)
        # long names would cover each other, and so would the numbers of neighbours on one height
        below = (6, 6) if number % 2 else (6, -14)
        axes.annotate(
            str(number), (row.ms_a_query, value), below, textcoords="offset points", color=colour, fontsize=9
        )
    front = timed[timed.pareto].sort_values("ms_a_query")
    axes.plot(
        front.ms_a_query, share * front[metric], color=ON_FRONT, linewidth=1, zorder=1, label="Pareto front"
    )
    if timed.ms_a_query.max() > WIDE * timed.ms_a_query.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        xlabel="milliseconds a query, one at a time",
        ylabel=metric if metric == "median rank" else f"{metric}, %",
        title=table.attrs["pairs"],
    )
    axes.margins(x=0.1, y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure: Any = axes.figure
    return figure  # type: ignore[no-any-return]


def as_uri(table: EvaluationTable) -> str:
    """Return the plot as a PNG in a data URI; empty where matplotlib is not installed."""
    try:
        figure = table.plot()
    except MissingExtraError:
        return ""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _axes() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as err:
        raise MissingExtraError.of("matplotlib", "eval") from err
    figure, axes = pyplot.subplots(figsize=(8.5, 4.5), layout="constrained")
    pyplot.close(figure)  # it is returned; a notebook would show it twice
    return axes
