"""The last step of inserting: one row an input."""

from __future__ import annotations

from typing import ClassVar

from t2i_pipelines.operators.base import Operator
from t2i_pipelines.stages import log_failure
from t2i_pipelines.types import Batch, Outcome, Reason


class Outcomes(Operator):
    """``ops.t2i.outcomes``: a batch -> rows ``(path, id, status, reason)``. For ``flat_map``."""

    in_flight: ClassVar[int | None] = None

    def __call__(self, batch: Batch) -> list[Outcome]:
        """One row a record, in order; ``status`` is never missing."""
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
