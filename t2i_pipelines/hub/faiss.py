"""``ops.ann_insert.faiss_index`` and ``ops.ann_search.faiss_index`` of Towhee's hub, on a folder.

The folder has the files of Towhee's own index: ``index.bin``, which Faiss writes (exact, by L2), and
``kv.bin``, JSON of each row's number and its fields. Meant for trying things: every search compares all rows.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection.rows import check_vectors
from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, MissingExtraError, StoreError
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.types import Vector

INDEX, FIELDS = "index.bin", "kv.bin"
LARGEST_DIMENSION = 32768
ANOTHER = (-1, -1)
"""The stamp of no file."""


class FaissFolder:
    """An index and the fields of its rows, in one folder. Thread-safe; for one process at a time.

    Inserted rows wait in memory until the next search or :meth:`flush`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._waiting: list[tuple[Vector, str]] = []
        self._stamp: tuple[int, int] | None = None
        self._index: Any = None
        self._fields: dict[str, Any] = {}

    def insert(self, vector: Any, fields: list[Any], dimension: int | None) -> None:
        """Add a row.

        :raises VectorError: If the vector has another dimension than the rows before it, or is not finite.
        :raises ConfigError: If ``dimension`` is another than that of the index, or a field is not JSON.
        """
        try:
            as_json = json.dumps(fields, default=_plain)
        except (TypeError, ValueError) as err:
            raise ConfigError(
                f"faiss_index stores texts, numbers, lists and dicts beside a vector; "
                f"got {fields!r:.80}: {err}"
            ) from err
        with self._lock:
            self._read()
            wanted = len(self._waiting[0][0]) if self._waiting else self._index and self._index.d
            if wanted and dimension not in (None, wanted):
                raise ConfigError(f"{self._folder / INDEX} has dimension {wanted}; got dimension={dimension}")
            wanted = wanted or dimension or np.size(vector)
            self._waiting.append((check_vectors([vector], ["vec"], wanted, may_be_zero=True)[0], as_json))

    def search(self, vector: Any, limit: int) -> list[list[Any]]:
        """(D,) -> ``[number, squared distance, fields]`` of the nearest rows, nearest first.

        :raises CollectionNotFoundError: If there is no index.
        :raises VectorError: If the vector has another dimension or is not finite.
        """
        with self._lock:
            self.flush()
            self._read()
            if self._index is None:
                raise CollectionNotFoundError(
                    f"there is no {self._folder / INDEX}; insert by ops.ann_insert.faiss_index first"
                )
            query = check_vectors([vector], ["query"], self._index.d, may_be_zero=True)
            scores, numbers = self._index.search(query, min(limit, self._index.ntotal))
        found = zip(numbers[0].tolist(), scores[0].tolist(), strict=True)
        return [[number, score, self._fields.get(str(number), [])] for number, score in found]

    def flush(self) -> None:
        """Write the rows that wait.

        :raises StoreError: If the folder cannot be written.
        """
        with self._lock:
            if not self._waiting:
                return
            self._read()
            rows, self._waiting = self._waiting, []
            try:
                self._add(rows)
                self._write()
            except (OSError, RuntimeError) as err:  # Faiss's own
                self._waiting = rows + self._waiting
                self._stamp = ANOTHER  # what is in memory is not what is on disk
                raise StoreError(f"cannot write the index to {self._folder}: {err}") from err

    def _add(self, rows: list[tuple[Vector, str]]) -> None:
        vectors = np.stack([vector for vector, _ in rows])
        if self._index is None:
            faiss = import_module("faiss")
            self._index = faiss.index_factory(vectors.shape[1], "IDMap,Flat", faiss.METRIC_L2)
        first = max(map(int, self._fields), default=-1) + 1
        self._index.add_with_ids(vectors, np.arange(first, first + len(rows), dtype=np.int64))
        self._fields |= {str(first + at): json.loads(fields) for at, (_, fields) in enumerate(rows)}

    def _read(self) -> None:
        """Read the files, where others than those that were last read or written are there."""
        path = self._folder / INDEX
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._index, self._fields, self._stamp = None, {}, stamp
        if stamp is not None:
            faiss = import_module("faiss")
            self._index = _readable(lambda: faiss.read_index(str(path)), path)
            fields = self._folder / FIELDS
            self._fields = dict(_readable(lambda: json.loads(fields.read_text(encoding="utf-8")), fields))

    def _write(self) -> None:
        new = {name: self._folder / f"{name}.new" for name in (FIELDS, INDEX)}
        self._folder.mkdir(parents=True, exist_ok=True)
        new[FIELDS].write_text(json.dumps(self._fields, ensure_ascii=False), encoding="utf-8")
        import_module("faiss").write_index(self._index, str(new[INDEX]))
        for name, path in new.items():  # fields of rows that are not there harm less than rows without
            path.replace(self._folder / name)
        self._stamp = _stamp(self._folder / INDEX)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_size


