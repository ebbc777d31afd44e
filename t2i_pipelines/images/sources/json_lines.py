"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from t2i_pipelines.errors import SourceError, cause
from t2i_pipelines.images.address import scheme
from t2i_pipelines.images.sources.record import Listing, brief, refused
from t2i_pipelines.images.sources.table import open_table, place_column, placed


def rows(address: str, _listing: Listing) -> Iterator[object]:
    """Rows in the order of the file. Values keep their types.

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
    return _rows(file, lines if first is None else chain([first], lines), address)


def count(address: str) -> int | None:
    """How many rows :func:`rows` will give, failed ones included; None if the file is not local."""
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


def _rows(file: BinaryIO, lines: Iterator[tuple[int, bytes]], address: str) -> Iterator[object]:
    number = 0
    with file:
        try:
            for number, line in lines:
                yield _row(number, line, address)
        except Exception as err:  # remote files and packed ones break off in many ways
            yield refused(address, f"{address} breaks off after line {number}: {cause(err)}")


def _row(number: int, line: bytes, address: str) -> object:
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
