"""Evaluations as text, tables and pages; all of them are made of the same rows."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.evaluate.metrics import METRICS, Metric, shown
from t2i_pipelines.search.results.printable import printable
from t2i_pipelines.search.results.render import fragment, page, save
from t2i_pipelines.search.results.view import view

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from t2i_pipelines.evaluate.evaluation import Evaluation

FAILURES_SHOWN = 10
TEMPLATE = "evaluation.html"


@dataclass(frozen=True)
class Grid:
    """A table as people read it.

    :ivar title: what it is about.
    :ivar head: names of the columns; the first is that of the rows' names.
    :ivar rows: cells, as long as the head.
    :ivar notes: lines below.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Columns side by side, the first to the left and the others to the right."""
        table = [self.head, *self.rows]
        widths = [max(len(row[at]) for row in table) for at in range(len(self.head))]
        lines = [
            "  ".join(
                cell.ljust(width) if not at else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        return "\n".join([self.title, *lines, *self.notes])


def grid(evaluation: Evaluation) -> Grid:
    """The figures of an evaluation: a row for each, a column for each way of asking."""
    columns = {way: direction.metrics for way, direction in evaluation.directions.items()}
    if evaluation.index is not None:
        columns[f"through {evaluation.index.index}"] = evaluation.index.metrics
    rows = [
        [name, *(shown(metrics[name]) if name in metrics else "" for metrics in columns.values())]
        for name in METRICS
        if any(name in metrics for metrics in columns.values())
    ]
    running = f" by {evaluation.running}" if evaluation.running else ""
    title = printable(f"{evaluation.label}{running}, on {evaluation.pairs}")
    return Grid(title, ["", *columns], rows, notes(evaluation))


def notes(evaluation: Evaluation) -> list[str]:
    """What the figures do not tell: intervals, speed, the index, and what failed."""
    lines = [f"in brackets: {100 * evaluation.confidence:g} % bootstrap intervals over queries"]
    if speed := evaluation.speed:
        lines.append(
            f"{speed.queries_a_second:,.0f} queries a second; one alone {few(speed.ms_a_query)} ms: "
            f"{few(speed.encode_ms)} embedding, {few(speed.search_ms)} exact search"
        )
    if index := evaluation.index:
        lines.append(
            f"{index.index} over {index.rows:,} rows in Milvus: recall@10 of the exact best "
            f"{shown(index.recall)}; {index.queries_a_second:,.0f} queries a second, "
            f"one search alone {few(index.search_ms)} ms"
        )
        if index.missing:
            lines.append(f"{len(index.missing):,} images are not in the collection and count as not found")
    if evaluation.cut:
        lines.append(f"{evaluation.cut:,} texts are longer than the model reads and were cut")
    if evaluation.failed:
        lines.append(f"{len(evaluation.failed):,} failed; what could not be embedded counts as not found")
        lines += [f"  {printable(one.reason, 300)}" for one in evaluation.failed[:FAILURES_SHOWN]]
        if (more := len(evaluation.failed) - FAILURES_SHOWN) > 0:
            lines.append(f"  ... and {more:,} more")
    return lines


def few(value: float) -> str:
    """A time to two digits, and whole from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def text(evaluation: Evaluation) -> str:
    """See :meth:`Evaluation.__str__`."""
    return str(grid(evaluation))


def html(evaluation: Evaluation) -> str:
    """See :meth:`Evaluation._repr_html_`."""
    return as_html([grid(evaluation)])


def as_html(grids: Sequence[Grid], figure: str = "") -> str:
    """A part of a page with tables.

    :param figure: an image as a data URI; empty without one.
    """
    return fragment(TEMPLATE, grids=grids, figure=figure, views=[])


def save_page(
    evaluations: Sequence[Evaluation],
    path: str | os.PathLike[str],
    title: str = "",
    grids: Sequence[Grid] = (),
    figure: str = "",
) -> Path:
    """A page of tables, and of the worst misses of one evaluation.

    :param grids: tables above those of the evaluations.
    """
    tables = [*grids, *map(grid, evaluations)]
    missed = evaluations[0].misses if len(evaluations) == 1 and _has_misses(evaluations[0]) else []
    views = [view(hits, None, None) for hits in missed]
    return save(path, page(TEMPLATE, title, window="Evaluation", grids=tables, figure=figure, views=views))


def _has_misses(evaluation: Evaluation) -> bool:
    return "text->image" in evaluation.directions


def frame(evaluation: Evaluation) -> pd.DataFrame:
    """See :meth:`Evaluation.to_pandas`."""
    import pandas as pd

    rows = [
        (way, "exact", *_row(metric), direction.queries)
        for way, direction in evaluation.directions.items()
        for metric in direction.metrics.values()
    ]
    if (index := evaluation.index) is not None:
        queries = len(index.per_query["R@1"])
        metrics = [*index.metrics.values(), index.recall]
        rows += [("text->image", index.index, *_row(metric), queries) for metric in metrics]
    columns = ["direction", "search", "metric", "value", "low", "high", "queries"]
    return pd.DataFrame(rows, columns=columns)


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """See :meth:`Evaluation.as_dict`."""
    speed, index, space = evaluation.speed, evaluation.index, evaluation.space
    pairs = evaluation.pairs
    return {
        "label": evaluation.label,
        "model_name": evaluation.model_name,
        "running": evaluation.running,
        "weights": space.weights if space else None,
        "pairs": {
            "name": pairs.name,
            "digest": pairs.digest,
            "texts": len(pairs.texts),
            "pictures": len(pairs.pictures),
            "dataset": pairs.dataset,
            "split": pairs.split,
        },
        "confidence": evaluation.confidence,
        "directions": {
            way: {"queries": one.queries, "metrics": _metrics(one.metrics.values())}
            for way, one in evaluation.directions.items()
        },
        "speed": speed
        and {
            "queries_a_second": _number(speed.queries_a_second),
            "ms_a_query": _number(speed.ms_a_query),
            "encode_ms": _number(speed.encode_ms),
            "search_ms": _number(speed.search_ms),
        },
        "index": index
        and {
            "index": index.index,
            "uri": index.uri,
            "collection_name": index.collection_name,
            "rows": index.rows,
            "missing": list(index.missing),
            "metrics": _metrics([*index.metrics.values(), index.recall]),
            "queries_a_second": _number(index.queries_a_second),
            "search_ms": _number(index.search_ms),
        },
        "cut": evaluation.cut,
        "failed": [
            {"path": one.path, "stage": getattr(one.reason, "stage", ""), "reason": str(one.reason)}
            for one in evaluation.failed
        ],
    }


def _metrics(metrics: Any) -> dict[str, Any]:
    return {
        one.name: {"value": _number(one.value), "low": _number(one.low), "high": _number(one.high)}
        for one in metrics
    }


def _row(metric: Metric) -> tuple[str, float, float, float]:
    return metric.name, metric.value, metric.low, metric.high


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else value
