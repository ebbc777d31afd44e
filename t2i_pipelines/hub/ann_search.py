"""``ops.ann_search.milvus_client`` and ``ops.ann_search.osschat_milvus``."""

from __future__ import annotations

from typing import Any

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.hub.any_collection import AnyCollection
from t2i_pipelines.hub.place import place_of
from t2i_pipelines.operators.base import Operator

PASSED_ON = ("partition_names", "consistency_level", "round_decimal", "timeout")
KNOWN = ("limit", "anns_field", "metric_type", "param", "output_fields", "expr", *PASSED_ON)


class OsschatMilvusSearch(Operator):
    """A vector -> the nearest rows of the collection that the call names.

    :param host: see :func:`t2i_pipelines.hub.place.place_of` for this and what follows.
    :param asked: those of pymilvus's ``Collection.search`` that the hub's operator took: ``limit`` (10),
        ``output_fields``, ``expr``, ``anns_field`` (the last vector), ``metric_type`` and ``param`` (those of
        the index), ``partition_names``, ``consistency_level``, ``round_decimal``, ``timeout``.
    :raises ConfigError: If there is another, or one of them cannot be.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 19530,
        user: str | None = None,
        password: str | None = None,
        uri: str | None = None,
        token: str | None = None,
        **asked: Any,
    ) -> None:
        self._place = place_of(host, port, uri, user, password, token)
        self._opened: dict[str, AnyCollection] = {}
        if unknown := [name for name in asked if name not in KNOWN]:
            raise ConfigError(f"a search has no {unknown[0]!r}; it knows {', '.join(KNOWN)}")
        self._limit = asked.get("limit", 10)
        check_whole_number("limit", self._limit, MAX_LIMIT)
        self._fields = _names(asked.get("output_fields"))
        self._anns_field = asked.get("anns_field")
        self._params = dict(asked.get("param") or {})
        if metric := asked.get("metric_type"):
            self._params["metric_type"] = metric
        self._passed_on = {name: asked[name] for name in PASSED_ON if asked.get(name) is not None}
        self._passed_on["filter"] = asked.get("expr") or ""

    def __call__(self, collection_name: str, query: Any) -> list[list[Any]]:
        """(D,) -> ``[id, score, *output_fields]`` of each row found, in Milvus's order, nearest first.

        The score is Milvus's: of L2 the squared distance, of COSINE and IP the product. A row that lacks a
        field has None there.

        :raises ConfigError: If Milvus does not understand ``expr``, or there is no such field.
        :raises VectorError: If the vector does not fit the collection.
        :raises CollectionNotFoundError: If there is none of that name.
        """
        collection = self._collection(collection_name)
        asked = {"limit": self._limit, "output_fields": self._fields, **self._passed_on}
        found = collection.up_to_date(
            lambda: collection.search(query, self._anns_field, self._params, **asked)
        )
        key = collection.layout.primary
        return [[hit.id, hit.distance, *self._of(hit, key)] for hit in found]

    def _of(self, hit: Any, key: str) -> list[Any]:
        return [hit.id if name == key else hit["entity"].get(name) for name in self._fields]

    def _collection(self, name: Any) -> AnyCollection:
        if name not in self._opened:
            self._opened[name] = AnyCollection(**self._place, collection_name=name)
        return self._opened[name]


class MilvusClientSearch(OsschatMilvusSearch):
    """A vector -> the nearest rows of one collection.

    :param collection_name: it must be there.
    :param asked: see :class:`OsschatMilvusSearch`.
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
        **asked: Any,
    ) -> None:
        super().__init__(host, port, user, password, uri, token, **asked)
        self._name: Any = collection_name
        self._collection(self._name)

    def __call__(self, query: Any) -> list[list[Any]]:  # type: ignore[override]
        """(D,) -> ``[id, score, *output_fields]`` of each row found."""
        return super().__call__(self._name, query)


def _names(fields: Any) -> list[str]:
    names = [] if fields is None else [fields] if isinstance(fields, str) else list(fields)
    if wrong := [name for name in names if not isinstance(name, str) or name == "*"]:
        raise ConfigError(f"output_fields must be names of fields, each in its place; got {wrong[0]!r}")
    return names
