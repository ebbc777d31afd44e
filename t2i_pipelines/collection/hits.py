"""From query vectors to a search request, and from its answer to hits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t2i_pipelines.collection.vectors import check_vectors
from t2i_pipelines.errors import VectorError
from t2i_pipelines.types import Hit, Matrix

HITS_A_CALL = 65536


def check_queries(vectors: Matrix, dim: int | None) -> Matrix:
    """(N, D) as float32.

    :param dim: None if there is no collection: then any length goes.
    :raises VectorError: If a query is not finite, zero, or not (dim,).
    """
    shape = np.shape(vectors)
    if len(shape) != 2:
        raise VectorError(f"search takes queries of shape (N, D), got {shape}")
    names = [f"query {number}" for number in range(shape[0])]
    return check_vectors(list(vectors), names, shape[1] if dim is None else dim)


def portions(queries: Matrix, limit: int) -> Iterator[Matrix]:
    """The queries in order, as many a call as keep its answer small."""
    step = max(1, min(1024, HITS_A_CALL // int(limit)))
    for start in range(0, len(queries), step):
        yield queries[start : start + step]


def request(
    queries: Matrix, limit: int, output_fields: Sequence[str], params: Mapping[str, int]
) -> dict[str, Any]:
    """Arguments of ``MilvusClient.search``, but for the filter. Everything is said: defaults differ.

    :param params: how deep the index is searched.
    """
    fields = [field for field in output_fields if field != "id"]
    return {
        "data": list(queries),
        "anns_field": "vector",
        "limit": int(limit),
        "output_fields": list(dict.fromkeys(["path", *fields])),
        "search_params": {"metric_type": "COSINE", "params": dict(params)},
    }


def from_answer(answer: Any, queries: int, output_fields: Sequence[str]) -> list[list[Hit]]:
    """What ``MilvusClient.search`` returned, as hits; None, without collection, as no hits."""
    if answer is None:
        return [[] for _ in range(queries)]
    return [
        [hit(str(found["id"]), found["distance"], found["entity"], output_fields) for found in one]
        for one in answer
    ]


def hit(id: str, score: float, row: Mapping[str, Any], output_fields: Sequence[str]) -> Hit:
    """A hit from the fields of its row.

    :param output_fields: those that the hit shall show, ``*`` for all but the vector.
    """
    score = min(1.0, max(-1.0, float(score)))  # float32 sums end a little beyond
    return Hit(id, score, row["path"], _fields(row, output_fields) if output_fields else None)


def _fields(row: Mapping[str, Any], output_fields: Sequence[str]) -> dict[str, Any]:
    row = dict(row)
    stored = [key for key in row if key not in ("vector", "$meta")]
    wanted = [key for name in output_fields for key in (stored if name == "*" else [name])]
    return {
        key: np.asarray(row[key], np.float32) if key == "vector" else row[key]
        for key in dict.fromkeys(wanted)
        if key not in ("id", "path") and row.get(key) is not None
    }
