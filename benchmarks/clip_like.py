"""Unit vectors that lie as those of CLIP do, any number of them, for measuring engines on.

The recipe: 500 kinds of images have centres in 48 directions that matter less and less (the scale of
direction r is r to the power of -0.3). An image is the centre of its kind plus its own deviation, 0.55 times
as large, in the same directions. Of its squared length, 0.25 is one direction that all images share (CLIP's
vectors lie in a cone), 0.55 are those directions, mapped to 512 dimensions at random, and 0.20 is noise.
Words are made in the same way around a shared direction of their own, at right angles to that of images:
the gap between the two that CLIP has. It is what makes indexes miss more for words than for images.

They are not CLIP's. What an index takes in time, memory and disk hardly depends on the vectors; what it
misses does, so recall on them is a hint.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DIM, DIRECTIONS, KINDS = 512, 48, 500
SHARED, MEANT, NOISE = 0.25, 0.55, 0.20
DEVIATION, DECAY = 0.55, -0.3
A_CHUNK = 10_000
SEED = 8

Matrix = NDArray[np.float32]


class ClipLike:
    """The same images and words every time: chunk ``n`` of the images depends on ``n`` alone."""

    def __init__(self, dim: int = DIM) -> None:
        random = np.random.default_rng(SEED)
        self.dim = dim
        self._scales = np.arange(1, DIRECTIONS + 1, dtype=np.float32) ** DECAY
        self._map = _normal(random, DIRECTIONS, dim)
        self._pictures, self._words = np.linalg.qr(_normal(random, dim, 2))[0].T
        self._kinds = _normal(random, KINDS, DIRECTIONS) * self._scales

    def chunks(self, first: int, last: int) -> Iterator[tuple[int, Matrix]]:
        """Images from one number to before another, in pieces of at most 10,000: (number, (N, D))."""
        for chunk in range(first // A_CHUNK, -(-last // A_CHUNK)):
            begin = chunk * A_CHUNK
            whole = self._made(np.random.default_rng([SEED, chunk]), A_CHUNK, self._pictures)
            since, until = max(first, begin), min(last, begin + A_CHUNK)
            yield since, whole[since - begin : until - begin]

    def pictures(self, count: int) -> Matrix:
        """(count, D) further images, for queries."""
        return self._made(np.random.default_rng([SEED, 0, 1]), count, self._pictures)

    def words(self, count: int) -> Matrix:
        """(count, D) words, for queries."""
        return self._made(np.random.default_rng([SEED, 0, 2]), count, self._words)

    def _made(self, random: np.random.Generator, count: int, shared: Matrix) -> Matrix:
        kinds = self._kinds[random.integers(0, KINDS, count)]
        own = _normal(random, count, DIRECTIONS) * self._scales
        meant = _unit((kinds + np.float32(DEVIATION) * own) @ self._map)
        noise = _unit(_normal(random, count, self.dim))
        weights = np.sqrt(np.asarray([SHARED, MEANT, NOISE], np.float32))
        return _unit(weights[0] * shared + weights[1] * meant + weights[2] * noise)


class Truth:
    """The ten best for each query by exact comparison, kept up while rows are added."""

    def __init__(self, queries: Matrix, limit: int = 10) -> None:
        self._queries, self._limit = queries, limit
        self._scores = np.empty((len(queries), 0), np.float32)
        self._numbers = np.empty((len(queries), 0), np.int64)

    def add(self, first: int, vectors: Matrix) -> None:
        """Compare further rows, numbered from ``first``."""
        fresh = np.tile(np.arange(first, first + len(vectors)), (len(self._queries), 1))
        scores = np.hstack([self._scores, self._queries @ vectors.T])
        numbers = np.hstack([self._numbers, fresh])
        best = np.argpartition(-scores, self._limit, axis=1)[:, : self._limit]
        self._scores = np.take_along_axis(scores, best, axis=1)
        self._numbers = np.take_along_axis(numbers, best, axis=1)

    def recall(self, found: list[list[int]]) -> float:
        """Share of the best that were found."""
        right = [len(set(some) & set(best)) for some, best in zip(found, self._numbers.tolist(), strict=True)]
        return sum(right) / self._numbers.size


def _normal(random: np.random.Generator, *shape: int) -> Matrix:
    return random.standard_normal(shape, dtype=np.float32)


def _unit(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
