"""From vectors to hits."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.operators.milvus import InCollection
from t2i_pipelines.relevance import rate
from t2i_pipelines.results import Hits
from t2i_pipelines.search_options import SearchOptions

OPTIONS = frozenset(one.name for one in fields(SearchOptions))


class MilvusSearch(InCollection):
    """``ops.t2i.milvus_search``: a vector, or a list of vectors -> hits, best first.

    :param arguments: those of :class:`~t2i_pipelines.search_options.SearchOptions`, and the collection's.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{name: value for name, value in arguments.items() if name not in OPTIONS})
        self.options = SearchOptions(**{name: arguments[name] for name in OPTIONS & arguments.keys()})

    def __call__(self, vectors: Any, queries: Any = None) -> Hits | list[Hits]:
        """(D,) float32 -> hits; N vectors -> N lists of hits. ``[]`` where nothing is stored.

        :param queries: what each vector was made of, for ``Hits.query``.
        :raises ModelMismatchError: If another model made the collection.
        """
        if not len(vectors):
            return []
        matrix = np.atleast_2d(np.asarray(vectors, np.float32))
        found = [Hits() for _ in matrix]
        if self.collection.verify(self.space):
            options = self.options
            rows = self.collection.search(
                matrix, limit=options.limit, filter=options.filter, output_fields=options.output_fields
            )
            found = [Hits(hits) for hits in rows]
        single = np.ndim(vectors) == 1
        for hits, query in zip(found, [queries] if single else queries or [], strict=False):
            hits.query = query
        rate(found, matrix, self.options, self.collection, lambda: load_encoder(*self._model))
        return found[0] if single else found
