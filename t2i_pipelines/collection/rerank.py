"""Choosing among ranked hits: one of a group, one of those alike, and those that differ.

Each choice depends on those before it only. So the first n are the same however many are asked for, and a
page is a part of every longer list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from t2i_pipelines.types import Hit, Matrix, Vector

POOL, POOL_RATIO = 50, 5
"""The n-th of different hits is chosen among the best 5 n that are left, at least 50: LangChain's
``max_marginal_relevance_search`` takes 20 for 4."""

A_READ = 128
"""Vectors that are looked up at a time."""

VectorsOf = Callable[[Sequence[str]], dict[str, Vector]]
"""Looks up stored vectors by id."""


class Placed(NamedTuple):
    """A hit and its unit vector."""

    hit: Hit
    vector: Vector


def in_range(hits: Iterable[Hit], radius: float | None, range_filter: float | None) -> Iterator[Hit]:
    """Hits with ``radius < score <= range_filter``; ``hits`` come by score."""
    for hit in hits:
        if radius is not None and hit.score <= radius:
            return
        if range_filter is None or hit.score <= range_filter:
            yield hit


def one_of_each(hits: Iterable[Hit], name: str) -> Iterator[Hit]:
    """Yield the best hit for each value of a field. One that has no such field has no group."""
    seen: set[Any] = set()
    for hit in hits:
        value = getattr(hit, name) if name in ("id", "path") else hit.fields.get(name)
        key = json.dumps(value, sort_keys=True)
        if value is None or key not in seen:
            seen.add(key)
            yield hit


def placed(hits: Iterable[Hit], vectors_of: VectorsOf) -> Iterator[Placed]:
    """Return hits with their vectors, without those deleted meanwhile."""
    rest = iter(hits)
    while some := list(islice(rest, A_READ)):
        vectors = vectors_of([hit.id for hit in some])
        yield from (Placed(hit, vectors[hit.id]) for hit in some if hit.id in vectors)


def unlike(hits: Iterable[Placed], threshold: float) -> Iterator[Placed]:
    """Skip each hit that has a cosine of at least ``threshold`` to one that was given before."""
    given = Rows()
    for one in hits:
        if not len(given) or not (given.matrix @ one.vector >= threshold).any():
            given.append(one.vector)
            yield one


def different(hits: Iterable[Placed], diversity: float) -> Iterator[Placed]:
    """Maximal marginal relevance: each time, what is like the query and unlike what was chosen before.

    From the candidates R and those chosen before, S, it takes the d that maximises ::

        MMR = lambda * sim(d, q) - (1 - lambda) * max[d' in S] sim(d, d'),    lambda = 1 - diversity

    with sim the cosine; the first is the best hit (Carbonell and Goldstein, The Use of MMR, Diversity-Based
    Reranking for Reordering Documents and Producing Summaries, SIGIR 1998). Of equal ones the better ranked
    is taken.
    """
    rest, pool, vectors, chosen = iter(hits), list[Hit](), Rows(), Rows()
    scores = closest = np.empty(0)
    taken = np.empty(0, bool)
    for number in count(1):
        wanted = max(POOL, POOL_RATIO * number) + number - 1 - len(pool)
        if fresh := list(islice(rest, max(0, wanted))):
            pool += [one.hit for one in fresh]
            added = vectors.append(*(one.vector for one in fresh))
            scores = np.append(scores, [one.hit.score for one in fresh])
            alike = (added @ chosen.matrix.T).max(axis=1) if number > 1 else np.zeros(len(fresh))
            closest = np.append(closest, alike)
            taken = np.append(taken, np.zeros(len(fresh), bool))
        if taken.all():
            return
        relevance = np.where(taken, -np.inf, (1 - diversity) * scores - diversity * closest)
        at = int(np.argmax(relevance))
        taken[at] = True
        vector = vectors.matrix[at]
        chosen.append(vector)
        alike = vectors.matrix @ vector
        closest = np.maximum(closest, alike) if number > 1 else alike
        yield Placed(pool[at], vector)


class Rows:
    """A matrix that grows."""

    def __init__(self) -> None:
        self._rows: Matrix = np.empty((0, 0), np.float32)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def matrix(self) -> Matrix:
        """(N, D) float32 so far."""
        return self._rows[: self._used]

    def append(self, *vectors: Vector) -> Matrix:
        """Add rows; gives them as a matrix."""
        new = np.stack(vectors)
        if self._used + len(new) > len(self._rows):
            larger = np.empty((2 * (self._used + len(new)), new.shape[1]), np.float32)
            larger[: self._used] = self._rows[: self._used].reshape(-1, new.shape[1])
            self._rows = larger
        self._rows[self._used : self._used + len(new)] = new
        self._used += len(new)
        return new
