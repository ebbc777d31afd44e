"""A source in parts that several processes read at the same time.

What crosses the borders between processes: a batch, with its place in the source.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from t2i_pipelines.errors import SourceError, T2IError
from t2i_pipelines.images.address import scheme
from t2i_pipelines.images.source import is_table, records, shards
from t2i_pipelines.types import Batch, Record

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


COLUMN = "shipment"


@dataclass
class Shipment:
    """One row of a Ray dataset, and one block: Ray must not split or join what is identified by position.

    :ivar part: which part of the source it is from.
    :ivar start: how many records of that part came before it.
    :ivar batch: records, with pixels as (H, W, 3) uint8 from decoding to encoding, then with their vector.
    :ivar total: how many records the part has, in a last shipment without any; else None.
    :ivar stages: stage -> seconds for which a process was busy with it.
    :ivar skipped: what the source left out of the part, in its last shipment.
    :ivar error: ends the run; an error that is raised there would come as one of Ray's.
    """

    part: int
    start: int
    batch: Batch = field(default_factory=Batch)
    total: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
    skipped: list[tuple[tuple[str, str], int]] = field(default_factory=list)
    error: T2IError | None = None

    def count(self, stages: Mapping[str, float]) -> None:
        """Add seconds."""
        for stage, seconds in stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds


def packed(shipment: Shipment) -> Any:
    """A ``pyarrow.Table`` of one row with the pickled shipment."""
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([pickle.dumps(shipment, 5)], pa.large_binary())})


def unpacked(table: Any) -> Shipment:
    """What :func:`packed` made, read where Ray holds it."""
    (row,) = table[COLUMN]
    shipment: Shipment = pickle.loads(row.as_buffer())
    return shipment
