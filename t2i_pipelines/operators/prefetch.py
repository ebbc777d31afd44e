"""Remote images are asked for as soon as it is known that they are needed."""

from __future__ import annotations

from typing import ClassVar

from t2i_pipelines.images import is_remote
from t2i_pipelines.images.ahead import Ahead
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.types import Batch


class Prefetch(Operator):
    """``ops.t2i.prefetch``: begin to fetch what a batch needs, and pass it on at once.

    Batches wait behind this step, so that one slow host delays no other until all of them are full.
    """

    in_flight: ClassVar[int | None] = 8

    def __call__(self, batch: Batch) -> Batch:
        """Begin with each record that is still needed, is remote, and has no bytes or other way to them."""
        for record in batch.pending:
            if record.content is None and record.ahead is None and is_remote(record.path):
                record.ahead = Ahead(record.path).take
        return batch
