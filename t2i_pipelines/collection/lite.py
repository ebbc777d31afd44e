"""Repair and guard Milvus Lite 3: locks, damaged files, and the order of reads and writes.

A database is a directory. One process at a time may open it; within that process it is served over gRPC from
threads, and ``MilvusClient.close()`` does not end those.

It loses rows when writes and flushes overlap. While it flushes, its memory is empty and the file not yet
written, so that a search would miss rows that were acknowledged long before. So reads and writes take turns.

FAISS warns on standard error that a small segment has few rows to train an index on. An index of one list is
the exact comparison and learns nothing, so that warning is suppressed.

Some filters it evaluates in Python, row by row. There ``like`` backtracked without end, and sums and
multiples of texts filled the memory; either ends the whole process. Both are bounded here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from operator import add, mul
from pathlib import Path
from typing import Any

from t2i_pipelines._towhee.locks import Lock, ReadWriteLock, in_forked_child
from t2i_pipelines.errors import StoreError, StoreFormatError, StoreLockedError

INDEX_TYPES = ("AUTOINDEX", "FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
"""What Milvus Lite can load again. It accepts any other name too, and then never opens the collection."""

log = logging.getLogger("t2i_pipelines.collection")

_lock = Lock()
_opened: set[str] = set()  # paths whose server this package started
_inherited: dict[str, Any] = {}  # in a forked child: the parent's servers, path -> (server, db, port)


def exists(path: Path) -> bool:
    """Return whether there may be a database. An empty directory is none.

    :raises StoreFormatError: If what is there cannot be one.
    """
    if path.is_file():
        raise StoreFormatError(
            f"{path} is a file, and a Milvus Lite 3 database is a directory; if Milvus Lite 2 made "
            f"it, it cannot be read any more: choose another uri and insert the images again"
        )
    if not path.is_dir():
        return False
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as err:
        raise StoreError(f"cannot read {path}: {err}") from err
    if names and not names & {"LOCK", "collections"}:
        raise StoreFormatError(
            f"{path} is a directory but no Milvus Lite database (it has neither LOCK nor "
            f"collections); choose another uri"
        )
    return bool(names)


def uri_for(path: Path) -> str:
    """Return what ``MilvusClient`` must be given to open ``path``. Makes the parent directories.

    A forked child talks to its parent's server: it must not open the files a second time.

    :raises StoreFormatError: If ``path`` is something else than a database.
    """
    if str(path) in _inherited:
        return f"http://127.0.0.1:{_inherited[str(path)][2]}"
    exists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StoreError(f"cannot make the directory {path.parent}: {err}") from err
    if not _served(path):
        _drop_flushed_logs(path)
        with _lock:
            _opened.add(str(path))
    return str(path)


def _drop_flushed_logs(path: Path) -> None:
    """Delete the logs of rows that a flush has put into data files.

    It deletes them itself, but last. Killed just before that, it would read these rows from both, and have
    each twice.
    """
    with _keep_others_out(path) as is_free:
        for manifest in path.glob("collections/*/manifest.json") if is_free else ():
            try:
                first_unflushed = json.loads(manifest.read_text(encoding="utf-8"))["active_wal_number"]
            except (OSError, ValueError, KeyError, TypeError):  # Milvus Lite says what is wrong with it
                continue
            for log_file in manifest.parent.glob("wal/wal_*.arrow"):
                number = log_file.stem.rpartition("_")[2]
                if first_unflushed is not None and number.isdecimal() and int(number) < first_unflushed:
                    _delete(log_file)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as err:
        raise StoreError(f"cannot delete {path}: {err.strerror}") from err


def explain(path: Path, err: BaseException) -> StoreError:
    """Return why ``path`` did not open. Milvus Lite itself says only that it failed."""
    try:
        if exists(path) and not _served(path) and _held(path):
            return _locked(path)
    except StoreError as found:
        return found
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return StoreError(f"cannot open {path}: no permission to write there")
    return StoreError(f"cannot open the Milvus Lite database {path}: {err}")


def release(path: Path) -> None:
    """Stop serving ``path`` and give its lock back, if this process took it through this package."""
    with _lock:
        ours = str(path) in _opened
        _opened.discard(str(path))
    if ours and str(path) not in _inherited:
        _manager().release_server(str(path))


def abandon(path: Path) -> None:
    """Let :func:`release` write nothing, so that the next open recovers every acknowledged row.

    After a write that broke, as on a full disk, Milvus Lite goes on and loses rows: a flush that failed has
    dropped them from memory, and the next one deletes the log that holds them; and what is appended to a
    log behind a torn end is never read. A server of another process is left alone, so these it can lose.
    """
    if str(path) not in _opened:
        return
    _, database, _ = _manager()._servers[str(path)]
    for collection in database._collections.values():
        collection._bg_closed = True
        collection._bg_executor.shutdown(wait=True)
        for sink in (collection._wal._data_sink, collection._wal._delta_sink):
            if sink is not None:
                sink.raw.close()  # and with it the rest of the torn batch, which was never acknowledged
    database._collections.clear()


def forget_indexes(path: Path, collection_name: str) -> int:
    """Delete the index files of one collection, which the next load rebuilds. Returns how many.

    They are written in place: a crash leaves half of one, and the collection never loads again.
    """
    files = list((path / "collections" / collection_name).glob("partitions/*/indexes/*.idx"))
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def _manager() -> Any:
    from milvus_lite.server_manager import server_manager_instance

    return server_manager_instance


def _served(path: Path) -> bool:
    """Return whether this process has ``path`` open, through this package or not."""
    return str(path) in getattr(_manager(), "_servers", {})


def _held(path: Path) -> bool:
    """Return whether some process holds the lock of ``path``."""
    with _keep_others_out(path) as is_free:
        return not is_free


@contextmanager
def _keep_others_out(path: Path) -> Iterator[bool]:
    """Hold the lock of ``path`` within the block; False where another process has it."""
    try:
        import fcntl

        handle = os.open(path / "LOCK", os.O_RDONLY)
    except (ImportError, OSError):
        yield True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _locked(path: Path) -> StoreLockedError:
    return StoreLockedError(
        f"{path} is open in another process, and Milvus Lite allows one; close that one, or share "
        f"the database: run milvus-lite server --data-dir {path} --host 127.0.0.1 --port 19530 "
        f"and use uri='http://127.0.0.1:19530'"
    )


def _disown_servers() -> None:
    """In a forked child, leave the parent's servers alone.

    At its exit Milvus Lite would flush the child's stale copy of their memory into the parent's files.
    """
    module = sys.modules.get("milvus_lite.server_manager")
    if module is None:
        return
    manager = module.server_manager_instance
    manager._lock = threading.Lock()
    for path in _opened & set(manager._servers):
        _inherited[path] = manager._servers.pop(path)  # kept: its destructor would act on the parent's
    _opened.clear()


in_forked_child(_disown_servers)


class _Faiss:
    """The module ``faiss``, whose IVF indexes need one row only."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name not in ("IndexIVFFlat", "IndexIVFScalarQuantizer"):
            return found

        def make(*arguments: Any) -> Any:
            index = found(*arguments)
            index.cp.min_points_per_centroid = 1
            return index

        return make


