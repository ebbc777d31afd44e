"""Tables: what CSV, JSON lines and Parquet have in common."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import beside, name_of
from t2i_pipelines.images.opening import open_binary

_PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}


def plain_name(address: str) -> str:
    """The file's name without the suffix of its compression: ``rows.csv`` for ``/a/Rows.csv.gz``."""
    name = name_of(address)
    stem, dot, last = name.rpartition(".")
    return stem if dot + last in _PACKINGS else name


def open_table(address: str) -> BinaryIO:
    """A table's bytes, unpacked where its name says that it is packed.

    :raises SourceError: If it cannot be opened.
    """
    from fsspec.compression import compr

    packing = _PACKINGS.get("." + name_of(address).rpartition(".")[2])
    if packing is None:
        return open_binary(address)
    if packing not in compr:
        raise SourceError(f"cannot read {address!r}: this Python has no {packing}; unpack it first")
    return cast(BinaryIO, _Unpacked(open_binary(address), compr[packing]))


class _Unpacked(io.BufferedReader):
    """What a packed file holds. Closes that file, which those who unpack leave open."""

    def __init__(self, file: BinaryIO, unpack: Callable[..., Any]) -> None:
        self._file = file
        super().__init__(unpack(file, mode="rb"))

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._file.close()


def place_column(columns: Iterable[str], address: str) -> str:
    """The column that says where the pictures are: ``path``, else ``url``.

    :raises SourceError: If there is neither; names the columns.
    """
    columns = list(columns)
    for name in ("path", "url"):
        if name in columns:
            return name
    raise SourceError(
        f"{address!r} has no column `path` or `url`; its columns are {', '.join(columns) or 'none'}"
    )


def placed(row: Mapping[str, Any], address: str) -> dict[str, Any]:
    """A row of the table at an address, whose relative paths start where the table is."""
    named = "path" if row.get("path") else "url"
    given = row.get(named)
    if not isinstance(given, str):
        return dict(row)
    return {**row, named: beside(address, given)}
