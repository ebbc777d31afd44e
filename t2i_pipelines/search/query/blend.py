"""Queries on their way to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from t2i_pipelines.search.query.algebra import Query

Work = Callable[[list[Any]], Sequence[Any]]
"""N operands -> N results, in order."""


class Blend(NamedTuple):
    """A query and what has become of its operands.

    :ivar query: what was asked.
    :ivar items: for each of ``query.terms`` a text, an image (H, W, 3) uint8, or a vector (D,) float32.
    """

    query: Query
    items: tuple[Any, ...]


def each_operand(queries: Sequence[Any], work: Work) -> list[Any]:
    """Let ``work`` replace the operands of all queries at once; what is no :class:`Blend` is one operand."""
    operands = [one for query in queries for one in (query.items if isinstance(query, Blend) else (query,))]
    done = iter(work(operands))
    return [
        Blend(query.query, tuple(islice(done, len(query.items)))) if isinstance(query, Blend) else next(done)
        for query in queries
    ]


def replaced(operands: Sequence[Any], chosen: Callable[[Any], bool], work: Work) -> list[Any]:
    """Let ``work`` replace those operands that are ``chosen``, at once."""
    result = list(operands)
    places = [at for at, one in enumerate(operands) if chosen(one)]
    if places:
        for at, new in zip(places, work([operands[at] for at in places]), strict=True):
            result[at] = new
    return result
