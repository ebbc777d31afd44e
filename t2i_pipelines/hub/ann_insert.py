"""``ops.ann_insert.milvus_client`` and ``ops.ann_insert.osschat_milvus``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_pipelines.hub.any_collection import AnyCollection
from t2i_pipelines.hub.place import place_of
from t2i_pipelines.operators.base import Operator


@dataclass(frozen=True)
class MutationResult:
    """What was stored; pymilvus's class of this name has the same fields.

    :ivar insert_count: rows.
    :ivar primary_keys: their keys.
    """

    insert_count: int
    primary_keys: Sequence[Any]

    @property
    def succ_count(self) -> int:
        """Rows that were stored: all, or the insert has raised."""
        return self.insert_count

    @property
    def err_count(self) -> int:
        """Rows that were not."""
        return 0


class OsschatMilvusInsert(Operator):
    """One row into the collection that the call names: its fields in the schema's order.

    :param host: see :func:`t2i_pipelines.hub.place.place_of` for this and what follows.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 19530,
        user: str | None = None,
        password: str | None = None,
        uri: str | None = None,
        token: str | None = None,
    ) -> None:
        self._place = place_of(host, port, uri, user, password, token)
        self._opened: dict[str, AnyCollection] = {}

    def __call__(self, collection_name: str, *data: Any) -> MutationResult:
        """Fields -> what was stored. A list is several fields, unless their number fits without.

        :raises ConfigError: If the number of fields is another than the collection's.
        :raises VectorError: If a vector does not fit the collection.
        :raises CollectionNotFoundError: If there is none of that name.
        """
        collection = self._collection(collection_name)
        row = [field for one in data for field in (one if isinstance(one, list) else [one])]

        def insert() -> Mapping[str, Any]:
            fields = len(collection.layout.given)
            return collection.insert(row if len(row) == fields or len(data) != fields else data)

        answer = collection.up_to_date(insert)
        return MutationResult(answer["insert_count"], list(answer["ids"]))

    def flush(self) -> None:
        """Write everything out; ``pipeline.flush()`` calls this."""
        for collection in list(self._opened.values()):
            collection.flush()

    def _collection(self, name: Any) -> AnyCollection:
        if name not in self._opened:
            self._opened[name] = AnyCollection(**self._place, collection_name=name)
        return self._opened[name]


class MilvusClientInsert(OsschatMilvusInsert):
    """One row into one collection.

    :param collection_name: it must be there.
    :raises ConfigError: If it is no name that a collection can have.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 19530,
        collection_name: str | None = None,
        uri: str | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__(host, port, user, password, uri, token)
        self._name: Any = collection_name
        self._collection(self._name)

    def __call__(self, *data: Any) -> MutationResult:
        """Fields -> what was stored."""
        return super().__call__(self._name, *data)
