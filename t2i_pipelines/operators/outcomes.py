"""The last step of inserting: one row an input."""

from __future__ import annotations

from typing import ClassVar

from t2i_pipelines.operators.base import Operator
from t2i_pipelines.types import Batch


class Outcomes(Operator):
    """``ops.t2i.outcomes``: a batch -> rows ``(path, id, status, reason)``. For ``flat_map``."""

    in_flight: ClassVar[int | None] = None

    def __call__(self, batch: Batch) -> list[tuple[str, str, str, str]]:
        """One row a record, in order; ``status`` is never missing."""
        for record in batch.pending:
            record.fail(f"{record.path}: no step of the pipeline finished it")
        return [(record.path, record.id, str(record.status), record.reason) for record in batch]
