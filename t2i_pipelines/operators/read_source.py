"""The first step of inserting: from a source to batches of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from t2i_pipelines.config.settings import Settings
from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import brief, distinct_records
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.types import Batch, OnError, Record, Stopwatch, log

BATCH_SIZE = Settings.batch_size


class ReadSource(Operator):
    """``ops.t2i.read_source``: a source -> batches. For ``flat_map``.

    :param batch_size: records a batch; the last may be shorter, and so may those whose files come along, as
        from a tar: see :meth:`~t2i_pipelines.types.Batch.take`.
    :param exclude: globs of files and folders to skip.
    """

    def __init__(
        self, batch_size: int = BATCH_SIZE, on_error: OnError = "record", exclude: Sequence[str] = ()
    ) -> None:
        self.batch_size = batch_size
        self.exclude = exclude
        self.on_error = on_error

    def __call__(self, source: object) -> Iterator[Batch]:
        """Anything that :func:`t2i_pipelines.images.records` reads -> batches, made when asked for.

        :raises SourceError: If there is nothing to read, or at a bad row with ``on_error="raise"``.
        """
        clock = Stopwatch()
        if self.batch_size < BATCH_SIZE:
            clock.hints.update(dict.fromkeys(("encode", "insert", "look up"), f"batch_size={BATCH_SIZE}"))
        fields = {"source": brief(source, 200), "batch_size": self.batch_size}
        log.info("inserting %s", fields["source"], extra=fields)
        rows = distinct_records(source, exclude=self.exclude, skipped=clock.skipped)
        batch = self._take(rows, clock)
        while batch:
            following = self._take(rows, clock)
            batch.last = not following
            if self.on_error == "raise":
                for record in batch:
                    if record.status == "failed":
                        raise SourceError(record.reason)
            yield batch
            batch = following

    def _take(self, rows: Iterator[Record], clock: Stopwatch) -> Batch:
        with clock.busy("read"):
            batch = Batch.take(rows, self.batch_size)
        batch.clock = clock
        return batch
