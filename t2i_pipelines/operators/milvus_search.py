"""From vectors to hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from t2i_pipelines.collection import Collection
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.operators.milvus import InCollection
from t2i_pipelines.search.relevance import rate
from t2i_pipelines.search.results import Hits, ManyHits
from t2i_pipelines.search.results.hits import Again
from t2i_pipelines.types import Hit, Matrix, Vector

OPTIONS = frozenset(one.name for one in fields(SearchOptions))


class MilvusSearch(InCollection):
    """``ops.t2i.milvus_search``: a vector, or a list of vectors -> hits, best first.

    :param rated: give hits their relevance, which is known for words without templates.
    :param arguments: those of :class:`~t2i_pipelines.config.SearchOptions`, and the collection's.
    """

    def __init__(self, rated: bool = True, **arguments: Any) -> None:
        self._rated = rated
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
        if np.ndim(vectors) == 1:
            return self._find(matrix, [queries], self.options)[0]
        return ManyHits(self._find(matrix, queries or [None] * len(matrix), self.options))

    def iterate(self, vector: Vector, query: Any = None, batch_size: int = 1000) -> Iterator[Hits]:
        """(D,) float32 -> all hits, best first, in lists of ``batch_size``; see ``Collection.iterate``.

        :raises ModelMismatchError: If another model made the collection.
        :raises ConfigError: If an option is wrong.
        """
        collection = self.answering()
        there = collection.verify(self.space)
        pages = collection.iterate(vector, self.options, batch_size) if there else iter(())
        return self._pages(pages, vector, query, collection)

    def _pages(
        self, pages: Iterator[list[Hit]], vector: Vector, query: Any, collection: Collection
    ) -> Iterator[Hits]:
        for number, page in enumerate(pages):
            hits = Hits(page, query=query)
            if self._rated:
                rate([hits], vector[None], self.options, collection, lambda: load_encoder(*self._model))
            if number:
                hits.no_match = None  # the best hit is on the first page
            if hits:
                yield hits
            if len(hits) < len(page):  # of too little relevance, as all that follow
                return

    def _find(self, matrix: Matrix, queries: Sequence[Any], options: SearchOptions) -> list[Hits]:
        collection = self.answering()
        rows = collection.search(matrix, options) if collection.verify(self.space) else [[] for _ in matrix]
        found = [
            Hits(hits, query=query, options=options, again=self._again(vector, query))
            for hits, query, vector in zip(rows, queries, matrix, strict=True)
        ]
        if self._rated:
            rate(found, matrix, options, collection, lambda: load_encoder(*self._model))
        return found

    def _again(self, vector: Vector, query: Any) -> Again:
        return lambda options: self._find(vector[None], [query], options)[0]
