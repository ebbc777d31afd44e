"""Quality against milliseconds a query."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from t2i_pipelines.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from t2i_pipelines.evaluate.table import EvaluationTable

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
    """The plot as a PNG in a data URI; empty where matplotlib is not installed."""
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
        raise MissingExtraError(
            "matplotlib is not installed; run: pip install 't2i-pipelines[eval]'"
        ) from err
    figure, axes = pyplot.subplots(figsize=(8.5, 4.5), layout="constrained")
    pyplot.close(figure)  # it is returned; a notebook would show it twice
    return axes
