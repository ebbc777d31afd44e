"""Groups of vectors that are alike, over a whole collection."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Matrix

NEARER = 5
"""How many times nearer than the usual nearest neighbour a near copy must be.

``python -m benchmarks.duplicates`` prints how many different images and how many copies it takes for copies.
"""

SAMPLE = 500
"""Rows whose nearest neighbour is looked for to find the usual distance."""

A_BLOCK = 2048
"""Vectors that are compared with as many others at a time: 16 MB of cosines."""


class Member(NamedTuple):
    """A stored image of a group.

    :ivar score: cosine to the nearest other of its group.
    """

    id: str
    path: str
    score: float = 1.0


def usual_threshold(vectors: Matrix) -> float:
    """Return the cosine from which two images of a collection count as near copies.

    Models differ in how near they put different images. So the distance, 1 - cosine, must be ``NEARER`` times
    smaller than the median distance of an image to its nearest neighbour, of a sample.

    :param vectors: (N, D), of unit length.
    """
    step = max(1, len(vectors) // SAMPLE)
    sample = np.asarray(vectors[::step])
    nearest = np.full(len(sample), -1.0, np.float32)
    for start in range(0, len(vectors), A_BLOCK):
        cosines = sample @ np.asarray(vectors[start : start + A_BLOCK]).T
        own = np.arange(len(sample)) * step - start
        inside = (own >= 0) & (own < cosines.shape[1])
        cosines[inside, own[inside]] = -1
        nearest = np.maximum(nearest, cosines.max(axis=1))
    return usual(nearest)


def usual(nearest: NDArray[Any]) -> float:
    """Return the threshold of :func:`usual_threshold`, of cosines that are known already.

    :param nearest: (N,) of each image of a sample to its nearest neighbour.
    """
    return min(1 - (1 - float(np.median(nearest))) / NEARER, 1 - 1e-4)


def groups(
    pages: Iterable[Sequence[Mapping[str, Any]]], dim: int, threshold: float | None = None
) -> list[list[Member]]:
    """Return connected components: each member has a cosine of at least ``threshold`` to another.

    :param pages: rows with id, path and vector (dim,).
    :param threshold: -1 to 1; without it :func:`usual_threshold`.
    :return: largest group first, then by the path of the first; members by path.
    """
    members: list[Member] = []
    with tempfile.TemporaryFile() as file:
        for page in pages:
            members += [Member(row["id"], row["path"]) for row in page]
            vectors = np.asarray([row["vector"] for row in page], np.float32)
            file.write((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tobytes())
        if not members:
            return []
        file.flush()
        stored = np.memmap(file, np.float32, "r", shape=(len(members), dim))
        if threshold is None:
            threshold = usual_threshold(stored) if len(members) > 1 else 1.0
        roots = components(stored, threshold)
        found: dict[int, list[int]] = defaultdict(list)
        for number, root in enumerate(roots.tolist()):
            found[root].append(number)
        alike = [_group(members, numbers, stored) for numbers in found.values() if len(numbers) > 1]
    return sorted(alike, key=lambda group: (-len(group), group[0].path, group[0].id))


def _group(members: Sequence[Member], numbers: list[int], vectors: Matrix) -> list[Member]:
    """Return the members of a group by path, each with its cosine to the nearest of as many as fit 16 MB."""
    most = max(2, min(A_BLOCK, (16 << 20) // (4 * vectors.shape[1])))
    some = np.asarray(vectors[numbers[:most]])
    found = []
    for place, number in enumerate(numbers):
        cosines = some @ np.asarray(vectors[number])
        if place < len(cosines):
            cosines[place] = -1
        found.append(members[number]._replace(score=float(cosines.max())))
    return sorted(found, key=lambda one: (one.path, one.id))


def components(vectors: Matrix, threshold: float) -> NDArray[np.int64]:
    """(N, D) unit vectors -> (N,) for each the representative of its component."""
    parents = np.arange(len(vectors))
    starts = range(0, len(vectors), A_BLOCK)
    for top in starts:
        rows = np.asarray(vectors[top : top + A_BLOCK])
        for left in starts[top // A_BLOCK :]:
            alike = rows @ np.asarray(vectors[left : left + A_BLOCK]).T >= threshold
            if top == left:
                np.fill_diagonal(alike, False)
            if alike.any():
                _join(parents, alike, top, left)
    return _roots(parents)


def _join(parents: NDArray[np.int64], alike: NDArray[np.bool_], top: int, left: int) -> None:
    """Put together what a block says is alike: there may be millions of pairs, and few of them tell more.

    So each time one pair of every row and one of every column are taken, and those that this joins are out.
    """
    while alike.any():
        rows, columns = np.flatnonzero(alike.any(axis=1)), np.flatnonzero(alike.any(axis=0))
        one = np.concatenate([rows, alike.argmax(axis=0)[columns]]) + top
        other = np.concatenate([alike.argmax(axis=1)[rows], columns]) + left
        for pair in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted(_root(parents, at) for at in pair)
            parents[high] = low
        roots = _roots(parents)
        height, width = alike.shape
        alike &= roots[top : top + height, None] != roots[None, left : left + width]


def _root(parents: NDArray[np.int64], at: int) -> int:
    while parents[at] != at:
        at = parents[at] = parents[parents[at]]
    return int(at)


def _roots(parents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of all at once."""
    while not np.array_equal(above := parents[parents], parents):
        parents[:] = above
    return parents
