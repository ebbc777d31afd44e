"""A source in parts that several processes read at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import scheme
from t2i_pipelines.images.source import is_table, records, shards
from t2i_pipelines.types import Record

RECORDS_A_PART = 4096
"""Of a list, or whatever else is read where the run was started."""

PARTS_AT_ONCE = 64
"""Of a list: with more, the next are made when these are done."""


@dataclass(frozen=True)
class Part:
    """What one task reads.

    :ivar number: its place among the parts.
    :ivar source: an address; or a list, with records, or with one table or tar, that may be empty.
    """

    number: int
    source: str | list[str] | list[Record]

    @property
    def may_be_empty(self) -> bool:
        """Whether it is not the whole source."""
        return isinstance(self.source, list)


def rounds(source: object) -> Iterator[list[Part]]:
    """The parts of a source, as many at a time as are worked on together.

    Each table and each tar of many is a part. A folder, a table or a tar alone is one. Anything else is
    listed here, in parts of ``RECORDS_A_PART``. A relative path starts in the folder of this process.

    :raises SourceError: If a source is no source, or a table that braces name is missing.
    """
    if isinstance(source, (str, os.PathLike)):
        address = _absolute(source)
        each = shards(address)
        yield [Part(n, [one]) for n, one in enumerate(each)] if each else [Part(0, address)]
        return
    if isinstance(source, (Mapping, Record)):
        source = [source]
    if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray)):
        next(records(source))  # says what a source is
    parts = (Part(n, one) for n, one in enumerate(_lists(iter(source))))  # type: ignore[call-overload]
    while some := list(islice(parts, PARTS_AT_ONCE)):
        yield some


def _lists(items: Iterator[object]) -> Iterator[list[str] | list[Record]]:
    """Records in lists; a table or a tar among them is a list of its own."""
    waiting: list[object] = []
    for item in items:
        if is_table(item):
            if waiting:
                yield list(records(waiting))
                waiting = []
            yield [_absolute(item)]  # type: ignore[arg-type]
            continue
        waiting.append(item)
        if len(waiting) == RECORDS_A_PART:
            yield list(records(waiting))
            waiting = []
    if waiting:
        yield list(records(waiting))


def _absolute(source: str | os.PathLike[str]) -> str:
    address = os.fsdecode(os.fspath(source))
    if not address:
        raise SourceError("the source is an empty string; name a folder, a glob, a table, a tar or a URL")
    if scheme(address):
        return address
    return os.path.abspath(os.path.expanduser(address))  # noqa: PTH100, PTH111 - keeps links, may be a glob
