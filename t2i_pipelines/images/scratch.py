"""Keep what may not fit into memory on disk, for the time of a run."""

from __future__ import annotations

import copy
import pickle
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any
from weakref import finalize

CACHE = 64 << 20
IN_MEMORY = 16 << 20
"""Bytes; beyond that a temporary file is written, which has no name and goes with the process."""


class Scratch:
    """A temporary SQLite database, in memory up to 64 MiB, beyond that in a file. Thread-safe.

    :param schema: statements that make its tables.
    """

    def __init__(self, schema: str) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        finalize(self, self._database.close)
        self._lock = threading.Lock()
        self._database.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -{CACHE >> 10}; {schema}; BEGIN"
        )

    def ask(self, statement: str, *values: Any) -> list[Any]:
        """Execute a statement; return its rows."""
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    def each(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement with each of many values."""
        with self._lock:
            self._database.executemany(statement, rows)


class Spill:
    """Records or paths in, and the same out again as often as one likes; each time new objects."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with the object
        finalize(self, self._file.close)
        self._kept: list[Sequence[Any] | None] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, items: Sequence[Any]) -> None:
        """Put some aside. What cannot be pickled, such as odd metadata, stays in memory."""
        try:
            written = pickle.dumps(list(items), pickle.HIGHEST_PROTOCOL)
        except Exception:  # a class may raise what it likes
            self._kept.append(items)
        else:
            self._kept.append(None)
            self._file.write(written)
        self._count += len(items)

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for kept in self._kept:
            yield from map(copy.copy, kept) if kept is not None else pickle.load(self._file)
