"""CSV and TSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import scheme
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.sources.listing import Listing
from t2i_pipelines.images.sources.record import brief, refused
from t2i_pipelines.images.sources.table import open_table, place_column, placed, plain_name

_INT = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")


def rows(address: str, _listing: Listing) -> Iterator[object]:
    """Rows in the order of the file; the header is checked at once.

    :raises SourceError: If the file cannot be opened, is not in UTF-8, or has no ``path`` and no ``url``.
    """
    lines, reader = _opened(address)
    return _rows(lines, reader, address)


def count(address: str) -> int | None:
    """How many rows :func:`rows` will give, failed ones included; None if the file is not local."""
    if scheme(address):
        return None
    lines, reader = _opened(address)
    total = 0
    with lines:
        while True:
            try:
                for row in reader.reader:
                    total += bool(row)
                return total
            except csv.Error:
                total += 1
            except Exception:  # the file breaks off, which is its last row
                return total + 1


def _opened(address: str) -> tuple[io.TextIOWrapper, csv.DictReader[str]]:
    # what is not UTF-8 becomes surrogates, so that one bad line is one failed row
    lines = io.TextIOWrapper(open_table(address), encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        reader = csv.DictReader(lines, delimiter="\t" if plain_name(address).endswith(".tsv") else ",")
        columns = list(reader.fieldnames or ())
        "".join(columns).encode()
        place_column(columns, address)
    except SourceError:
        lines.close()
        raise
    except Exception as err:  # not UTF-8, not CSV, or packed bytes that are damaged
        lines.close()
        raise SourceError(f"{address!r} is not a table in UTF-8: {cause(err)}") from err
    return lines, reader


def _rows(lines: io.TextIOWrapper, reader: csv.DictReader[str], address: str) -> Iterator[object]:
    with lines:
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as err:
                yield refused("", f"after line {reader.line_num} of {address}: {err}")
                continue
            except Exception as err:  # remote files and packed ones break off in many ways
                yield refused(address, f"{address} breaks off at line {reader.line_num}: {cause(err)}")
                return
            yield _row(row, reader.line_num, address)


def _row(row: dict[str, str], number: int, address: str) -> object:
    if None in row:
        return refused("", f"line {number} of {address} has more cells than its header: {brief(row)}")
    try:
        "".join(cell for cell in row.values() if cell).encode()
    except UnicodeEncodeError:
        return refused("", f"line {number} of {address} is not in UTF-8: {brief(row)}")
    texts = ("path", "url", "id")
    values = {name: cell if name in texts else typed(cell) for name, cell in row.items() if cell}
    return placed(values, address)


def typed(cell: str) -> int | float | str:
    """A number where the text is one and nothing is lost: ``2015``, ``-3``, ``1.50``, ``1e-05``.

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
