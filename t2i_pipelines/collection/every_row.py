"""All rows of a collection by an exact score, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Vector

Pages = Callable[[], Iterator[Sequence[Mapping[str, Any]]]]
"""Reads the collection again: pages of rows with id and vector."""

KEPT = 200_000
"""Rows that one pass through the collection puts in order."""


def cosines(page: Sequence[Mapping[str, Any]], query: Vector) -> NDArray[np.float64]:
    """(N,) of N rows. One row's does not depend on those beside it, as a matrix product's last bits do."""
    matrix = np.asarray([row["vector"] for row in page], np.float64)
    products = (matrix * query).sum(axis=1)
    return np.asarray(products / (np.sqrt((matrix * matrix).sum(axis=1)) * np.linalg.norm(query)))


def by_score(pages: Pages, query: Vector, passed_by: set[str]) -> Iterator[tuple[str, float]]:
    """Id and cosine of every row, best first, equal ones by id, but for ids that are ``passed_by``.

    Goes through the collection once for each ``KEPT`` rows that are asked for.
    """
    last = (-np.inf, "")
    while True:
        best: list[tuple[float, str]] = []
        for page in pages():
            found = zip((-cosines(page, query)).tolist(), (row["id"] for row in page), strict=True)
            best += (one for one in found if one > last and one[1] not in passed_by)
            if len(best) > 2 * KEPT:
                best = sorted(best)[:KEPT]
        best = sorted(best)[:KEPT]
        for score, id in best:
            yield id, -score
        if len(best) < KEPT:
            return
        last = best[-1]
