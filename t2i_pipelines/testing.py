"""A model without weights and a database without files, for your tests and ours.

>>> import t2i_pipelines.testing  # registers model_name="colour" and uri="memory://..."
>>> from t2i_pipelines.encoders import load_encoder
>>> load_encoder("colour").encode_texts(["a red car", "yellow"]).tolist()
[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]

A uri such as ``memory://tests`` is accepted wherever a uri is. It names a database in the memory of this
process: no file, no server, no start::

    build_insert_pipeline(uri="memory://tests", model_name="colour")("photos")
    hits = Searcher(uri="memory://tests", model_name="colour")("red")
    forget_memory("memory://tests")

It behaves as Milvus Lite does, whose filter language it evaluates with Milvus Lite's own parser; ``is_lite``
is true, and settings that need a server are refused. Every search compares all rows, exactly, whatever the
index. The rows stay until they are deleted, the collection is dropped, :func:`forget_memory` is called or the
process ends; closing keeps them. Any number of threads may use one database. Another process sees none of
its rows, and a forked child has a copy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import count
from json import dumps
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.connection import MEMORY, connection_to, parse_uri, register_client
from t2i_pipelines.collection.failures import COLLECTION_NOT_FOUND, REFUSED
from t2i_pipelines.collection.schema import check_name
from t2i_pipelines.config.args import StorageArgs
from t2i_pipelines.config.storage import Storage
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Compute, Image, Matrix, Space

__all__ = ["ColourEncoder", "MemoryCollection", "forget_memory"]

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
    "white": (1, 1, 1),
}


class ColourEncoder:
    """A three-dimensional CLIP: an image is its mean colour, a text the sum of its colour words.

    An image of 255-red is ``(1, 0, 0)``; ``"a red and a blue ball"`` is ``(1, 0, 1)``. A text without a
    colour word is ``(1, 1, 1)``. A black image is ``(0, 0, 0)``, which no pipeline accepts: the way to
    test what happens to an image that cannot be embedded.

    :ivar images: images embedded so far; :ivar texts: texts embedded so far.
    """

    space = Space("colour", "mean colour, version 1", "none", 3)

    def __init__(self) -> None:
        self.images = 0
        self.texts = 0

    def fit(self, image: Image) -> Image:
        """Any image -> its (1, 1, 3) mean colour, rounded."""
        mean: Image = np.mean(image, axis=(0, 1), keepdims=True).round().astype(np.uint8)
        return mean

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, 3) float32 in [0, 1]."""
        self.images += len(images)
        means = [self.fit(image).reshape(3) for image in images]
        return np.array(means, np.float32).reshape(-1, 3) / np.float32(255)

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, 3) float32, sums of colours."""
        self.texts += len(texts)
        return np.array([_colour_of(text) for text in texts], np.float32).reshape(-1, 3)


def _colour_of(text: str) -> list[int]:
    words = re.findall(r"\w+", text.lower())
    named = [COLOURS[word] for word in words if word in COLOURS]
    return [sum(parts) for parts in zip(*named, strict=True)] or [1, 1, 1]


def _colour(checkpoint_path: str | None, compute: Compute) -> ColourEncoder:
    return ColourEncoder()


register_encoder("colour", _colour)


class MemoryCollection(Collection):
    """A collection held in memory, for tests of what takes a :class:`~t2i_pipelines.collection.Collection`.

    It has the methods of that class and passes the same tests as Milvus Lite and a Milvus server.
    ``open_collection("memory://tests")`` opens the same rows as ``MemoryCollection(uri="memory://tests")``.

    >>> collection = MemoryCollection()
    >>> collection.prepare(ColourEncoder.space)
    >>> collection.count()
    0

    :param collection_name: its name in the database.
    :param uri: ``memory://`` and a name; None is a database of its own.
    :param stored: used when the collection is made: ``index_type``, ``partition_key``.
    :ivar uri: what ``Searcher``, ``build_insert_pipeline`` and others open the same collection by.
    :raises ConfigError: If one of them cannot work.
    """

    def __init__(
        self,
        collection_name: str = "image_collection",
        uri: str | None = None,
        **stored: Unpack[StorageArgs],
    ) -> None:
        address = parse_uri(f"{MEMORY}://{next(_numbers)}" if uri is None else uri)
        if address.scheme != MEMORY:
            raise ConfigError(f"uri must begin with {MEMORY}://, got {uri!r}")
        self.uri = address.uri
        super().__init__(
            connection_to(address, ""),
            collection_name=check_name(collection_name),
            timeout=30.0,
            storage=Storage.of(**stored),
        )


def forget_memory(uri: str | None = None) -> None:
    """Delete every database that is held in memory, or the one at ``uri``, with all its collections.

    The next that opens it finds it empty.
    """
    for one in list(_databases) if uri is None else [parse_uri(uri).uri]:
        connection = connection_to(parse_uri(one), "")
        connection.close()
        connection.generations.clear()
        connection.renamed.clear()
        _databases.pop(one, None)


class _Failure(Exception):
    """What Milvus answers in place of a result; ``code`` tells which error of this library it becomes."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class _Rows:
    """One collection: its description, its rows by id, and what is computed of them between two writes."""

    def __init__(self, number: int, schema: Any, properties: Mapping[str, str]) -> None:
        self.number, self.index_type = number, ""
        self.properties = dict(properties)
        self.schema: dict[str, Any] = {"fields": []} if schema is None else schema.to_dict()
        self._names = [one["name"] for one in self.schema["fields"]]
        self._rows: dict[str, dict[str, Any]] = {}
        self._ids: list[str] | None = None  # in order; None after a write
        self._units: NDArray[np.float64] | None = None
        self._table: Any = None

    def put(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows, in place of those with the same ids."""
        self._rows |= {row["id"]: dict(row) for row in rows}
        self._ids = self._units = self._table = None

    def delete(self, filter: str) -> list[str]:
        """Remove the rows that meet the filter; their ids."""
        ids = self.matching(filter)
        for id in ids:
            del self._rows[id]
        self._ids = self._units = self._table = None
        return ids

    def matching(self, filter: str) -> list[str]:
        """Ids of the rows that meet the filter, in order.

        :raises _Failure: If the filter is not understood.
        """
        if not filter:
            return self._ordered()
        from milvus_lite.search.filter import compile_expr, evaluate_mask, parse_expr
        from milvus_lite.search.filter.ast import FieldRef, InOp

        try:
            parsed = parse_expr(filter)
            compiled = compile_expr(parsed, self._schema(), source=filter)
            if isinstance(parsed, InOp) and not parsed.negate and parsed.field == FieldRef("id", 0):
                return sorted({one.value for one in parsed.values.elements} & self._rows.keys())
            mask = evaluate_mask(compiled, self._columns())
        except Exception as err:
            raise _Failure(REFUSED, str(err)) from err
        return [id for id, meets in zip(self._ordered(), mask, strict=True) if meets]

    def nearest(self, queries: Sequence[Any], limit: int, filter: str) -> list[list[tuple[str, float]]]:
        """Ids and cosines of the rows that meet the filter, best first, equal ones by id."""
        ids = self.matching(filter)
        if self._units is None:
            self._units = _units([self._rows[id]["vector"] for id in self._ordered()])
        units = self._units
        if len(ids) < len(units):
            places = {id: at for at, id in enumerate(self._ordered())}
            units = units[[places[id] for id in ids]]
        found = []
        for query in _units(queries):
            # rounded, so that rows of one direction have one score
            scores = (units * query).sum(axis=1).astype(np.float32)
            best = np.argsort(-scores, kind="stable")[:limit]
            found.append([(ids[at], float(scores[at])) for at in best])
        return found

    def shown(self, id: str, fields: Sequence[str]) -> dict[str, Any]:
        """Return a copy of these fields of a row, as far as it has them.

        ``*`` is all, ``$meta`` those that are not in the schema.
        """
        row = self._rows[id]
        several = {"*": list(row), "$meta": [key for key in row if key not in self._names]}
        names = [key for name in fields for key in several.get(name, [name]) if key in row]
        return {key: row[key].tolist() if key == "vector" else deepcopy(row[key]) for key in names}

    def _ordered(self) -> list[str]:
        if self._ids is None:
            self._ids = sorted(self._rows)
        return self._ids

    def _schema(self) -> Any:
        from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema

        fields = [FieldSchema(one["name"], DataType[one["type"].name]) for one in self.schema["fields"]]
        return CollectionSchema(fields, enable_dynamic_field=True)

    def _columns(self) -> Any:
        """Return the rows as Milvus Lite's evaluator reads them.

        A table, all metadata as JSON in one column.
        """
        if self._table is None:
            import pyarrow as pa

            rows = [self._rows[id] for id in self._ordered()]
            names = self._names
            columns = {name: [row[name] for row in rows] for name in names if name != "vector"}
            more = [dumps({key: row[key] for key in row if key not in names}) for row in rows]
            self._table = pa.table(columns | {"$meta": more})
        return self._table


def _units(vectors: Sequence[Any]) -> NDArray[np.float64]:
    if not len(vectors):
        return np.empty((0, 1))
    matrix = np.asarray(vectors, np.float64)
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


class _Database:
    """Collections by name. It answers those calls of ``MilvusClient`` that this library makes, in its forms.

    Every method may be given a ``timeout`` and other settings that have no meaning here.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._collections: dict[str, _Rows] = {}
        self._aliases: dict[str, str] = {}

    def get_server_version(self, **_: Any) -> str:
        return "milvus_lite, in memory"

    def close(self) -> None:
        """Keep everything: what is opened again is as it was."""

    def create_collection(
        self, name: str, schema: Any = None, properties: Mapping[str, str] | None = None, **_: Any
    ) -> None:
        with self._lock:
            if name in self._collections or name in self._aliases:
                raise _Failure(REFUSED, f"there is a collection {name!r} already")
            self._collections[name] = _Rows(next(_numbers), schema, properties or {})

    def drop_collection(self, name: str, **_: Any) -> None:
        with self._lock:
            self._collections.pop(name, None)

    def rename_collection(self, name: str, new_name: str, **_: Any) -> None:
        with self._lock:
            self._collections[new_name] = self._collections.pop(name)

    def list_collections(self, **_: Any) -> list[str]:
        with self._lock:
            return list(self._collections)

    def has_collection(self, name: str, **_: Any) -> bool:
        with self._lock:
            return name in self._collections or name in self._aliases

    def describe_collection(self, name: str, **_: Any) -> dict[str, Any]:
        with self._lock:
            found, properties = self._of(name), dict(self._of(name).properties)
            named = {"collection_name": self._real(name), "collection_id": found.number}
            return {**deepcopy(found.schema), **named, "properties": properties}

    def alter_collection_properties(self, name: str, properties: Mapping[str, str], **_: Any) -> None:
        with self._lock:
            self._of(name).properties.update(properties)

    def create_alias(self, name: str, alias: str, **_: Any) -> None:
        with self._lock:
            self._aliases[alias] = name

    alter_alias = create_alias

    def drop_alias(self, alias: str, **_: Any) -> None:
        with self._lock:
            self._aliases.pop(alias, None)

    def load_collection(self, name: str, **_: Any) -> None:
        """Check that it is there: all rows are in memory, and can be searched."""
        with self._lock:
            self._of(name)

    release_collection = flush = load_collection

    def create_index(self, name: str, index_params: Any, **_: Any) -> None:
        with self._lock:
            self._of(name).index_type = next(iter(index_params)).index_type

    def drop_index(self, name: str, **_: Any) -> None:
        with self._lock:
            self._of(name).index_type = ""

    def list_indexes(self, name: str, **_: Any) -> list[str]:
        with self._lock:
            return ["vector"] if self._of(name).index_type else []

    def describe_index(self, name: str, **_: Any) -> dict[str, Any]:
        with self._lock:
            return {"index_type": self._of(name).index_type, "index_name": "vector"}

    def upsert(self, name: str, data: Sequence[Mapping[str, Any]], **_: Any) -> None:
        with self._lock:
            self._of(name).put(data)

    insert = upsert  # which replaces a row of the same id, as Milvus Lite's does

    def delete(self, name: str, filter: str, **_: Any) -> list[str]:
        with self._lock:
            return self._of(name).delete(filter)

    def query(
        self,
        name: str,
        filter: str = "",
        output_fields: Sequence[str] = ("*",),
        limit: int | None = None,
        **_: Any,
    ) -> list[dict[str, Any]]:
        with self._lock:
            rows = self._of(name)
            ids = rows.matching(filter)
            if list(output_fields) == ["count(*)"]:
                return [{"count(*)": len(ids)}]
            return [rows.shown(id, ["id", *output_fields]) for id in ids[:limit]]

    def search(
        self,
        name: str,
        data: Sequence[Any],
        filter: str = "",
        limit: int = 10,
        output_fields: Sequence[str] = (),
        **_: Any,
    ) -> list[list[dict[str, Any]]]:
        with self._lock:
            rows = self._of(name)
            return [
                [{"id": id, "distance": score, "entity": rows.shown(id, output_fields)} for id, score in one]
                for one in rows.nearest(data, limit, filter)
            ]

    def _real(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _of(self, name: str) -> _Rows:
        found = self._collections.get(self._real(name))
        if found is None:
            raise _Failure(COLLECTION_NOT_FOUND, f"there is no collection {name!r}")
        return found


_numbers = count(1)
_databases: dict[str, _Database] = {}


register_client(MEMORY, lambda uri: _databases.setdefault(uri, _Database()))
