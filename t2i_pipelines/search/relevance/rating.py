"""Relevance on hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from t2i_pipelines.collection import Collection
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.search.query import Q, Query
from t2i_pipelines.search.relevance.calibration import NO_MATCH, Calibration
from t2i_pipelines.search.relevance.keeping import calibration_of
from t2i_pipelines.search.results import Hits
from t2i_pipelines.types import Encoder, Matrix, Vector


def rate(
    found: Sequence[Hits],
    vectors: Matrix,
    options: SearchOptions,
    collection: Collection,
    encoder: Callable[[], Encoder],
) -> None:
    """Give hits their relevance, leave out those below ``min_relevance``, and tell if nothing matches.

    Words are calibrated, and sums of words. Where an image or a stored vector has a part, or a minus, the
    cosines are of another kind: such hits have no relevance, and none of them is left out.

    :param found: the hits of each query, which know it; changed in place.
    :param vectors: (N, D) float32.
    :param encoder: gives the model.
    """
    words = [(hits, vector) for hits, vector in zip(found, vectors, strict=True) if is_words(hits.query)]
    calibration = calibration_of(collection, encoder()) if words else None
    if calibration is not None:
        for hits, vector in words:
            _rate(hits, vector, options, calibration)


def is_words(query: object) -> bool:
    """Whether nothing but words was asked for, and nothing was taken away. A vector alone does not tell."""
    if isinstance(query, Query):
        return all(isinstance(operand, Q) and weight > 0 for weight, operand in query.terms)
    return isinstance(query, str)


def _rate(hits: Hits, vector: Vector, options: SearchOptions, calibration: Calibration) -> None:
    direction = vector / np.linalg.norm(vector)
    relevances = calibration.relevance(direction, [hit.score for hit in hits])
    for hit, relevance in zip(hits, relevances, strict=True):
        hit.relevance = relevance
    may_match = any(hit.relevance is not None and hit.relevance >= NO_MATCH for hit in hits)
    # of a later page the best hit may be on the first
    hits.no_match = None if options.offset and not may_match else not may_match
    hits[:] = [hit for hit in hits if hit.relevance is None or hit.relevance >= options.min_relevance]
