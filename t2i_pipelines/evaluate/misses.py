"""The worst misses, as lists of hits."""

from __future__ import annotations

import numpy as np

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.evaluate.directions import Direction
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.images import path_key
from t2i_pipelines.search.results import Hits, ManyHits
from t2i_pipelines.types import Hit


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
                pairs.pictures[min(right)],
                {"rank": "failed", "right": "yes"},
            )
        )
    elif rank > shown:
        hits.append(_hit(pairs, best, float(direction.best_scores[at]), rank, True))
    return Hits(hits, query=pairs.texts[int(direction.numbers[at])])


def _hit(pairs: Pairs, number: int, score: float, rank: int, is_right: bool) -> Hit:
    fields = {"rank": rank, **({"right": "yes"} if is_right else {})}
    return Hit(*_named(pairs, number), score, pairs.pictures[number], fields)


def _named(pairs: Pairs, number: int) -> tuple[str]:
    return (path_key(pairs.pictures[number]),)