def quieten() -> None:
    """Do so for the whole process, once."""
    from milvus_lite.index import faiss_ivf_flat, faiss_ivf_sq8

    for module in (faiss_ivf_flat, faiss_ivf_sq8):
        if not isinstance(module.faiss, _Faiss):
            module.faiss = _Faiss(module.faiss)


def bound_filters() -> None:
    """Bound the time and the memory of filters in the whole process. Calling it again changes nothing."""
    from milvus_lite.search.filter.eval import python_backend

    python_backend._get_like_regex = like_pattern
    python_backend._ARITH_OPS.update({"*": _of_numbers(mul), "+": _of_numbers(add)})


@lru_cache(1024)
def like_pattern(like: str) -> re.Pattern[str]:
    """Return the regular expression of a ``like`` pattern, without backtracking (atomic groups).

    The first match of the text between two ``%`` is as good as any later one, so it is never tried again.
    """
    first, *parts = [re.escape(part).replace("_", ".") for part in like.split("%")]
    if parts:
        *middle, last = parts
        first += "".join(f"(?>.*?{part})" for part in middle if part) + f".*{last}"
    return re.compile(rf"{first}\Z", re.DOTALL)


def _of_numbers(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return an operation that refuses texts and lists: its result is unknown, as for a missing value."""

    def calculated(left: Any, right: Any) -> Any:
        if isinstance(left, (str, list)) or isinstance(right, (str, list)):
            raise TypeError("texts and lists are no numbers")
        return work(left, right)

    return calculated


_turns: dict[str, ReadWriteLock] = {}


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


def _turns_of(database: str) -> ReadWriteLock:
    with _lock:
        return _turns.setdefault(database, ReadWriteLock())


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
