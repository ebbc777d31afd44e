"""What an evaluation found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.evaluate import report
from t2i_pipelines.evaluate.directions import TEXT_TO_IMAGE, Direction
from t2i_pipelines.evaluate.index import IndexFigures
from t2i_pipelines.evaluate.metrics import Metric
from t2i_pipelines.evaluate.misses import worst
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.search.results import ManyHits
from t2i_pipelines.types import Outcome, Space

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


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
class Evaluation:
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
        """The worst misses of text->image: the queries whose right image comes last, the worst first.

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
        """A row for each figure.

        :return: columns ``direction``, ``search`` (``exact``, or the type of the index), ``metric``,
            ``value``, ``low``, ``high`` (float64; shares 0 to 1, ranks from 1) and ``queries``.
        """
        return report.frame(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything but single queries, of JSON's types; what is not a number is None."""
        return report.as_dict(self)

    def __str__(self) -> str:
        return report.text(self)

    def __repr__(self) -> str:
        return report.text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures as a table, and what failed."""
        return report.html(self)

    def save_html(self, path: str | os.PathLike[str], title: str = "") -> Path:
        """Write a page that needs nothing else: the figures, and the worst misses with their images.

        :return: where it is.
        """
        return report.save_page([self], path, title)
