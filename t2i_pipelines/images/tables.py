"""Read CSV, TSV and JSON lines.

Spreadsheets write CSV separated by ``;`` or tabs, in UTF-16, or with ``sep=;`` on top; all are read. An
unclosed quotation mark would take in the rows after it. So the parser is strict: a row that cannot be parsed
fails alone, and reading goes on at the line after its first.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import SourceError, cause
from t2i_pipelines.images.address import beside, name_of, scheme
from t2i_pipelines.images.files import open_binary
from t2i_pipelines.images.record import Listing, brief, refused

_PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}


def plain_name(address: str) -> str:
    """Return the file's name without the suffix of its compression: ``rows.csv`` for ``/a/Rows.csv.gz``."""
    name = name_of(address)
    stem, dot, last = name.rpartition(".")
    return stem if dot + last in _PACKINGS else name


def open_table(address: str) -> BinaryIO:
    """Return a table's bytes, unpacked where its name says that it is packed.

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

    Bytes that are not UTF-8 become surrogates, so that one bad line is one failed row; see :func:`not_utf8`.

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
    """Unpack a file. Close it at the end, which the unpackers leave to the caller."""

    def __init__(self, file: BinaryIO, unpack: Callable[..., Any]) -> None:
        self._file = file
        super().__init__(unpack(file, mode="rb"))

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._file.close()


def place_column(columns: Iterable[str], address: str) -> str:
    """Return the column that says where the images are: ``path``, else ``url``.

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
    """Return a row of the table at an address, whose relative paths start where the table is."""
    named = "path" if row.get("path") else "url"
    given = row.get(named)
    if not isinstance(given, str):
        return dict(row)
    return {**row, named: beside(address, given)}


ROW_CHARS = 1 << 20
"""Longest row, in characters. Milvus stores 65,535 bytes of metadata for one image."""

_INT = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
_SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_ADDRESS = re.compile(r"\S+://\S+|.*\S\.[A-Za-z0-9]{2,5}")
_BREAKS_OFF = "breaks off"


def _delimited_rows(address: str, _listing: Listing) -> Iterator[object]:
    """Yield the rows in the order of the file; the header is checked at once.

    The separator is the first of ``,``, ``;``, tab and ``|`` by which the header has a ``path`` or a ``url``;
    in a ``.tsv`` file the tab comes first. Empty cells and empty rows are left out.

    :raises SourceError: If the file cannot be opened, is in another encoding than UTF-8 or UTF-16, has no
        ``path`` and no ``url``, or two columns of one name.
    """
    table = _Table.open(address)
    return (_delimited_row(table, number, found) for number, found in table.rows())


def _count_delimited(address: str) -> int | None:
    """Count what :func:`_delimited_rows` will yield, failed rows included; None if the file is not local."""
    return None if scheme(address) else sum(1 for _ in _Table.open(address).rows())


