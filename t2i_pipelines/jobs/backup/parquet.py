"""Read and write rows as Parquet, in the columns of Milvus's own bulk writer.

=========  =============  =============================================================
id         string         primary key
vector     list<float32>  (D,)
path       string
size       int64          bytes, -1 if unknown
mtime      int64          nanoseconds since 1970, -1 if unknown
digest     string         content:metadata, both hex
$meta      string         the metadata of the row as one JSON object
=========  =============  =============================================================

A dynamic field is one JSON column there, too, because rows need not have the same metadata; in pandas,
``frame["$meta"].map(json.loads)`` returns it as dicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Self

import numpy as np

from t2i_pipelines.collection import Collection, search
from t2i_pipelines.collection.failures import TooLargeError
from t2i_pipelines.errors import StoreError
from t2i_pipelines.jobs.backup.folder import Written, metadata

META = "$meta"
AT_ONCE = 2000
"""Rows that are read at a time."""


class Writer:
    """Appends rows to a file; each call makes a row group."""

    def __init__(self, file: Written) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts, numbers = ("path", "digest"), ("size", "mtime")
        columns = [
            pa.field("id", pa.string()),
            pa.field("vector", pa.list_(pa.float32())),
            pa.field("path", pa.string()),
            *(pa.field(name, pa.int64()) for name in numbers),
            pa.field("digest", pa.string()),
            pa.field(META, pa.string()),
        ]
        self._file, self._schema = file, pa.schema(columns)
        packing = dict.fromkeys(self._schema.names, "zstd") | {"vector.list.element": "none"}
        self._writer = pq.ParquetWriter(
            pa.PythonFile(file, mode="w"), self._schema, use_dictionary=[*texts, META], compression=packing
        )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the end of the file, without which it cannot be read."""
        self._file.discarded = kind is not None
        self._writer.close()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows as a collection gives them."""
        import pyarrow as pa

        vectors = np.asarray([row["vector"] for row in rows], np.float32)
        offsets = (np.arange(len(rows) + 1) * vectors.shape[1]).astype(np.int32)
        columns: dict[str, Any] = {
            name: [row[name] for row in rows] for name in self._schema.names if name not in ("vector", META)
        }
        columns["vector"] = pa.ListArray.from_arrays(offsets, vectors.ravel())
        columns[META] = [json.dumps(metadata(row), ensure_ascii=False) for row in rows]
        self._writer.write_table(pa.table(columns, schema=self._schema))


def rows(file: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file, some at a time, as a collection takes them."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(AT_ONCE):
        vectors = batch.column("vector")
        values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name != "vector"}
        metas = map(json.loads, columns.pop(META))
        yield [
            {**meta, **dict(zip(columns, fields, strict=True)), "vector": vector}
            for meta, vector, *fields in zip(metas, values, *columns.values(), strict=True)
        ]


def ids(file: BinaryIO) -> Iterator[str]:
    """Yield the ids of a file, for which the other columns are not read."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(columns=["id"]):
        yield from batch.column("id").to_pylist()


PAGE_BYTES = 8 << 20
"""Of vectors. As Python's floats they take eight times as much."""

MOST = 10_000


def pages(collection: Collection, dim: int) -> Iterator[list[dict[str, Any]]]:
    """Pages of rows in the order of their ids, smaller ones where much metadata makes an answer too large.

    :param dim: of a vector.
    :raises StoreError: If the database does not answer, or not with rows in order.
    """

    def read(forms: Sequence[Mapping[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
        return collection.read("query", seconds=collection.patience, **forms[0], **arguments) or []

    last, most = "", max(1, min(MOST, PAGE_BYTES // (4 * dim)))
    while True:
        try:
            for page in search.pages(read, ("vector", "*"), collection.is_lite, after=last, most=most):
                yield page
                last = page[-1]["id"]
        except StoreError as err:
            if most == 1 or not _is_too_large(err):
                raise
            most //= 2
        else:
            return


def _is_too_large(err: StoreError) -> bool:
    return isinstance(err, TooLargeError) or "exceed" in str(err)
