"""Rows of a source to records."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.types import Record

RESERVED = frozenset({"id", "vector", "path", "size", "mtime", "digest"})
"""Columns of the collection that a source's further columns cannot take the names of."""


def record_of(row: object) -> Record:
    """An address, or a mapping with a ``path`` or a ``url`` -> a record, failed if the row is no good.

    A local file is looked at, not opened. Anything else is not asked for yet: size and time are unknown.
    """
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
    values = {str(name): plain(value) for name, value in row.items()}
    metadata = {name: value for name, value in values.items() if name != "id" and value is not None}
    key = "" if values.get("id") is None else str(values["id"])
    record = Record(
        address,
        key,
        metadata=metadata,
        # under an id of its own, a picture may move
        digest=metadata_digest({**metadata, "path": address} if key else metadata),
        size=size,
        mtime=mtime,
    )
    try:
        address.encode()
    except UnicodeEncodeError:
        record.path = address.encode(errors="surrogateescape").decode(errors="replace")
        record.fail(f"{record.path}: the name is not valid UTF-8, so it cannot be stored; rename the file")
    record.id = key or path_key(record.path)
    if taken := sorted(RESERVED & metadata.keys()):
        record.fail(f"{address}: column {', '.join(taken)} is reserved; rename it in the source")
    return record


def _look_at(record: Record) -> None:
    try:
        stat = os.stat(record.path)
    except (OSError, ValueError) as err:
        record.fail(f"cannot read image {record.path}: {getattr(err, 'strerror', None) or err}")
    else:
        record.size, record.mtime = stat.st_size, stat.st_mtime_ns


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
        return {name: plain(item) for name, item in value.items()}
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


def refused(path: str, reason: str) -> Record:
    """A record that has failed before it began."""
    record = Record(path)
    record.fail(reason)
    return record


def brief(value: object, length: int = 80) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
