"""Who reads a Milvus Lite database, and who writes to it, take turns.

It loses rows when writes and flushes overlap. And while it flushes, its memory is empty and the file not yet
there that a search would look at: a search would not find rows that were acknowledged long before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from t2i_pipelines.locks import Lock, Turns

_lock = Lock()
_turns: dict[str, Turns] = {}


@contextmanager
def one_writer(database: str) -> Iterator[None]:
    """Let one thread write while none reads; of a local database, also among forked children.

    :param database: a path or a server's uri.
    """
    with _turns_of(database).alone() as is_first, _one_process(database) if is_first else nullcontext():
        yield


@contextmanager
def reading(database: str) -> Iterator[None]:
    """Keep those out who write; the one who writes may read.

    Do nothing within the block that waits for one who writes.
    """
    with (
        _turns_of(database).shared() as is_beside,
        _one_process(database, shared=True) if is_beside else nullcontext(),
    ):
        yield


def _turns_of(database: str) -> Turns:
    with _lock:
        return _turns.setdefault(database, Turns())


@contextmanager
def _one_process(database: str, *, shared: bool = False) -> Iterator[None]:
    try:
        import fcntl

        handle = os.open(database, os.O_RDONLY)
    except (ImportError, OSError):  # no such call on this system, or not a local database
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile keeps the handle open
        os.close(handle)
