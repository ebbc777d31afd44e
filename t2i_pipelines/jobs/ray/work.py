"""What Ray's processes run: parts of a source, operators on batches, images to vectors in your own jobs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar, Unpack

import numpy as np

from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.errors import ConfigError, SourceError, T2IError
from t2i_pipelines.images import digest, records
from t2i_pipelines.images.address import scheme
from t2i_pipelines.images.record import brief, record_of, refused
from t2i_pipelines.images.source import is_table, shards
from t2i_pipelines.operators import OPERATORS
from t2i_pipelines.pipelines.build import checked, insert_arguments, shows_settings
from t2i_pipelines.types import Batch, Matrix, Record, Vector

RECORDS_A_PART = 4096
"""Of a list, or whatever else is read where the run was started."""

PARTS_AT_ONCE = 64
"""Of a list: with more, the next are made when these are done."""


@dataclass(frozen=True)
class Part:
    """The part of a source that one task reads.

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
    """Yield the parts of a source, as many at a time as are worked on together.

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
    :ivar skipped: files that the source skipped in the part, in its last shipment.
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
    """Return a ``pyarrow.Table`` of one row with the pickled shipment."""
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([pickle.dumps(shipment, 5)], pa.large_binary())})


def unpacked(table: Any) -> Shipment:
    """Return what :func:`packed` made, read where Ray holds it."""
    (row,) = table[COLUMN]
    shipment: Shipment = pickle.loads(row.as_buffer())
    return shipment


PART = "part"

_registered: dict[str, bytes] = {}


@dataclass(frozen=True)
class Steps:
    """Operators that work on a batch in one process, one after the other.

    :ivar operators: the name in ``ops.t2i`` of each, and its arguments.
    :ivar model_name: of the model that they use.
    :ivar factory: of that model, pickled, if it was registered in the process that started the run.
    """

    operators: tuple[tuple[str, dict[str, Any]], ...]
    model_name: str
    factory: bytes | None = None

    def made(self) -> list[Any]:
        """Return the operators."""
        if self.factory is not None and _registered.get(self.model_name) != self.factory:
            register_encoder(self.model_name, pickle.loads(self.factory))
            _registered[self.model_name] = self.factory
        return [OPERATORS[f"t2i/{name.replace('_', '-')}"](**arguments) for name, arguments in self.operators]


def read(table: Any, steps: Steps) -> Iterator[Any]:
    """A part of the source -> a table a batch, made when asked for, and a last one that counts the records.

    Read again, after a crash, it gives the same batches as long as the source is the same.
    """
    (row,) = table[PART]
    part: Part = pickle.loads(row.as_buffer())
    end = Shipment(part.number, 0)
    stages: dict[str, float] = {}
    try:
        for batch in _batches(part, steps):
            stages = batch.clock.stages
            end.skipped = batch.clock.skipped.snapshot()
            batch.last = False  # the run is flushed once, at its end
            yield packed(Shipment(part.number, end.start, batch))
            end.start += len(batch)
    except T2IError as err:
        end.error = err
    end.total = end.start
    end.count(stages)
    yield packed(end)


def _batches(part: Part, steps: Steps) -> Iterator[Batch]:
    (read_source,) = steps.made()
    source: object = part.source
    if part.may_be_empty:
        try:
            source = records(source, exclude=read_source.exclude)
        except SourceError:
            return
    yield from read_source(source)


def prepare(table: Any, steps: Steps) -> Any:
    """Look a batch up, read and decode it, in a task."""
    return _worked(table, steps.made())


class _Worker:
    """Works on one batch after the other, in an actor."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    @cached_property
    def _operators(self) -> list[Any]:
        return self._steps.made()

    def __call__(self, table: Any) -> Any:
        """Work on one batch."""
        return _worked(table, self._operators)


class Encoder(_Worker):
    """An actor that embeds; its process loads the model once."""


class Writer(_Worker):
    """An actor that stores."""


def _worked(table: Any, operators: list[Any]) -> Any:
    shipment = unpacked(table)
    batch = shipment.batch
    if batch and shipment.error is None:
        try:
            for operator in operators:
                operator(batch)
        except T2IError as err:
            shipment.error = err
        shipment.count(batch.clock.stages)
        _lighten(batch)
    return packed(shipment)


def _lighten(batch: Batch) -> None:
    """Drop the vectors of finished records, and the metadata of those that did not fail."""
    for record in batch:
        if record.status is not None:
            record.vector = record.twin = None
            if record.status != "failed":
                record.metadata = {}


