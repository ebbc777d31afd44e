"""Search by whatever model the collection is of at the moment."""

from __future__ import annotations

from typing import Any

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection.aliases import entry_of, space_of
from t2i_pipelines.config.args import SearchArgs
from t2i_pipelines.config.checks import check_known
from t2i_pipelines.config.search import SearchOptions
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


class MilvusFollow(Operator):
    """``ops.t2i.milvus_follow``: a query, or a list of queries -> hits, by the model of the collection.

    It is ``read_query``, ``clip``, ``normalize`` and ``milvus_search`` in one. Model and collection are
    chosen once for each call: where the name is an alias that is moved meanwhile to the collection of another
    model, this call ends by the old ones, and the next takes the new ones.

    The model is loaded by the name, or from the path, that the collection remembers.

    :param read: arguments of ``ops.t2i.read_query``; :param embed: of ``ops.t2i.clip``; :param find: of
        ``ops.t2i.milvus_search``. Their ``model_name`` does not count; ``checkpoint_path`` is where the
        model's files have moved to.
    """

    def __init__(
        self, read: Arguments | None = None, embed: Arguments | None = None, find: Arguments | None = None
    ) -> None:
        self._arguments = (read or {}, {"modality": "text", **(embed or {})}, find or {})
        self._named = MilvusSearch(**self._arguments[2])
        self._made: dict[tuple[str, str | None], tuple[Operator, ...]] = {}
        self._lock = Lock()

    def __call__(self, query: Any) -> Any:
        """Hits, best first; of N queries N lists. ``[]`` where nothing is stored.

        :raises UnknownModelError: If the collection's model is not known by its name.
        :raises ModelMismatchError: If the model of that name is another one.
        """
        try:
            return self._search(query)
        except ModelMismatchError:  # switched by another tool, which left no note of the earlier target
            entry_of(self._named.collection)
            return self._search(query)

    def asked(self, options: SearchArgs) -> MilvusFollow:
        """The same with other options of the search.

        :raises ConfigError: If one is unknown or wrong.
        """
        if not options:
            return self
        check_known(SearchOptions, dict(options))
        read, embed, find = self._arguments
        return MilvusFollow(read, embed, {**find, **options})

    def model_name(self) -> str:
        """Return the name of the model that built the collection.

        :raises CollectionNotFoundError: If there is none.
        """
        return self._space().model_name

    def _space(self) -> Space:
        collection = self._named.collection
        if (space := space_of(collection)) is None:
            raise CollectionNotFoundError(f"there is no {collection}, so nothing tells its model")
        return space

    def _search(self, query: Any) -> Any:
        if space_of(self._named.collection) is None:
            return [Hits() for _ in query] if isinstance(query, list) else Hits()
        *steps, find = self._operators(self._space())
        data = query
        for step in steps:
            data = step(data)  # type: ignore[operator]
        return find(data, query)  # type: ignore[operator]

    def _operators(self, space: Space) -> tuple[Operator, ...]:
        model = model_of(space, self._arguments[2].get("checkpoint_path"))
        with self._lock:
            if model not in self._made:
                chosen = {"model_name": model[0], "checkpoint_path": model[1]}
                read, embed, find = ({**one, **chosen} for one in self._arguments)
                self._made[model] = (ReadQuery(**read), Clip(**embed), Normalize(), MilvusSearch(**find))
            return self._made[model]
