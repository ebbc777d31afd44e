"""Records that wait for their turn, outside of memory."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Iterator, Sequence

from t2i_pipelines.types import Record

IN_MEMORY = 16 << 20
"""Bytes; beyond that a temporary file is written, which has no name and goes with the process."""


class Spill:
    """Records in, and the same out again as often as one likes; each time new objects."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by close
        self._kept: list[Sequence[Record] | None] = []
        self._count = 0

    def close(self) -> None:
        """Release memory and file."""
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def add(self, records: Sequence[Record]) -> None:
        """Put some aside. What cannot be pickled, such as odd metadata, stays in memory."""
        try:
            written = pickle.dumps(list(records), pickle.HIGHEST_PROTOCOL)
        except Exception:  # a class may raise what it likes
            self._kept.append(records)
        else:
            self._kept.append(None)
            self._file.write(written)
        self._count += len(records)

    def __iter__(self) -> Iterator[Record]:
        self._file.seek(0)
        for kept in self._kept:
            yield from map(copy.copy, kept) if kept is not None else pickle.load(self._file)
