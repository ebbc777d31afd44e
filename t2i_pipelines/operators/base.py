"""The contract of every operator; the operators do not repeat it.

1. A constructor takes plain values and remembers them; files, models and connections are opened by the
   first call and shared by the whole process. Towhee creates operators freely.
2. An operator is entered by many threads at once and changes nothing of its own in a call.
3. It takes one item and gives one result, or takes a list and gives a list as long. A :class:`Batch` it
   fills in place: records that have a status are skipped, and none is added, dropped or moved.
4. Given plain items, it raises at the first that it cannot work on. Given a batch, it does what
   ``on_error`` says: ``record`` ends that record as ``failed``, ``raise`` raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from t2i_pipelines._towhee.door import SharedType
from t2i_pipelines.images import is_remote
from t2i_pipelines.images.files import Ahead
from t2i_pipelines.types import Batch, OnError, Outcome, Reason, Record, Stage, log_failure


class Operator:
    """Shared by all calls of a pipeline, and never copied."""

    shared_type: ClassVar[Any] = SharedType.Shareable
    in_flight: ClassVar[int | None] = 1
    """How many results may wait for the next operator; see :func:`t2i_pipelines.harden`."""

    def __deepcopy__(self, memo: object) -> Self:
        """Return self: Towhee deep-copies the whole graph whenever a step is appended."""
        return self


class ItemOperator(Operator, ABC):
    """An operator on items, lists of items, and batches."""

    on_error: OnError = "record"
    stage: ClassVar[Stage]
    """Where a batch's time is counted."""

    def __call__(self, data: Any) -> Any:
        """One item, a list, or a batch -> the same shape of results."""
        if isinstance(data, Batch):
            with data.clock.busy(self.stage, data):
                self.work(data)
            return data
        if isinstance(data, list):
            return self.many(data)
        return self.many([data])[0]

    def work(self, batch: Batch) -> None:
        """Do this operator's part of a batch."""
        self.fill(batch.pending)

    @abstractmethod
    def many(self, items: Sequence[Any]) -> list[Any]:
        """N items -> N results, in order."""

    @abstractmethod
    def fill(self, records: list[Record]) -> None:
        """Do this operator's part of each record."""

    def reject(self, record: Record, err: Exception) -> None:
        """End a record that this operator cannot work on."""
        if self.on_error == "raise":
            raise err
        record.fail(err)


class Outcomes(Operator):
    """``ops.t2i.outcomes``: a batch -> rows ``(path, id, status, reason)``. For ``flat_map``."""

    in_flight: ClassVar[int | None] = None

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Return one row a record, in order; ``status`` is never missing."""
        for record in batch.unfinished:
            record.fail(f"{record.path}: no step of the pipeline finished it")
        clock = batch.clock
        fine = Reason("", "insert")
        fine.clock = clock
        rows = []
        for record in batch:
            outcome = record.outcome
            clock.counts[outcome.status] += 1
            if isinstance(outcome.reason, Reason):
                outcome.reason.clock = clock
                if outcome.status == "failed":
                    log_failure(outcome.path, outcome.id, outcome.reason.stage, str(outcome.reason))
            else:
                outcome = outcome._replace(reason=fine)
            rows.append(outcome)
        if batch.last:
            clock.log_end()
        return rows


class Prefetch(Operator):
    """``ops.t2i.prefetch``: begin to fetch the files of a batch, and pass it on at once.

    Batches wait behind this step, so that one slow host delays no other until all of them are full.
    """

    in_flight: ClassVar[int | None] = 8

    def __call__(self, batch: Batch) -> Batch:
        """Begin with each record that is still needed, is remote, and has no bytes or other way to them."""
        for record in batch.pending:
            if record.content is None and record.ahead is None and is_remote(record.path):
                record.ahead = Ahead(record.path).take
        return batch
