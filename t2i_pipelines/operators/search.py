"""The steps of a search in a row, by one model or by that of the collection at the moment."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection.aliases import entry_of, space_of
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.settings import Target
from t2i_pipelines.encoders import model_of
from t2i_pipelines.errors import CollectionNotFoundError, ModelMismatchError
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.milvus import MilvusSearch
from t2i_pipelines.operators.normalize import Normalize
from t2i_pipelines.operators.read import ReadQuery
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.types import Space

AS_STORED = "auto"
"""The ``model_name`` that means the model which filled the collection."""

Arguments = dict[str, Any]


class SearchSteps:
    """Apply the operators of a search one after the other, as the search pipeline does.

    :param read: arguments of ``ops.t2i.read_query``; :param embed: of ``ops.t2i.clip``; :param find: of
        ``ops.t2i.milvus_search``.
    """

    def __init__(self, read: Arguments, embed: Arguments, find: Arguments) -> None:
        self._to_vectors = (ReadQuery(**read), Clip(**{"modality": "text", **embed}), Normalize())
        self.milvus = MilvusSearch(**find)

    def __call__(self, query: Any, options: SearchOptions | None = None) -> Any:
        """Hits of a query, best first; of a list of queries a list."""
        return self.milvus(self.embed(query), query, options)

    def embed(self, query: Any) -> Any:
        """A query -> (D,) float32 of length 1; a list of queries -> a list.

        :raises QueryError: If a query is nothing that can be searched for.
        """
        data = query
        for step in self._to_vectors:
            data = step(data)
        return data


class MilvusFollow(Operator):
    """``ops.t2i.milvus_follow``: a query, or a list of queries -> hits, by the model of the collection.

    It is ``read_query``, ``clip``, ``normalize`` and ``milvus_search`` in one. Model and collection are
    chosen once for each call: where the name is an alias that is moved meanwhile to the collection of another
    model, this call ends by the old ones, and the next takes the new ones.

    The model is loaded by the name, or from the path, that the collection remembers.

    :param read: arguments of ``ops.t2i.read_query``; :param embed: of ``ops.t2i.clip``; :param find: of
        ``ops.t2i.milvus_search``. Their model does not count but for ``checkpoint_path``, which is where the
        model's files have moved to.
    """

    def __init__(
        self, read: Arguments | None = None, embed: Arguments | None = None, find: Arguments | None = None
    ) -> None:
        self._arguments = (read or {}, embed or {}, find or {})
        self.named = MilvusSearch(**self._arguments[2])
        self._made: dict[tuple[str, str | None], SearchSteps] = {}
        self._lock = Lock()

    def __call__(self, query: Any, options: SearchOptions | None = None) -> Any:
        """Hits, best first; of N queries N lists. ``[]`` where nothing is stored.

        :param options: in place of those of the operator.
        :raises UnknownModelError: If the collection's model is not known by its name.
        :raises ModelMismatchError: If the model of that name is another one.
        """
        try:
            return self._search(query, options)
        except ModelMismatchError:  # switched by another tool, which left no note of the earlier target
            entry_of(self.named.collection)
            return self._search(query, options)

    def model_name(self) -> str:
        """Return the name of the model that built the collection.

        :raises CollectionNotFoundError: If there is none.
        """
        return self._space().model_name

    def _space(self) -> Space:
        collection = self.named.collection
        if (space := space_of(collection)) is None:
            raise CollectionNotFoundError(f"there is no {collection}, so nothing tells its model")
        return space

    def _search(self, query: Any, options: SearchOptions | None) -> Any:
        if space_of(self.named.collection) is None:
            return [Hits() for _ in query] if isinstance(query, list) else Hits()
        return self._steps(self._space())(query, options)

    def _steps(self, space: Space) -> SearchSteps:
        model = model_of(space, self.named.target.checkpoint_path)
        with self._lock:
            if model not in self._made:
                read, embed, find = self._arguments
                self._made[model] = SearchSteps(
                    _by_model(read, "target", model),
                    _by_model(embed, "model", model),
                    _by_model(find, "target", model),
                )
            return self._made[model]


def _by_model(arguments: Arguments, name: str, model: tuple[str, str | None]) -> Arguments:
    """Return the arguments of an operator for another model."""
    known = {one.name for one in fields(Target)}
    plain = {one: value for one, value in arguments.items() if one in known}
    given = arguments.get(name) or Target.of(**plain)
    others = {one: value for one, value in arguments.items() if one not in known}
    return {**others, name: replace(given, model_name=model[0], checkpoint_path=model[1])}
