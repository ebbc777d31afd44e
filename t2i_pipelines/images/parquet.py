"""Parquet, some rows at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from t2i_pipelines.errors import SourceError, cause
from t2i_pipelines.images.address import is_http
from t2i_pipelines.images.files import open_binary
from t2i_pipelines.images.record import Listing, refused
from t2i_pipelines.images.tables import check_columns, place_column, placed

ROWS_AT_ONCE = 1000
_NO_TEXT = "holds bytes that are not text in UTF-8, which cannot be stored; write the table without it"


def rows(address: str, _listing: Listing) -> Iterator[object]:
    """Return rows in the order of the file. Values keep their types.

    Columns of bytes are read as text in UTF-8.

    :raises SourceError: If the file cannot be opened, is no Parquet, has no ``path`` and no ``url``, or two
        columns of one name.
    """
    file = _seekable(address)
    try:
        table = _opened(file, address)
        place_column(table.schema_arrow.names, address)
        check_columns(table.schema_arrow.names, address)
        _refuse_bytes(table, address)
    except SourceError:
        file.close()
        raise
    return _rows(file, table, address)


def count(address: str) -> int | None:
    """Return how many rows there are, from the end of the file; None if it is on the web."""
    if is_http(address):
        return None
    with _seekable(address) as file:
        return int(_opened(file, address).metadata.num_rows)


def _rows(file: BinaryIO, table: Any, address: str) -> Iterator[object]:
    number = 0
    with file:
        try:
            for batch in table.iter_batches(ROWS_AT_ONCE):
                for row in _plain_rows(batch):
                    number += 1
                    yield _row(row, number, address)
        except Exception as err:  # a damaged page, or a remote file that breaks off
            yield refused(address, f"{address} breaks off after row {number}: {cause(err)}")


def _seekable(address: str) -> BinaryIO:
    """Return the file; one from the web is downloaded first, as its end is needed before its start."""
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


@dataclass(frozen=True)
class _Wrong:
    """Stand in for a value that cannot be read."""

    reason: str


def _plain_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a record batch; one value that Python cannot hold does not take the others along."""
    names = batch.schema.names
    for values in zip(*(_values(column) for column in batch.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _is_bytes(type: Any) -> bool:
    from pyarrow import types

    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(type) for test in tests)


def _refuse_bytes(table: Any, address: str) -> None:
    """Refuse a column of bytes whose first values are no text: an image, a vector."""
    names = [field.name for field in table.schema_arrow if _is_bytes(field.type)]
    for batch in table.iter_batches(8, columns=names) if names else ():
        for name, column in zip(names, batch.columns, strict=True):
            if any(isinstance(value, _Wrong) for value in _values(column)):
                raise SourceError(f"{address!r}: column {name} {_NO_TEXT}")
        return


def _values(column: Any) -> list[Any]:
    if _is_bytes(column.type):
        return [_text(value) for value in column.to_pylist()]
    try:
        found: list[Any] = column.to_pylist()
    except Exception:  # a date past the year 9999, a time zone that is not known here
        return [_value(scalar) for scalar in column]
    return found


def _text(value: bytes | None) -> str | _Wrong | None:
    """Decode a text that was written as plain bytes, as ClickHouse and Impala do."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _Wrong(_NO_TEXT)


def _value(scalar: Any) -> Any:
    """Convert a value; a date that Python's datetime cannot hold becomes a text in ISO 8601."""
    from pyarrow import types

    try:
        return scalar.as_py()
    except Exception as err:
        if types.is_timestamp(scalar.type):
            zone = "Z" if scalar.type.tz else ""
            return f"{np.datetime64(scalar.value, scalar.type.unit)}{zone}"
        if types.is_date32(scalar.type):
            return str(np.datetime64(scalar.value, "D"))
        return _Wrong(f"cannot be read: {cause(err)}")


def _row(row: dict[str, Any], number: int, address: str) -> object:
    for name, value in row.items():
        if isinstance(value, _Wrong):
            return refused("", f"row {number} of {address}: column {name} {value.reason}")
    return placed(row, address)
