"""The hits of queries in an order that does not change with how many are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from t2i_pipelines.types import Hit, Matrix, Vector

Search = Callable[[Matrix, int, int], list[list[Hit]]]
"""(N, D) queries, how many hits, and how deep the index is to look for them -> N lists."""


@dataclass
class _Reading:
    """How far the hits of one query have been read.

    :ivar final: hits that will not change any more, in order.
    :ivar seen: their ids.
    :ivar rungs: how many rungs they took.
    :ivar whole: nothing is left.
    """

    query: Vector
    final: list[Hit] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    rungs: int = 0
    whole: bool = False

    def merged(self, answer: list[Hit]) -> list[Hit]:
        """The final hits, then the new ones by score, equal scores by id."""
        fresh = [hit for hit in answer if hit.id not in self.seen]
        return [*self.final, *sorted(fresh, key=lambda hit: (-hit.score, hit.id))]

    def settle(self, hits: list[Hit]) -> None:
        """Let nothing in front of these hits, nor between them."""
        self.final, self.seen = hits, {hit.id for hit in hits}


class Rankings:
    """The rows of a collection, ranked for each of some queries.

    An approximate index that is asked for more hits also looks deeper, and may find one that belongs further
    up. Then two pages would overlap. So it is asked for fixed numbers of hits, its rungs, and what a rung
    has given keeps its place: a page is the same part of every longer list. (Of rows with one score that end
    a rung, the index decides which belong to it.) Rows beyond the last rung, or that it cannot reach, follow
    by an exact comparison with every row.

    :param search: asks the index.
    :param rungs: numbers of hits, rising.
    :param exact: the index misses nothing.
    :param count: tells how many rows there are to be ranked.
    :param rest: all rows but those with these ids, by score.
    """

    def __init__(
        self,
        queries: Matrix,
        search: Search,
        *,
        rungs: Sequence[int],
        exact: bool,
        count: Callable[[], int],
        rest: Callable[[Vector, set[str]], Iterator[Hit]],
    ) -> None:
        self._readings = [_Reading(query) for query in queries]
        self._search, self._rungs, self._exact, self._count, self._rest = search, rungs, exact, count, rest

    def top(self, number: int) -> list[list[Hit]]:
        """The first ``number`` hits of each query, fewer only if there are no more rows."""
        for _ in self._rungs:
            if reading := [one for one in self._readings if not one.whole and len(one.final) < number]:
                self._climb(reading, number)
        for one in self._readings:
            if not one.whole and len(one.final) < number:
                one.final += islice(self._rest(one.query, one.seen), number - len(one.final))
        return [one.final[:number] for one in self._readings]

    def walks(self) -> list[Iterator[Hit]]:
        """The hits of each query for as long as they are asked for."""
        self._climb(self._readings, self._rungs[0])
        return [self._walk(reading) for reading in self._readings]

    def _walk(self, reading: _Reading) -> Iterator[Hit]:
        given = 0
        while True:
            yield from reading.final[given:]
            given = len(reading.final)
            if reading.whole:
                return
            if reading.rungs == len(self._rungs):
                break
            self._climb([reading], self._rungs[reading.rungs])
        yield from self._rest(reading.query, reading.seen)

    def _climb(self, readings: list[_Reading], number: int) -> None:
        """Read one rung further; all must be at the same. Of a rung that reaches ``number`` hits, no more."""
        size = self._rungs[readings[0].rungs]
        limit = min(size, number + 1)
        answers = self._search(np.stack([one.query for one in readings]), limit, size)
        for one, answer in zip(readings, answers, strict=True):
            one.rungs += 1
            hits, full = one.merged(answer), len(answer) == limit
            if full and limit < size and hits[number - 1].score == hits[-1].score:
                # which of several with one score came was chance: their ids decide
                (answer,) = self._search(one.query[None], size, size)
                hits, full = one.merged(answer), len(answer) == size
            one.settle(hits)
            one.whole = not full and (self._exact or len(hits) >= self._count())


def cached(ask: Callable[[], Any]) -> Callable[[], Any]:
    """``ask``, asked once and not before it is needed."""
    answers: list[Any] = []

    def first() -> Any:
        if not answers:
            answers.append(ask())
        return answers[0]

    return first
