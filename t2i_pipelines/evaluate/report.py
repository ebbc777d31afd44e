"""The result of an evaluation: figures, worst misses, and their text, table and page."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.evaluate.index import IndexFigures
from t2i_pipelines.evaluate.metrics import METRICS, Metric, shown
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.evaluate.reading import TEXT_TO_IMAGE, Direction
from t2i_pipelines.images import path_key
from t2i_pipelines.search.hits import Hits, ManyHits
from t2i_pipelines.search.render import fragment, page, printable, save
from t2i_pipelines.search.view import view
from t2i_pipelines.types import Hit, Outcome, Space

if TYPE_CHECKING:
    import pandas as pd

FAILURES_SHOWN = 10
TEMPLATE = "evaluation.html"


@dataclass(frozen=True)
class Grid:
    """A table as people read it.

    :ivar title: what it is about.
    :ivar table: cells as text; its index has the rows' names.
    :ivar notes: lines below.
    """

    title: str
    table: pd.DataFrame
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Columns side by side, the first to the left and the others to the right."""
        # pandas leaves two spaces between cells, and one where a head is the longest
        widths = [len(name) + 1 for name in self.table.columns]
        lines = [line.rstrip() for line in self.table.to_string(col_space=widths).splitlines()]
        return "\n".join([self.title, *lines, *self.notes])


class Tabular(ABC):
    """Figures that are shown as a table, as text and in a notebook."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The table as people read it."""

    def __str__(self) -> str:
        return str(self.grid)

    def __repr__(self) -> str:
        return str(self.grid)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table."""
        return fragment(TEMPLATE, grids=[self.grid], figure="", views=[])


def notes(evaluation: Evaluation) -> list[str]:
    """Return what the figures do not tell: intervals, speed, the index, and what failed."""
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
    """Return a time to two digits, and whole from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def save_page(
    evaluations: Sequence[Evaluation],
    path: str | os.PathLike[str],
    title: str = "",
    grids: Sequence[Grid] = (),
    figure: str = "",
) -> Path:
    """Return a page of tables, and of the worst misses of one evaluation.

    :param grids: tables above those of the evaluations.
    """
    tables = [*grids, *(one.grid for one in evaluations)]
    missed = (
        evaluations[0].misses if len(evaluations) == 1 and TEXT_TO_IMAGE in evaluations[0].directions else []
    )
    views = [view(hits, None, None) for hits in missed]
    return save(path, page(TEMPLATE, title, window="Evaluation", grids=tables, figure=figure, views=views))