class _Lines:
    """Lines for a ``csv.reader``, those of the current row kept so that they can be read again.

    :ivar row: lines that the reader has taken since :meth:`begin`.
    :ivar number: of the line before the current row, from 1.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.row: list[str] = []
        self.number = 0
        self._text = text
        self._again: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if sum(map(len, self.row)) > ROW_CHARS:
            raise csv.Error(f"a row of more than {ROW_CHARS:,} characters")
        line = self._again.pop() if self._again else self._text.readline(ROW_CHARS + 1)
        if not line:
            raise StopIteration
        if len(line) > ROW_CHARS and line[-1] not in "\r\n":
            self._skip_line()
            line += "\n"
        self.row.append(line)
        return line

    def begin(self) -> None:
        """Start with the next row."""
        self.number += len(self.row)
        self.row.clear()

    def go_back(self, keep: int) -> None:
        """Read the current row again, from its line ``keep`` on."""
        self._again += reversed(self.row[keep:])
        del self.row[keep:]

    def _skip_line(self) -> None:
        while (rest := self._text.readline(ROW_CHARS)) and rest[-1] not in "\r\n":
            pass


@dataclass
class _Table:
    """An open file after its header.

    :ivar place: index of the column ``path`` or ``url``.
    """

    address: str
    text: io.TextIOWrapper
    lines: _Lines
    delimiter: str
    columns: list[str]
    place: int

    @classmethod
    def open(cls, address: str) -> _Table:
        """Open a file and read its header.

        :raises SourceError: See :func:`_delimited_rows`.
        """
        text = open_text(address)
        try:
            lines = _Lines(text)
            delimiter, columns = _header(lines, address)
            check_columns(columns, address)
            place = columns.index(place_column(columns, address))
        except SourceError:
            text.close()
            raise
        except Exception as err:  # not CSV, or compressed bytes that are damaged
            text.close()
            raise SourceError(f"{address!r} is not a table in UTF-8: {cause(err)}") from err
        return cls(address, text, lines, delimiter, columns, place)

    def rows(self) -> Iterator[tuple[int, list[str] | str]]:
        """Yield the number of each row's first line, and its cells, or why it cannot be read."""
        reader = csv.reader(self.lines, delimiter=self.delimiter, strict=True)
        with self.text:
            while True:
                self.lines.begin()
                number = self.lines.number + 1
                try:
                    cells = next(reader)
                    self._check_quotes()
                except StopIteration:
                    return
                except csv.Error as err:
                    yield number, self._literal() or str(err)
                    self.lines.go_back(1)
                except Exception as err:  # remote files and compressed ones break off in many ways
                    yield number, f"{_BREAKS_OFF}: {cause(err)}"
                    return
                else:
                    if any(cells):
                        yield number, cells

    def _check_quotes(self) -> None:
        """Refuse a quoted cell that has taken in whole rows.

        :raises csv.Error: If a line within the row is a row by itself, with an address in its place.
        """
        inner = self.lines.row[1:]
        for number, line in enumerate(inner, 1):
            cells = self._alone(line)
            if number == len(inner):  # up to the mark that closes the cell
                cells = list(takewhile(lambda cell: '"' not in cell, cells))
            elif len(cells) != len(self.columns):
                continue
            if len(cells) > self.place and _ADDRESS.fullmatch(cells[self.place]):
                raise csv.Error(
                    "a quotation mark is opened here and closed in line "
                    f"{self.lines.number + 1 + len(inner)} only, with rows in between; close it, or write it "
                    "twice"
                )

    def _alone(self, line: str) -> list[str]:
        try:
            return next(csv.reader([line], delimiter=self.delimiter, strict=True), [])
        except csv.Error:
            return []

    def _literal(self) -> list[str] | None:
        """Split a line at its tabs, where quotation marks often mean nothing; None if it does not fit."""
        if self.delimiter != "\t" or not self.lines.row or len(self.lines.row[0]) > ROW_CHARS:
            return None
        cells = self.lines.row[0].rstrip("\r\n").split("\t")
        return cells if len(cells) == len(self.columns) else None


def _header(lines: _Lines, address: str) -> tuple[str, list[str]]:
    """Return the separator and the names of the columns."""
    separators = "\t,;|" if plain_name(address).endswith(".tsv") else ",;\t|"
    first = next((line for line in lines if line.strip()), "")
    if first and (named := _SEPARATOR.fullmatch(first)):
        separators = named[1]
        next(lines, "")
    _check_text(lines.row[-1] if lines.row else "", address)
    start = max(len(lines.row) - 1, 0)
    found: list[list[str]] = []
    wrong: csv.Error | None = None
    for separator in separators:
        lines.go_back(start)
        try:
            columns = next(csv.reader(lines, delimiter=separator, strict=True), [])
        except csv.Error as err:
            wrong = wrong or err
            continue
        if "path" in columns or "url" in columns:
            return separator, columns
        found.append(columns)
    if not found and wrong:
        raise wrong
    return separators[0], found[0]


def _check_text(header: str, address: str) -> None:
    if "\0" in header:
        raise SourceError(
            f"{address!r} is not a table in UTF-8: it holds zero bytes, as UTF-16 does, but does not begin "
            "as UTF-16 should; save it as UTF-8"
        )
    if wrong := not_utf8(header):
        raise SourceError(f"{address!r} is not a table in UTF-8: {wrong}")


