"""What a collection holds, in memory: enough to see which files are new, changed, moved or gone.

Records that wait for their turn, outside of memory.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.images.packed import Ids, Packed, find, packed
from t2i_pipelines.types import Record, content_of

STAMP_FIELDS = ("size", "mtime", "digest")
"""What a scan of the collection must bring beside ``id``."""

GONE, UNCHANGED, PENDING, FAILED = range(4)
"""What the source says of a row: nothing, the same, something else, that it cannot be read."""


class Inventory:
    """The rows of a collection at 41 bytes each, 49 where files are new, and twice that while it is made.

    :ivar ids: packs and unpacks ids; an id of the source's own costs about 200 bytes more.
    :ivar keys: (N,) packed ids, sorted.
    :ivar stamps: (N,) uint64, see :func:`stamp`.
    :ivar contents: (N,) digests of the files' bytes; empty where the row has none.
    :ivar states: (N,) uint8, what the source says of each row; ``GONE`` at first.
    """

    def __init__(self, pages: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        self.ids = Ids()
        keys, contents, stamps = [packed([])], [packed([])], [np.empty(0, np.uint64)]
        for page in pages:
            keys.append(packed([self.ids.pack(row["id"], remember=True) for row in page]))
            contents.append(packed([content_key(row["digest"]) for row in page]))
            stamps.append(np.array([stamp(*(row[name] for name in STAMP_FIELDS)) for row in page], np.uint64))
        self.keys: Packed = _joined(keys)
        order = np.argsort(self.keys)
        self.keys = self.keys[order]
        self.contents: Packed = _joined(contents)[order]
        self.stamps: NDArray[np.uint64] = _joined(stamps)[order]
        self.states = np.full(len(order), GONE, np.uint8)

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """For each id its row, -1 where it is not stored."""
        return find(self.keys, packed([self.ids.pack(id) for id in ids]))

    def gone(self) -> int:
        """How many rows the source does not name."""
        return int(np.count_nonzero(self.states == GONE))

    def gone_ids(self, many: int) -> Iterator[list[str]]:
        """The ids of these rows, ``many`` at a time."""
        places = np.flatnonzero(self.states == GONE)
        for start in range(0, len(places), many):
            yield [self.ids.unpack(key) for key in self.keys[places[start : start + many]]]

    def moved(self, contents: Packed) -> int:
        """How many of these rows have one of these contents, and so are in the source under other names."""
        return int(np.count_nonzero(np.isin(self.contents[self.states == GONE], contents)))


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Join arrays into one and release them."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def content_key(digest: str) -> bytes:
    """The content's part of a row's digest as 16 bytes, none where the row was not made from a file."""
    try:
        return bytes.fromhex(content_of(digest))
    except ValueError:
        return b""


def stamp(size: int, mtime: int, digest: str) -> int:
    """64 bits of size, time of change and metadata: what a file is known by without being opened.

    :param digest: ``content:metadata``; only the metadata's part counts.
    """
    text = f"{size} {mtime} {digest.partition(':')[2]}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


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
