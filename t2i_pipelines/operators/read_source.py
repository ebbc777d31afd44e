"""The first step of inserting: from a source to batches of records."""

from __future__ import annotations

from collections.abc import Iterator

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import records
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.types import Batch, OnError, Record

CONTENT_BYTES = 128 << 20
"""Of the files that come with the records of one batch, as from a tar; such a batch ends early."""


class ReadSource(Operator):
    """``ops.t2i.read_source``: a source -> batches. For ``flat_map``.

    :param batch_size: records a batch; the last may be shorter, and those with more than
        ``CONTENT_BYTES`` of files are.
    """

    def __init__(self, batch_size: int = 32, on_error: OnError = "record") -> None:
        self.batch_size = batch_size
        self.on_error = on_error

    def __call__(self, source: object) -> Iterator[Batch]:
        """Anything that :func:`t2i_pipelines.images.records` reads -> batches, made when asked for.

        :raises SourceError: If there is nothing to read, or at a bad row with ``on_error="raise"``.
        """
        rows = records(source)
        batch = self._next(rows)
        while batch:
            following = self._next(rows)
            batch.last = not following
            if self.on_error == "raise":
                for record in batch:
                    if record.status == "failed":
                        raise SourceError(record.reason)
            yield batch
            batch = following

    def _next(self, rows: Iterator[Record]) -> Batch:
        batch, size = Batch(), 0
        for record in rows:
            batch.append(record)
            size += len(record.content or b"")
            if len(batch) == self.batch_size or size >= CONTENT_BYTES:
                break
        return batch
