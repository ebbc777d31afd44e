"""Groups of vectors that are alike, over a whole collection."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Matrix

ALIKE = 0.94
"""The cosine from which clip-retrieval takes two pictures for the same (``connected_components_dedup``)."""

A_BLOCK = 2048
"""Vectors that are compared with as many others at a time: 16 MB of cosines."""


class Member(NamedTuple):
    """A stored picture."""

    id: str
    path: str


def groups(pages: Iterable[Sequence[Mapping[str, Any]]], dim: int, threshold: float) -> list[list[Member]]:
    """Connected components of two and more: each member has a cosine of at least ``threshold`` to another.

    :param pages: rows with id, path and vector (dim,).
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
        roots = components(np.memmap(file, np.float32, "r", shape=(len(members), dim)), threshold)
    found: dict[int, list[Member]] = defaultdict(list)
    for member, root in zip(members, roots.tolist(), strict=True):
        found[root].append(member)
    alike = [sorted(group, key=lambda one: (one.path, one.id)) for group in found.values() if len(group) > 1]
    return sorted(alike, key=lambda group: (-len(group), group[0].path, group[0].id))


def components(vectors: Matrix, threshold: float) -> NDArray[np.int64]:
    """(N, D) unit vectors -> (N,) for each the number of one that stands for all of its component."""
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
