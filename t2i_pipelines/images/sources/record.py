"""Rows of a source to records."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from errno import EISDIR
from stat import S_IFIFO, S_IFMT, S_IFSOCK, S_ISDIR, S_ISREG
from typing import Any
from uuid import UUID

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.cause import cause
from t2i_pipelines.types import Record

RESERVED = frozenset({"id", "vector", "path", "size", "mtime", "digest"})
"""Columns of the collection that a source's further columns cannot take the names of."""


def record_of(row: object) -> Record:
    """Make a record of an address, or of a mapping with a ``path`` or a ``url``; a failed one of a bad row.

    The size and time of a local file are read; it is not opened. Those of any other file are unknown.
    """
    try:
        return _record_of(row)
    except Exception as err:  # rows come from outside: one that breaks a rule of Python's fails alone
        return refused(brief(row), f"cannot understand the row {brief(row)}: {cause(err)}")


def _record_of(row: object) -> Record:
    if isinstance(row, Record):
        return row
    if isinstance(row, (str, os.PathLike)):
        row = {"path": row}
    if not isinstance(row, Mapping):
        return refused(brief(row), f"neither a path nor a row with a `path`: {brief(row)}")
    named = "path" if row.get("path") else "url"
    given = row.get(named)
    if not given or not isinstance(given, (str, os.PathLike)):
        return refused("", f"row without a `path` or `url`: {brief(dict(row))}")
    try:
        address = normal(given)
    except SourceError as err:
        return refused(os.fsdecode(os.fspath(given)), f"cannot read image {given}: {err}")
    record = described(address, {key: value for key, value in row.items() if key not in ("path", named)})
    if record.status is None and not scheme(address):
        _look_at(record)
    return record


def described(
    address: str,
    row: Mapping[Any, Any],
    *,
    size: int = -1,
    mtime: int = -1,
) -> Record:
    """A record from its address and its further columns; ``id`` among these is the primary key."""
    values = _plain_nested(row)
    metadata = {name: value for name, value in values.items() if name != "id" and value is not None}
    key = "" if values.get("id") is None else str(values["id"])
    record = Record(
        address,
        key,
        metadata=metadata,
        # under an id of its own, an image may move
        digest=metadata_digest({**metadata, "path": address} if key else metadata),
        size=size,
        mtime=mtime,
    )
    if _is_broken(address):
        record.path = _SURROGATES.sub("\ufffd", address)
        record.fail(f"{record.path}: the name is not valid UTF-8, so it cannot be stored; rename the file")
    record.id = key or path_key(record.path)
    if broken := next((name for name in ("id", *metadata) if _is_broken(name if name != "id" else key)), ""):
        record.fail(f"{record.path}: {broken!a} holds half a character, which cannot be stored")
        record.id = "" if broken == "id" else record.id
    if taken := sorted(RESERVED & metadata.keys()):
        record.fail(f"{address}: column {', '.join(taken)} is reserved; rename it in the source")
    return record


def _look_at(record: Record) -> None:
    try:
        stat = os.stat(record.path)
    except (OSError, ValueError) as err:
        record.fail(f"cannot read image {record.path}: {getattr(err, 'strerror', None) or err}")
        return
    if not S_ISREG(stat.st_mode):
        record.fail(f"cannot read image {record.path}: {not_regular(stat.st_mode)}")
    else:
        record.size, record.mtime = stat.st_size, stat.st_mtime_ns


def not_regular(mode: int) -> str:
    """Say why a file is not opened: opening a pipe or a device may block, or never end."""
    if S_ISDIR(mode):
        return os.strerror(EISDIR)
    kinds = {S_IFIFO: "a named pipe", S_IFSOCK: "a socket"}
    return f"not a regular file but {kinds.get(S_IFMT(mode), 'a device')}"


def plain(value: Any) -> Any:
    """A value as JSON can hold it: times as ISO 8601, time spans as seconds, decimals as floats.

    :return: None for what is missing: None, NaN, NaT, NA.
    """
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, Decimal)):
        return None if math.isnan(value) else float(value)
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    return _plain_nested(value)


def _plain_nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {str(name): plain(item) for name, item in value.items()}
        if len(named) < len(value):
            raise ValueError("two of its keys are the same as text")
        return named
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def path_key(path: str) -> str:
    """The primary key of a path: 128 bits, as 32 hex digits. Two paths never share one in practice."""
    return hashlib.blake2b(path.encode(), digest_size=16).hexdigest()


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """Digest of what is stored beside a vector: a colon and 16 hex digits, the tail of a record's digest."""
    described = json.dumps(metadata, sort_keys=True, default=str)
    return ":" + hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


_SURROGATES = re.compile("[\ud800-\udfff]")


def _is_broken(text: str) -> bool:
    """Return whether a text holds half a surrogate pair, which UTF-8 cannot encode."""
    return _SURROGATES.search(text) is not None


def refused(path: str, reason: str) -> Record:
    """A record that has failed before it began."""
    record = Record(path)
    record.fail(reason)
    return record


def brief(value: object, length: int = 80) -> str:
    """Return a value as a message shows it."""
    try:
        text = str(value) if isinstance(value, os.PathLike) else repr(value)
    except Exception:  # numbers of thousands of digits, structures nested too deep
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else text[: length - 3] + "..."
