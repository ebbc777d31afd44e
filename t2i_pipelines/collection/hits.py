"""From query vectors to a search request, and from its answer to hits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.collection.schema import search_params
from t2i_pipelines.collection.vectors import check_vectors
from t2i_pipelines.errors import ConfigError, VectorError
from t2i_pipelines.hit import Hit
from t2i_pipelines.search_options import MAX_LIMIT
from t2i_pipelines.types import Matrix

HITS_A_CALL = 65536


def check_limit(limit: int) -> None:
    """Pass if Milvus can return that many.

    :raises ConfigError: If not.
    """
    whole = isinstance(limit, int | np.integer) and not isinstance(limit, bool)
    if not whole or not 1 <= limit <= MAX_LIMIT:
        raise ConfigError(f"limit must be between 1 and {MAX_LIMIT}, got {limit!r}")


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
    queries: Matrix, limit: int, filter: str, output_fields: Sequence[str], entry: Entry | None
) -> dict[str, Any]:
    """Arguments of ``MilvusClient.search``. Everything is said: defaults differ between engines."""
    index_type = entry.index_type if entry else ""
    fields = [field for field in output_fields if field != "id"]
    return {
        "data": list(queries),
        "anns_field": "vector",
        "limit": int(limit),
        "filter": filter,
        "output_fields": list(dict.fromkeys(["path", *fields])),
        "search_params": {
            "metric_type": "COSINE",
            "params": search_params(index_type, int(limit)),
        },
    }


def from_answer(answer: Any, queries: int, output_fields: Sequence[str]) -> list[list[Hit]]:
    """What ``MilvusClient.search`` returned, as hits; None, without collection, as no hits."""
    if answer is None:
        return [[] for _ in range(queries)]
    return [[_hit(found, output_fields) for found in one] for one in answer]


def _hit(found: Mapping[str, Any], output_fields: Sequence[str]) -> Hit:
    entity = dict(found["entity"])
    stored = [key for key in entity if key not in ("vector", "$meta")]
    wanted = [key for name in output_fields for key in (stored if name == "*" else [name])]
    fields = {
        key: np.asarray(entity[key], np.float32) if key == "vector" else entity[key]
        for key in dict.fromkeys(wanted)
        if key not in ("id", "path") and entity.get(key) is not None
    }
    score = min(1.0, max(-1.0, float(found["distance"])))  # float32 sums end a little beyond
    return Hit(str(found["id"]), score, entity["path"], fields)