def without_nan(value: Any) -> Any:
    """Return a value of JSON's types, with None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _metrics(metrics: Iterable[Metric]) -> dict[str, Any]:
    return {one.name: {"value": one.value, "low": one.low, "high": one.high} for one in metrics}


def worst(pairs: Pairs, direction: Direction, count: int, shown: int) -> ManyHits:
    """See :meth:`Evaluation.worst`; of equal ranks, the higher score of the wrong image comes first."""
    check_whole_number("count", count, 1000)
    check_whole_number("shown", shown, direction.found.shape[1])
    missed = np.flatnonzero(direction.ranks > 1)
    confident = np.nan_to_num(direction.scores[missed, 0], nan=-1.0)
    order = missed[np.lexsort((missed, -confident, -direction.ranks[missed]))]
    return ManyHits(_miss(pairs, direction, int(at), shown) for at in order[:count])


def _miss(pairs: Pairs, direction: Direction, at: int, shown: int) -> Hits:
    right = set(direction.right[at])
    hits = [
        _hit(pairs, number, score, rank, number in right)
        for rank, (number, score) in enumerate(
            zip(direction.found[at, :shown].tolist(), direction.scores[at, :shown].tolist(), strict=True), 1
        )
        if number >= 0
    ]
    best, rank = int(direction.best[at]), int(direction.ranks[at])
    if best < 0:
        hits.append(
            Hit(
                *_named(pairs, min(right)),
                0.0,
                pairs.images[min(right)],
                {"rank": "failed", "right": "yes"},
            )
        )
    elif rank > shown:
        hits.append(_hit(pairs, best, float(direction.best_scores[at]), rank, True))
    return Hits(hits, query=pairs.texts[int(direction.numbers[at])])


def _hit(pairs: Pairs, number: int, score: float, rank: int, is_right: bool) -> Hit:
    fields = {"rank": rank, **({"right": "yes"} if is_right else {})}
    return Hit(*_named(pairs, number), score, pairs.images[number], fields)


def _named(pairs: Pairs, number: int) -> tuple[str]:
    return (path_key(pairs.images[number]),)


@dataclass(frozen=True)
class Speed:
    """How fast queries are answered by the exact search, with embedding their texts.

    :ivar queries_a_second: many at once, 64 texts a pass.
    :ivar ms_a_query: milliseconds of one alone: ``encode_ms + search_ms``.
    :ivar encode_ms: of embedding one text, median of up to 32.
    :ivar search_ms: of comparing one vector with every image's, median of up to 32.
    """

    queries_a_second: float
    encode_ms: float
    search_ms: float

    @property
    def ms_a_query(self) -> float:
        """Milliseconds of one query alone."""
        return self.encode_ms + self.search_ms


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """How well a model finds the right images of some pairs. Made by :func:`evaluate`.

    :ivar label: what it is called in tables.
    :ivar model_name: as it was given; empty where vectors were.
    :ivar running: by what it was computed: backend, device, precision; empty if the model does not tell.
    :ivar space: what the vectors mean; None where vectors were given.
    :ivar pairs: what was asked and what is right.
    :ivar directions: name -> its figures.
    :ivar failed: images and texts that could not be embedded, and rows that were no pair; each with its
        reason. What could not be embedded counts as not found.
    :ivar cut: texts that are longer than the model reads, and were cut; None if the model does not tell.
    :ivar speed: None where vectors were given.
    :ivar index: the figures through Milvus; None unless asked for.
    :ivar confidence: of the intervals, 0 to 1.
    """

    label: str
    model_name: str
    running: str
    space: Space | None
    pairs: Pairs
    directions: Mapping[str, Direction]
    failed: tuple[Outcome, ...] = ()
    cut: int | None = None
    speed: Speed | None = None
    index: IndexFigures | None = None
    confidence: float = 0.95

    def __getitem__(self, asked: str | tuple[str, str]) -> Metric:
        """One figure: ``evaluation["R@5"]``, or ``evaluation["image->text", "R@5"]``.

        The name alone is that of text->image; without that direction, of the first.

        :raises ConfigError: If there is no such direction or figure; lists those that there are.
        """
        way, name = (self.main.name, asked) if isinstance(asked, str) else asked
        if way not in self.directions:
            raise ConfigError(f"nothing was asked {way!r}; there are {', '.join(self.directions)}")
        return self.directions[way][name]

    @property
    def main(self) -> Direction:
        """Text to image; without that, the first direction."""
        return self.directions.get(TEXT_TO_IMAGE) or next(iter(self.directions.values()))

    @cached_property
    def misses(self) -> ManyHits:
        """The ten worst misses of text->image as grids: what was found, then the right image."""
        return self.worst()

    def worst(self, count: int = 10, shown: int = 4) -> ManyHits:
        """Return the worst misses of text->image: the queries whose right image comes last, the worst first.

        Each is a list of hits: the best that was found, last the right image. Fields say ``rank``, and
        ``right`` for the right one. Queries that found a right image first are no misses.

        :param count: how many queries at most.
        :param shown: of each, how many that were found.
        :raises ConfigError: If nothing was asked text->image.
        """
        if TEXT_TO_IMAGE not in self.directions:
            asked = ", ".join(self.directions)
            raise ConfigError(f"misses are those of text->image, and only {asked} was asked")
        return worst(self.pairs, self.directions[TEXT_TO_IMAGE], count, shown)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each figure.

        :return: columns ``direction``, ``search`` (``exact``, or the type of the index), ``metric``,
            ``value``, ``low``, ``high`` (float64; shares 0 to 1, ranks from 1) and ``queries``.
        """
        import pandas as pd

        figures: list[tuple[str, str, Iterable[Metric], int]] = [
            (way, "exact", one.metrics.values(), one.queries) for way, one in self.directions.items()
        ]
        if (index := self.index) is not None:
            queries = len(index.per_query["R@1"])
            figures.append((TEXT_TO_IMAGE, index.index, [*index.metrics.values(), index.recall], queries))
        rows = [
            (way, search, one.name, one.value, one.low, one.high, queries)
            for way, search, metrics, queries in figures
            for one in metrics
        ]
        columns = ["direction", "search", "metric", "value", "low", "high", "queries"]
        return pd.DataFrame(rows, columns=columns)

    def as_dict(self) -> dict[str, Any]:
        """Everything but single queries, of JSON's types; what is not a number is None."""
        speed, index, pairs = self.speed, self.index, self.pairs
        told = {
            "label": self.label,
            "model_name": self.model_name,
            "running": self.running,
            "weights": self.space.weights if self.space else None,
            "pairs": {
                "name": pairs.name,
                "digest": pairs.digest,
                "texts": len(pairs.texts),
                "images": len(pairs.images),
                "dataset": pairs.dataset,
                "split": pairs.split,
            },
            "confidence": self.confidence,
            "directions": {
                way: {"queries": one.queries, "metrics": _metrics(one.metrics.values())}
                for way, one in self.directions.items()
            },
            "speed": speed and {**asdict(speed), "ms_a_query": speed.ms_a_query},
            "index": index
            and {
                "index": index.index,
                "uri": index.uri,
                "collection_name": index.collection_name,
                "rows": index.rows,
                "missing": index.missing,
                "metrics": _metrics([*index.metrics.values(), index.recall]),
                "queries_a_second": index.queries_a_second,
                "search_ms": index.search_ms,
            },
            "cut": self.cut,
            "failed": [
                {"path": one.path, "stage": getattr(one.reason, "stage", ""), "reason": str(one.reason)}
                for one in self.failed
            ],
        }
        return without_nan(told)  # type: ignore[no-any-return]

    @property
    def grid(self) -> Grid:
        """The figures: a row for each, a column for each way of asking; and what failed."""
        import pandas as pd

        columns = {way: direction.metrics for way, direction in self.directions.items()}
        if self.index is not None:
            columns[f"through {self.index.index}"] = self.index.metrics
        cells = {way: {one.name: shown(one) for one in found.values()} for way, found in columns.items()}
        table = pd.DataFrame(cells).reindex(METRICS).dropna(how="all").fillna("")
        running = f" by {self.running}" if self.running else ""
        return Grid(printable(f"{self.label}{running}, on {self.pairs}"), table, notes(self))

    def save_html(self, path: str | os.PathLike[str], title: str = "") -> Path:
        """Write a page that needs nothing else: the figures, and the worst misses with their images.

        :return: where it is.
        """
        return save_page([self], path, title)
