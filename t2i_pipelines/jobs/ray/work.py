"""What runs in Ray's processes: the operators of the pipelines, on one batch after the other."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.errors import SourceError, T2IError
from t2i_pipelines.images import records
from t2i_pipelines.jobs.ray.parts import Part
from t2i_pipelines.jobs.ray.shipment import Shipment, packed, unpacked
from t2i_pipelines.operators import OPERATORS
from t2i_pipelines.types import Batch

PART = "part"

_registered: dict[str, bytes] = {}


@dataclass(frozen=True)
class Steps:
    """Operators that work on a batch in one process, one after the other.

    :ivar operators: the name in ``ops.t2i`` of each, and what it is made with.
    :ivar model_name: of the model that they use.
    :ivar factory: of that model, pickled, if it was registered in the process that started the run.
    """

    operators: tuple[tuple[str, dict[str, Any]], ...]
    model_name: str
    factory: bytes | None = None

    def made(self) -> list[Any]:
        """The operators."""
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
    """Drop what is not needed of finished records; of failed ones the metadata is reported."""
    for record in batch:
        if record.status is not None:
            record.vector = record.twin = None
            if record.status != "failed":
                record.metadata = {}