def _delimited_row(table: _Table, number: int, found: list[str] | str) -> object:
    address, columns = table.address, table.columns
    if isinstance(found, str):
        if found.startswith(_BREAKS_OFF):
            return refused(address, f"{address} breaks off at line {number}{found.removeprefix(_BREAKS_OFF)}")
        return refused("", f"line {number} of {address} cannot be read: {found}")
    if any(found[len(columns) :]):
        return refused("", f"line {number} of {address} has more cells than its header: {brief(found)}")
    if wrong := not_utf8("".join(found)):
        return refused("", f"line {number} of {address} is not in UTF-8: {wrong}")
    return _values(columns, found, number, address)


def _values(columns: Sequence[str], cells: list[str], number: int, address: str) -> object:
    texts = ("path", "url", "id")
    values: dict[str, int | float | str] = {}
    for at, (name, cell) in enumerate(zip(columns, cells, strict=False)):
        if cell and name:
            values[name] = cell if name in texts else typed(cell)
        elif cell and at:  # the first without a name is the index that pandas and R write
            return refused(
                "",
                f"line {number} of {address} has {brief(cell)} in column {at + 1}, which has no name; give "
                "it one in the header",
            )
    return placed(values, address)


def typed(cell: str) -> int | float | str:
    """Convert a text to a number where nothing is lost: ``2015``, ``-3``, ``1.50``, ``1e-05``.

    Text stays what does not read as Python writes it (``007``, ``+1``, ``1_000``, ``nan``), what has
    no place in 64 bits, and decimals of more than 15 digits, which is what a float holds.
    """
    if _INT.fullmatch(cell):
        number = int(cell) if len(cell) < 21 else 2**64
        return number if -(2**63) <= number < 2**63 else cell
    if _DECIMAL.fullmatch(cell) and sum(map(str.isdigit, cell)) <= 15:
        return float(cell)
    if "e" in cell and cell[-1].isdecimal() and cell[0] in "-0123456789":
        try:
            value = float(cell)
        except ValueError:
            return cell
        return value if repr(value) == cell else cell
    return cell


def _json_rows(address: str, _listing: Listing) -> Iterator[object]:
    """Return rows in the order of the file. Values keep their types.

    :raises SourceError: If the file cannot be opened, or its first line is no object with a ``path`` or
        a ``url``.
    """
    file = open_table(address)
    lines = _filled_lines(file)
    try:
        first = next(lines, None)
        if first is not None:
            place_column(_parsed(first[1]), address)
    except SourceError:
        file.close()
        raise
    except Exception as err:  # not JSON, or packed bytes that are damaged
        file.close()
        raise SourceError(f"{address!r} is not JSON lines in UTF-8: {cause(err)}") from err
    return _json_lines(file, lines if first is None else chain([first], lines), address)


def _count_json(address: str) -> int | None:
    """Return how many rows :func:`_json_rows` will give, failed ones included.

    None if the file is not local.
    """
    if scheme(address):
        return None
    total = 0
    with open_table(address) as file:
        try:
            for _ in _filled_lines(file):
                total += 1
        except Exception:  # the file breaks off, which is its last row
            total += 1
    return total


def _filled_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _json_lines(file: BinaryIO, lines: Iterator[tuple[int, bytes]], address: str) -> Iterator[object]:
    number = 0
    with file:
        try:
            for number, line in lines:
                yield _json_row(number, line, address)
        except Exception as err:  # remote files and packed ones break off in many ways
            yield refused(address, f"{address} breaks off after line {number}: {cause(err)}")


def _json_row(number: int, line: bytes, address: str) -> object:
    try:
        return placed(_parsed(line), address)
    except (ValueError, RecursionError) as err:
        return refused("", f"line {number} of {address} is no JSON object: {err}: {brief(line)}")


def _parsed(line: bytes) -> dict[str, Any]:
    value = json.loads(line, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse one that has a key twice, of which one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


@dataclass(frozen=True)
class TableReader:
    """How a kind of table is read.

    :ivar rows: (address, listing) -> rows in the order of the file; the header is checked at once.
    :ivar count: address -> number of rows, failed ones included; None if the file is not local.
    """

    rows: Callable[[str, Listing], Iterator[object]]
    count: Callable[[str], int | None]


DELIMITED = TableReader(_delimited_rows, _count_delimited)
JSON_LINES = TableReader(_json_rows, _count_json)
