"""A collection of any fields, which others made, as notebooks do with pymilvus."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.collection.catalog import RECHECK
from t2i_pipelines.collection.connection import SLOW, connection_to
from t2i_pipelines.collection.failures import NotLoadedError, RefusedError
from t2i_pipelines.collection.indexes import depth
from t2i_pipelines.collection.uri import parse_uri
from t2i_pipelines.collection.vectors import check_vectors
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, VectorError

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
        """How deep the index of a field is searched; nothing without an index."""
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
