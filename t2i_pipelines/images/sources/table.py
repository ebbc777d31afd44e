"""Tables: what CSV, JSON lines and Parquet have in common."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import SourceError, cause
from t2i_pipelines.images.address import beside, name_of
from t2i_pipelines.images.files import open_binary

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


def open_text(address: str) -> io.TextIOWrapper:
    """Open a table as text: UTF-16 where it begins with that mark, else UTF-8.

    What is not UTF-8 becomes surrogates, so that one bad line is one failed row; see :func:`not_utf8`.

    :raises SourceError: If it cannot be opened.
    """
    file = io.BufferedReader(cast(io.RawIOBase, open_table(address)))
    try:
        start = file.peek(2)[:2]
    except Exception as err:  # compressed bytes that are damaged
        file.close()
        raise SourceError(f"{address!r} is not a table in UTF-8: {cause(err)}") from err
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return io.TextIOWrapper(file, encoding="utf-16", newline="")
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def not_utf8(text: str) -> str:
    """Say which byte of a text of :func:`open_text` is not UTF-8, and what to do; empty if all is well."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        byte = text[err.start : err.start + 1].encode("utf-8", "surrogateescape")
        around = text[max(0, err.start - 20) : err.start].encode(errors="replace").decode()
        return (
            f"byte 0x{byte.hex().upper()} after {around!r}; in Windows-1252 it is "
            f"{byte.decode('cp1252', 'replace')!r}: save the table as 'CSV UTF-8', or convert it by "
            "iconv -f WINDOWS-1252 -t UTF-8"
        )
    return ""


def check_columns(columns: Sequence[str], address: str) -> None:
    """Refuse two columns of one name, of which one would be lost. Columns without a name do not count.

    :raises SourceError: Names the columns.
    """
    if double := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise SourceError(
            f"{address!r} has more than one column named {', '.join(double)}; rename or remove all but one"
        )


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
    """The column that says where the images are: ``path``, else ``url``.

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
