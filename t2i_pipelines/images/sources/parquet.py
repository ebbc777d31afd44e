"""Parquet, some rows at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import is_http
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.opening import open_binary
from t2i_pipelines.images.sources.listing import Listing
from t2i_pipelines.images.sources.record import refused
from t2i_pipelines.images.sources.table import place_column, placed

ROWS_AT_ONCE = 1000


def rows(address: str, _listing: Listing) -> Iterator[object]:
    """Rows in the order of the file. Values keep their types.

    :raises SourceError: If the file cannot be opened, is no Parquet, has no ``path`` and no ``url``, or
        has a column of bytes, which Milvus cannot store beside a picture.
    """
    file = _seekable(address)
    try:
        table = _opened(file, address)
        place_column(table.schema_arrow.names, address)
        _refuse_bytes(table.schema_arrow, address)
    except SourceError:
        file.close()
        raise
    return _rows(file, table, address)


def count(address: str) -> int | None:
    """How many rows there are, from the end of the file; None if it is on the web."""
    if is_http(address):
        return None
    with _seekable(address) as file:
        return int(_opened(file, address).metadata.num_rows)


def _rows(file: BinaryIO, table: Any, address: str) -> Iterator[object]:
    number = 0
    with file:
        try:
            for batch in table.iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield placed(row, address)
        except Exception as err:  # a damaged page, or a remote file that breaks off
            yield refused(address, f"{address} breaks off after row {number}: {cause(err)}")


def _seekable(address: str) -> BinaryIO:
    """The file; one from the web is downloaded first, as its end is needed before its start."""
    file = open_binary(address)
    if not is_http(address):
        return file
    copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by the caller
    with file:
        try:
            shutil.copyfileobj(file, copy, 1 << 20)
        except OSError as err:
            copy.close()
            raise SourceError(f"cannot read {address!r}: {cause(err)}") from err
    copy.seek(0)
    return copy


def _opened(file: BinaryIO, address: str) -> Any:
    import pyarrow.parquet as pq

    try:
        # without pre_buffer, a row group's columns are read when they are needed
        return pq.ParquetFile(file, pre_buffer=False)
    except Exception as err:  # whatever the file is, it is no Parquet
        raise SourceError(f"{address!r} is not Parquet: {cause(err)}") from err


def _refuse_bytes(schema: Any, address: str) -> None:
    from pyarrow import types

    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    if names := [field.name for field in schema if any(test(field.type) for test in tests)]:
        raise SourceError(
            f"{address!r}: column {', '.join(names)} holds bytes, which are no metadata; write the table "
            "without it"
        )