ADDED = ("id", "vector", "error")

B = TypeVar("B")


@shows_settings
def embed_batch(batch: B, *, column: str = "path", **settings: Unpack[SettingsArgs]) -> B:
    """Add a vector to each row of a batch: ``dataset.map_batches(embed_batch)``.

    Of the same kind as ``batch`` and as long, with three more columns:

    * ``id``: the primary key that inserting gives this path; the row's own where the batch has an ``id``;
      for bytes without one, the digest of the bytes;
    * ``vector``: D numbers, float32, of unit length. In a dict one (N, D) array, where the rows of failures
      are NaN; in a data frame an array a row, in a table a list, missing for failures;
    * ``error``: empty, or one sentence. A bad image is a row with an error, and ends no job.

    The model is loaded once in each process. With Spark::

        frame.mapInPandas(lambda frames: (embed_batch(one) for one in frames),
                          "path string, id string, vector array<float>, error string")

    :param batch: a dict of arrays or lists of one length, a ``pandas.DataFrame``, or a ``pyarrow.Table``.
    :param column: holds what to embed: a path or a URL, or the bytes of a file.
    :param settings: see :class:`t2i_pipelines.config.Settings`; those of model and decoding count, and
        ``batch_size`` for one pass of the model.
    :raises ConfigError: If a setting is wrong, or the batch has no such column.
    :raises CheckpointError: If the model's files are missing.
    """
    given = insert_arguments(*checked({**settings, "on_error": "record"}))
    values = _column(batch, column)
    ids = _column(batch, "id") if "id" in _names(batch) else [None] * len(values)
    records = [_record(value, id, column) for value, id in zip(values, ids, strict=True)]
    operators = [
        OPERATORS["t2i/image-decode"](**given["image_decode"]),
        OPERATORS["t2i/clip"](**given["clip"]),
        OPERATORS["t2i/normalize"](**given["normalize"]),
    ]
    size = given["read_source"]["batch_size"]
    for at in range(0, len(records), size):
        some = Batch(records[at : at + size])
        for operator in operators:
            operator(some)
    dim = 0 if any(record.vector is not None for record in records) else operators[1].encoder.space.dim
    return _with(batch, records, dim)  # type: ignore[no-any-return]


def _record(value: Any, id: Any, column: str) -> Record:
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
        key = digest(content) if id is None else str(id)
        return Record(f"<{column} {key}>", key, content=content)
    named = {} if id is None else {"id": id}
    try:
        return record_of({"path": value, **named})
    except (TypeError, ValueError) as err:  # a path with a null character, for one
        return refused(brief(value), f"cannot read image {brief(value)}: {err}")


def _names(batch: Any) -> list[str]:
    if isinstance(batch, Mapping):
        return list(batch)
    names = getattr(batch, "column_names", getattr(batch, "columns", None))
    if names is None:
        raise ConfigError(
            f"a batch is a dict of arrays, a pandas.DataFrame or a pyarrow.Table; got {type(batch).__name__}"
        )
    return [str(name) for name in names]


def _column(batch: Any, name: str) -> list[Any]:
    if name not in (names := _names(batch)):
        raise ConfigError(f"the batch has no column {name!r}; it has {', '.join(names)}: say column=")
    values = batch[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)


def _with(batch: Any, records: list[Record], dim: int) -> Any:
    """Return the batch with the columns of :data:`ADDED`."""
    ids, errors = [record.id for record in records], [record.reason for record in records]
    vectors = [record.vector for record in records]
    if isinstance(batch, Mapping):
        columns = (np.array(ids, object), _matrix(vectors, dim), np.array(errors, object))
        return {**batch, **dict(zip(ADDED, columns, strict=True))}
    if hasattr(batch, "assign"):
        return batch.assign(id=ids, vector=vectors, error=errors)
    import pyarrow as pa

    kinds = (pa.string(), pa.list_(pa.float32()), pa.string())
    for name, values, kind in zip(ADDED, (ids, vectors, errors), kinds, strict=True):
        if name in batch.column_names:
            batch = batch.drop_columns([name])
        batch = batch.append_column(name, pa.array(values, kind))
    return batch


def _matrix(vectors: list[Vector | None], dim: int) -> Matrix:
    """Return vectors as (N, D); rows without vector are NaN."""
    there = [vector for vector in vectors if vector is not None]
    matrix = np.full((len(vectors), len(there[0]) if there else dim), np.nan, np.float32)
    for row, vector in zip(matrix, vectors, strict=True):
        if vector is not None:
            row[:] = vector
    return matrix
