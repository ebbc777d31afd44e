"""``ops.ann_insert`` and ``ops.ann_search`` of Towhee's hub, on a collection with any schema."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.collection.catalog import RECHECK
from t2i_pipelines.collection.connection import SLOW, connection_to, parse_uri
from t2i_pipelines.collection.failures import NotLoadedError, RefusedError
from t2i_pipelines.collection.rows import check_vectors
from t2i_pipelines.collection.schema import depth
from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, VectorError
from t2i_pipelines.operators.base import Operator

T = TypeVar("T")

VECTORS = ("FLOAT_VECTOR", "FLOAT16_VECTOR", "BFLOAT16_VECTOR", "BINARY_VECTOR")


@dataclass(frozen=True)
class Layout:
    """The fields of a collection, and the index of each.

    :ivar given: names of the fields that a row must give, in the schema's order.
    :ivar primary: name of the primary key.
    :ivar vectors: name -> kind and dimension of each vector.
    :ivar indexes: name of a vector, number of hits -> how they are searched, as far as that was asked for.
    """

    given: tuple[str, ...]
    primary: str
    vectors: Mapping[str, tuple[str, int]]
    indexes: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Layout:
        """Read what ``describe_collection`` returned."""
        fields = description["fields"]
        automatic = {one["name"] for one in fields if one.get("auto_id") or one.get("is_function_output")}
        primary = next(one["name"] for one in fields if one.get("is_primary"))
        return cls(
            tuple(one["name"] for one in fields if one["name"] not in automatic),
            primary,
            {
                one["name"]: (one["type"].name, int(one["params"]["dim"]))
                for one in fields
                if one["type"].name in VECTORS
            },
        )


class AnyCollection:
    """A collection that is there, whatever its fields. Thread-safe.

    Every method may raise :class:`~t2i_pipelines.errors.StoreError`; the subclass tells why.
    """

    def __init__(self, uri: str, token: str, collection_name: str) -> None:
        self.name = collection_name
        self._address = parse_uri(uri)
        self._ours: Collection = open_collection(uri, token, collection_name)
        self._connection = connection_to(self._address, token)
        self._timeout = 30.0
        self._asked = float("-inf")
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Its fields, remembered for some seconds.

        :raises CollectionNotFoundError: If it is not there.
        """
        layout = self._layout
        if layout is None or time.monotonic() - self._asked >= RECHECK:
            try:
                layout = Layout.of(self._call("describe_collection"))
            except CollectionNotFoundError as err:
                raise CollectionNotFoundError(f"{err}; make the collection first") from err
            self._layout, self._asked = layout, time.monotonic()
        return layout

    def up_to_date(self, call: Callable[[], T]) -> T:
        """Call; retry once without the cache: notebooks drop and create collections."""
        remembered = self._layout
        try:
            return call()
        except (ConfigError, VectorError, RefusedError, CollectionNotFoundError):
            if remembered is None or self._layout is not remembered:
                raise
            self._layout = None
            return call()

    def insert(self, row: Sequence[Any]) -> Mapping[str, Any]:
        """Store one row; what ``MilvusClient.insert`` answers.

        :param row: its fields in the schema's order, but for a primary key that Milvus gives itself.
        :raises ConfigError: If there are more or fewer.
        :raises VectorError: If a vector has another dimension or is not finite.
        """
        layout = self.layout
        if len(row) != len(layout.given):
            raise ConfigError(
                f"a row of collection {self.name!r} at {self._address} has {len(layout.given)} field(s), "
                f"{', '.join(layout.given)}; got {len(row)}"
            )
        fields = {name: self._value(name, value) for name, value in zip(layout.given, row, strict=True)}
        with self._connection.writing(self._timeout) as seconds:
            answer: Mapping[str, Any] = self._call("insert", seconds=seconds, data=[fields])
            floats = [one for one in fields.values() if isinstance(one, np.ndarray)]
            self._connection.wrote("insert", self.name, [{"vector": one} for one in floats])
            if self._connection.is_full(self.name):
                self.flush()
        return answer

    def search(
        self, vector: Any, anns_field: str | None, params: Mapping[str, Any], limit: int, **asked: Any
    ) -> list[Any]:
        """(D,) -> hits as ``MilvusClient.search`` gives them, in Milvus's order.

        :param anns_field: the field to search; None is the last vector of the schema, as on the hub.
        :param params: Milvus's search parameters. Metric and depth are those of the index where not given.
        :param asked: further arguments of ``MilvusClient.search``.
        :raises ConfigError: If there is no such field.
        :raises VectorError: If the vector has another dimension or is not finite.
        """
        vectors = self.layout.vectors
        name = anns_field or next(reversed(list(vectors)), "")
        if name not in vectors:
            there = ", ".join(vectors) or "none"
            raise ConfigError(f"collection {self.name!r} has no vector field {name!r}; there is {there}")
        indexes = self.layout.indexes
        if (name, limit) not in indexes:
            indexes[name, limit] = self._index_params(name, limit)
        seconds = asked.pop("timeout", None)
        arguments: dict[str, Any] = {
            "data": [self._value(name, vector)],
            "anns_field": name,
            "limit": limit,
            "search_params": {**indexes[name, limit], **params},
            "consistency_level": "Session",
            **asked,
        }
        found: list[Any] = self._loaded(lambda: self._call("search", seconds=seconds, **arguments))[0]
        return found

    def flush(self) -> None:
        """Write everything out."""
        with self._connection.writing(self._timeout):
            self._call("flush", seconds=SLOW)
            self._connection.wrote("flush", self.name, ())

    def _index_params(self, name: str, limit: int) -> dict[str, Any]:
        """Return how deep the index of a field is searched; nothing without an index."""
        names = self._call("list_indexes", field_name=name)
        index = self._call("describe_index", index_name=names[0]) if names else None
        if not index:
            return {}
        how = depth(index["index_type"], is_lite=self._connection.is_lite(self._timeout))
        # without metric, it is the index's; Milvus Lite would obey one that was remembered wrongly
        return {"params": how.params(max(how.rungs[0], limit), filtered=True)}

    def _value(self, name: str, value: Any) -> Any:
        kind, dim = self.layout.vectors.get(name, ("", 0))
        if kind == "FLOAT_VECTOR":
            return check_vectors([value], [name], dim, may_be_zero=True)[0]
        return value.tolist() if isinstance(value, np.generic) else value

    def _loaded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except NotLoadedError:
            self._call("load_collection", seconds=SLOW)
            return call()

    def _call(self, method: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        self._connection.join(self._ours)  # so that t2i_pipelines.close() closes this, too
        doing = f"{method} of collection {self.name!r}"
        timeout = self._timeout if seconds is None else seconds
        return self._connection.call(method, self.name, doing=doing, timeout=timeout, **arguments)


def place_of(
    host: str,
    port: int | str,
    uri: str | None = None,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """``uri`` and ``token``, as :func:`~t2i_pipelines.collection.open_collection` takes them.

    :param host: of a server; or a uri, or a file that ends in ``.db``, where a notebook can say only a host.
    :param uri: takes the place of host and port.
    :param user: with ``password`` for a server that knows its users. With host and port, the connection is
        then over TLS, as the hub's was; a ``uri`` says itself.
    :raises ConfigError: If a user comes without a password, or beside a token.
    """
    if bool(user) != bool(password):
        raise ConfigError(f"user and password go together; of user={user!r} and password, one is missing")
    if user and token:
        raise ConfigError("give token, or user and password, not both")
    if uri is None and ("://" in str(host) or str(host).endswith(".db")):
        uri = host
    if uri is None:
        uri = f"{'https' if user else 'http'}://{host}:{port}"
    return {"uri": uri, "token": token or (f"{user}:{password}" if user else "")}


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

    :param host: see :func:`t2i_pipelines.hub.milvus.place_of` for this and what follows.
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


PASSED_ON = ("partition_names", "consistency_level", "round_decimal", "timeout")
KNOWN = ("limit", "anns_field", "metric_type", "param", "output_fields", "expr", *PASSED_ON)


class OsschatMilvusSearch(Operator):
    """A vector -> the nearest rows of the collection that the call names.

    :param host: see :func:`t2i_pipelines.hub.milvus.place_of` for this and what follows.
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
