"""One way of asking: which queries, what they found, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.evaluate.metrics import DEPTH, Bootstrap, Metric, in_order, judged
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.evaluate.ranks import Ranking, rank_units
from t2i_pipelines.types import Matrix

Way: TypeAlias = Literal["text->image", "image->text", "image->image"]
"""``image->image``: images of one class are right for each other; an image does not look for itself."""

TEXT_TO_IMAGE: Way = "text->image"
DEFAULT: tuple[Way, ...] = (TEXT_TO_IMAGE, "image->text")


@dataclass(frozen=True)
class Embedded:
    """The vectors of what could be embedded.

    :ivar vectors: (M, D) float32 of length 1.
    :ivar numbers: (M,) which of all each is, rising.
    :ivar total: how many there are with those that failed.
    """

    vectors: Matrix
    numbers: NDArray[np.int64]
    total: int

    @classmethod
    def whole(cls, vectors: Matrix) -> Embedded:
        """Nothing failed."""
        return cls(vectors, np.arange(len(vectors)), len(vectors))


@dataclass(frozen=True)
class Direction:
    """One way of asking, with its figures.

    A query that could not be embedded, or whose right ones all failed, counts as a miss: its figures are 0,
    and its rank is one beyond the last.

    :ivar name: ``text->image``, ``image->text`` or ``image->image``.
    :ivar numbers: (Q,) which text or image of the pairs each query is.
    :ivar right: for each query the numbers of what is right.
    :ivar metrics: by name, in the order of :data:`~t2i_pipelines.evaluate.METRICS`.
    :ivar per_query: name -> (Q,) float64: the figure of each query.
    :ivar found: (Q, 10) numbers of the best, best first; -1 where nothing was found.
    :ivar scores: (Q, 10) their cosines.
    :ivar ranks: (Q,) rank of the best right one, from 1.
    :ivar best: (Q,) number of the best right one; -1 where there is none.
    :ivar best_scores: (Q,) its cosine; NaN where there is none.
    """

    name: Way
    numbers: NDArray[np.int64]
    right: Sequence[Sequence[int]]
    metrics: Mapping[str, Metric]
    per_query: Mapping[str, NDArray[np.float64]]
    found: NDArray[np.int64]
    scores: NDArray[np.float64]
    ranks: NDArray[np.int64]
    best: NDArray[np.int64]
    best_scores: NDArray[np.float64]

    def __getitem__(self, name: str) -> Metric:
        """One figure.

        :raises ConfigError: If there is none of this name; lists those that there are.
        """
        if name not in self.metrics:
            raise ConfigError(f"no figure is called {name!r}; there are {', '.join(self.metrics)}")
        return self.metrics[name]

    @property
    def queries(self) -> int:
        """How many queries were asked."""
        return len(self.numbers)


def check_ways(ways: Sequence[str], pairs: Pairs) -> tuple[Way, ...]:
    """Check which ways are asked for.

    :raises ConfigError: If one is unknown, or needs classes that the pairs do not have.
    """
    known = get_args(Way)
    if isinstance(ways, str) or not ways or not set(ways) <= set(known):
        raise ConfigError(f"directions must be some of {', '.join(known)}, got {ways!r}")
    if "image->image" in ways and not _alike(pairs):
        raise ConfigError(
            f"image->image needs classes of two and more images, and {pairs.name} has none; "
            "give class folders, or a column `class`"
        )
    return tuple(way for way in known if way in ways)


def measure(way: Way, pairs: Pairs, texts: Embedded, pictures: Embedded, bootstrap: Bootstrap) -> Direction:
    """Ask one way, exactly."""
    if way == TEXT_TO_IMAGE:
        return _asked(way, dict(enumerate(pairs.shown)), texts, pictures, bootstrap)
    if way == "image->text":
        told: dict[int, list[int]] = {number: [] for number in range(len(pairs.pictures))}
        for text, right in enumerate(pairs.shown):
            for number in right:
                told[number].append(text)
        return _asked(way, {one: some for one, some in told.items() if some}, pictures, texts, bootstrap)
    return _asked(way, _alike(pairs), pictures, pictures, bootstrap)


def _alike(pairs: Pairs) -> dict[int, list[int]]:
    """For each image the others of its class, where there are any."""
    members: dict[str, list[int]] = {}
    for number, kind in enumerate(pairs.classes or ()):
        members.setdefault(kind, []).append(number)
    others = {
        number: [other for other in members[kind] if other != number]
        for number, kind in enumerate(pairs.classes or ())
    }
    return {number: some for number, some in others.items() if some}


def _asked(
    way: Way, wanted: Mapping[int, Sequence[int]], queries: Embedded, gallery: Embedded, bootstrap: Bootstrap
) -> Direction:
    asked = np.array(sorted(wanted))
    right = [wanted[number] for number in asked.tolist()]
    place = {number: at for at, number in enumerate(gallery.numbers.tolist())}
    row = {number: at for at, number in enumerate(queries.numbers.tolist())}
    within = [[place[one] for one in some if one in place] for some in right]
    can = [at for at, number in enumerate(asked.tolist()) if number in row and within[at]]
    searched = [row[int(asked[at])] for at in can]
    blank = _nothing(len(asked), gallery.total + 1)
    if can:
        ranking = rank_units(
            queries.vectors[searched],
            gallery.vectors,
            [within[at] for at in can],
            DEPTH,
            without=np.array(searched) if queries is gallery else None,
        )
        _put(blank, np.array(can), ranking, gallery.numbers)
    is_lost = blank.best < 0
    found = [some[some >= 0].tolist() for some in blank.found]
    values = judged(found, right)
    values["MRR"] = np.where(is_lost, 0.0, 1 / blank.first)
    values["median rank"] = blank.first.astype(np.float64)
    return Direction(
        way,
        asked,
        right,
        MappingProxyType({name: bootstrap.metric(name, some) for name, some in in_order(values).items()}),
        MappingProxyType(in_order(values)),
        blank.found,
        blank.scores,
        blank.first,
        blank.best,
        blank.best_scores,
    )


def _nothing(queries: int, last: int) -> Ranking:
    return Ranking(
        np.full(queries, last),
        np.full((queries, DEPTH), -1),
        np.full((queries, DEPTH), np.nan),
        np.full(queries, -1),
        np.full(queries, np.nan),
    )


def _put(blank: Ranking, rows: NDArray[np.int64], ranking: Ranking, numbers: NDArray[np.int64]) -> None:
    depth = ranking.found.shape[1]
    blank.first[rows] = ranking.first
    blank.found[rows[:, None], np.arange(depth)] = numbers[ranking.found]
    blank.scores[rows[:, None], np.arange(depth)] = ranking.scores
    blank.best[rows] = numbers[ranking.best]
    blank.best_scores[rows] = ranking.best_scores
