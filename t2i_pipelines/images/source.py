"""From what a user points at to records: a folder, a glob, a CSV, or a list of paths or rows.

Everything streams: a record is made when it is asked for. What is wrong with the source as a whole is
an error before the first record; what is wrong with one row is that row's outcome.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from t2i_pipelines.errors import SourceError
from t2i_pipelines.types import Record

_RASTER = "avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _RASTER.split())
"""What counts as a picture in a folder. A glob, a list or a CSV may name any file."""

RESERVED = frozenset({"id", "vector", "path", "size", "mtime", "digest"})
"""Columns of the collection that a source's further columns cannot take the names of."""


def records(source: object) -> Iterator[Record]:
    """Read a source. Paths in the records are absolute; ids depend on nothing but path (or ``id``).

    :param source: a folder (searched recursively, in the order of names), a glob such as
        ``photos/**/*.jpg``, a CSV with a ``path`` column (relative to the CSV), one picture, or an
        iterable of paths or of rows (mappings with a ``path``). A column ``id`` becomes the primary key;
        any other column becomes metadata.
    :raises SourceError: If there is nothing to read; before the first record.
    """
    rows = _rows(source)
    try:
        first = next(rows)
    except StopIteration:
        raise SourceError(f"the source is empty: {_brief(source)} names no picture") from None
    return map(_record, chain([first], rows))


def count(source: str | os.PathLike[str]) -> int:
    """How many records a path has. Opens no picture; reads a CSV once.

    :raises SourceError: As :func:`records` does.
    """
    return sum(1 for _ in _rows(source))


def _rows(source: object) -> Iterator[object]:
    if isinstance(source, (str, os.PathLike)):
        return _rows_of_path(os.path.expanduser(os.fspath(source)))
    if isinstance(source, Mapping):
        return iter([source])
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        return iter(source)
    raise SourceError(
        f"a source is a folder, a glob, a CSV file, or a list of paths or rows; "
        f"got {type(source).__name__} {_brief(source)}"
    )


def _rows_of_path(path: str | bytes) -> Iterator[object]:
    path = os.fsdecode(path)
    if not path:
        raise SourceError("the source is an empty string; name a folder, a glob or a CSV file")
    if os.path.isdir(path):
        return _or_empty(_folder(path), f"no picture in folder {path!r} (looked for {_suffixes()})")
    if os.path.isfile(path):
        return _csv(path) if path.lower().endswith(".csv") else iter([path])
    if glob.has_magic(path):
        found = (one for one in sorted(glob.iglob(path, recursive=True)) if os.path.isfile(one))
        return _or_empty(found, f"no file matches the glob {path!r}")
    raise SourceError(f"no such folder or file: {path!r} (looked in {os.getcwd()!r})")


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES))


def _or_empty(rows: Iterator[str], message: str) -> Iterator[object]:
    try:
        first = next(rows)
    except StopIteration:
        raise SourceError(message) from None
    return chain([first], rows)


def _folder(path: str) -> Iterator[str]:
    def refuse(err: OSError) -> None:
        raise SourceError(f"cannot list folder {err.filename!r}: {err.strerror}") from err

    for folder, below, files in os.walk(path, onerror=refuse, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(folder, name)


def _csv(path: str) -> Iterator[object]:
    """Rows of a CSV; the header is checked at once, the rows are read when they are asked for."""
    lines = open(path, newline="", encoding="utf-8-sig")  # noqa: SIM115 - closed by _csv_rows
    try:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        if "path" not in columns:
            raise SourceError(
                f"{path!r} has no column `path`; its columns are {', '.join(columns) or 'none'}"
            )
    except (UnicodeDecodeError, csv.Error) as err:
        lines.close()
        raise SourceError(f"{path!r} is not a CSV file in UTF-8: {err}") from err
    except SourceError:
        lines.close()
        raise
    return _csv_rows(lines, reader, Path(os.path.abspath(path)).parent)


def _csv_rows(lines: Any, reader: csv.DictReader[str], base: Path) -> Iterator[object]:
    with lines:
        for row in reader:
            extra = row.pop(None, None)
            if extra:
                yield _refused("", f"line {reader.line_num} of the CSV has more cells than its header: {row}")
                continue
            given = row.get("path")
            yield {**row, "path": os.path.join(base, os.path.expanduser(given)) if given else ""}


def _record(row: object) -> Record:
    if isinstance(row, Record):
        return row
    if isinstance(row, (str, os.PathLike)):
        row = {"path": row}
    if not isinstance(row, Mapping):
        return _refused(_brief(row), f"neither a path nor a row with a `path`: {_brief(row)}")
    given = row.get("path")
    if not given or not isinstance(given, (str, os.PathLike)):
        return _refused("", f"row without a `path`: {_brief(dict(row))}")
    path = os.path.abspath(os.path.expanduser(os.fsdecode(os.fspath(given))))
    metadata = {
        str(name): value for name, value in row.items() if name not in ("path", "id") and value is not None
    }
    if taken := sorted(RESERVED & metadata.keys()):
        return _refused(path, f"{path}: column {', '.join(taken)} is reserved; rename it in the source")
    record = Record(path, metadata=metadata, digest=metadata_digest(metadata))
    try:
        path.encode()
    except UnicodeEncodeError:
        record.path = path.encode(errors="surrogateescape").decode(errors="replace")
        record.fail(f"{record.path}: the name is not valid UTF-8, so it cannot be stored; rename the file")
        return record
    key = row.get("id")
    record.id = path_key(path) if key in (None, "") else str(key)
    try:
        stat = os.stat(path)
    except OSError as err:
        record.fail(f"cannot read image {path}: {err.strerror}")
    else:
        record.size, record.mtime = stat.st_size, stat.st_mtime_ns
    return record


def path_key(path: str) -> str:
    """The primary key of a path: 128 bits, as 32 hex digits. Two paths never share one in practice."""
    return hashlib.blake2b(path.encode(), digest_size=16).hexdigest()


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """Digest of what is stored beside a vector: a colon and 16 hex digits, the tail of a record's digest."""
    described = json.dumps(metadata, sort_keys=True, default=str)
    return ":" + hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


def _refused(path: str, reason: str) -> Record:
    record = Record(path)
    record.fail(reason)
    return record


def _brief(value: object, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