def _readable(read: Callable[[], Any], path: Path) -> Any:
    try:
        return read()
    except (OSError, RuntimeError, ValueError, TypeError) as err:
        reason = str(err).splitlines()[0]
        raise StoreError(
            f"{path} cannot be read: {reason}; delete the folder {path.parent} and insert again"
        ) from err


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_OPEN: weakref.WeakValueDictionary[Path, FaissFolder] = weakref.WeakValueDictionary()
_OPENING = Lock()


def _open(data_dir: Any) -> FaissFolder:
    """Return the one object of a folder.

    :raises MissingExtraError: If Faiss is not installed.
    """
    if find_spec("faiss") is None:
        raise MissingExtraError.of("faiss-cpu", "faiss")
    folder = Path(data_dir).expanduser().absolute()
    with _OPENING:
        return _OPEN.setdefault(folder, FaissFolder(folder))


class FaissInsert(Operator):
    """One row into the index of a folder.

    Rows are written by ``pipeline.flush()``, by the next search in this process, or when the pipeline is
    deleted or the process ends.

    :param data_dir: the folder; the first write makes it.
    :param dimension: of the vectors; None is that of the first.
    :raises ConfigError: If the dimension is no whole number of 1 and up.
    :raises MissingExtraError: If Faiss is not installed.
    """

    def __init__(self, data_dir: Any, dimension: int | None = None) -> None:
        if dimension is not None:
            check_whole_number("dimension", dimension, LARGEST_DIMENSION)
        self._dimension = dimension
        self._folder = _open(data_dir)
        weakref.finalize(self, self._folder.flush)

    def __call__(self, vec: Any, *args: Any) -> None:
        """(D,), and the row's fields: what a search gives back beside its distance.

        :raises VectorError: If the vector has another dimension or is not finite.
        """
        self._folder.insert(vec, list(args), self._dimension)

    def flush(self) -> None:
        """Write everything out; ``pipeline.flush()`` calls this."""
        self._folder.flush()


class FaissSearch(Operator):
    """A vector -> the nearest rows of the index of a folder.

    :param data_dir: the folder that was inserted into.
    :param top_k: how many, at most.
    :raises ConfigError: If that is no whole number of 1 and up.
    :raises MissingExtraError: If Faiss is not installed.
    """

    def __init__(self, data_dir: Any, top_k: int = 5) -> None:
        check_whole_number("top_k", top_k, MAX_LIMIT)
        self._limit = top_k
        self._folder = _open(data_dir)

    def __call__(self, query: Any) -> list[list[Any]]:
        """(D,) -> ``[[id, score, [*fields]], ...]``: the row's number, the squared distance, its fields.

        :raises CollectionNotFoundError: If there is no index.
        :raises VectorError: If the vector has another dimension or is not finite.
        """
        return self._folder.search(query, self._limit)
