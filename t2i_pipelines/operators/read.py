"""Read a source into batches, and a query into the operands of its vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import numpy as np

from t2i_pipelines.config.settings import Decoding, Settings
from t2i_pipelines.errors import ConfigError, ImageDecodeError, QueryError, SourceError
from t2i_pipelines.images import brief, distinct_records, normal
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.operators.milvus import InCollection
from t2i_pipelines.search.query import Blend, Img, Like, Q, check_text, each_operand, query_of, replaced
from t2i_pipelines.types import Batch, Image, OnError, Pace, Record, Stopwatch, Vector, log

DECODING = frozenset(one.name for one in fields(Decoding))


class ReadQuery(InCollection):
    """``ops.t2i.read_query``: a query, or a list of queries -> what ``ops.t2i.clip(modality="text")`` takes.

    A text passes as it is. Images are decoded as they are when they are inserted; of ``Like(id)`` the
    stored vector is looked up. See :mod:`t2i_pipelines.search.query`.

    :param decoding: how images are decoded, checked already; in place of arguments of
        :class:`t2i_pipelines.config.Decoding`.
    :param arguments: those, and the collection's and the model's.
    """

    def __init__(self, decoding: Decoding | None = None, **arguments: Any) -> None:
        super().__init__(**{name: value for name, value in arguments.items() if name not in DECODING})
        given = {name: arguments[name] for name in DECODING & arguments.keys()}
        if decoding is not None and given:
            raise ConfigError(f"give decoding or settings, not both; got {', '.join(given)} as well")
        self._decode = ImageDecode(model=self.target, decoding=decoding or Decoding.of(**given))

    def __call__(self, data: Any) -> Any:
        """A str -> the same; another query -> its :class:`~t2i_pipelines.search.query.Blend`; N of them -> N.

        :raises QueryError: If it is nothing that can be searched for, an image of it cannot be read, or
            an id of it is not stored.
        :raises ModelMismatchError: If an id is to be looked up in the collection of another model.
        """
        return self._many(data) if isinstance(data, list) else self._many([data])[0]

    def _many(self, items: Sequence[Any]) -> list[Any]:
        return each_operand([_asked(item) for item in items], self._ready)

    def _ready(self, operands: list[Any]) -> list[Any]:
        operands = replaced(operands, lambda one: isinstance(one, Img), self._pixels)
        operands = replaced(operands, lambda one: isinstance(one, Like), self._stored)
        return replaced(operands, lambda one: isinstance(one, Q), lambda some: [one.text for one in some])

    def _pixels(self, operands: list[Img]) -> list[Image]:
        """Return several queries may share an image."""
        different = list(dict.fromkeys(operands))
        try:
            images = [normal(one.image) if isinstance(one.image, str) else one.image for one in different]
            decoded = dict(zip(different, self._decode.many(images), strict=True))
        except (ImageDecodeError, SourceError) as err:
            raise QueryError(f"an image of the query cannot be used: {err}") from err
        return [decoded[one] for one in operands]

    def _stored(self, operands: list[Like]) -> list[Vector]:
        ids = list(dict.fromkeys(one.id for one in operands))
        with self.looked_up() as collection:
            rows = collection.rows(ids, ["vector"]) if collection.verify(self.space) else {}
        if unknown := [id for id in ids if id not in rows]:
            name, uri = self.target.collection_name, self.target.uri
            raise QueryError(f"no image has the id {unknown[0]!r} in collection {name!r} at {uri}")
        return [np.asarray(rows[one.id]["vector"], np.float32) for one in operands]


def _asked(item: Any) -> str | Blend:
    if isinstance(item, str):
        return check_text(item)
    query = query_of(item)
    return Blend(query, tuple(operand for _, operand in query.terms))


BATCH_SIZE = Settings.batch_size


class ReadSource(Operator):
    """``ops.t2i.read_source``: a source -> batches. For ``flat_map``.

    :param batch_size: records a batch; the last may be shorter, and so may those whose files come along, as
        from a tar: see :meth:`~t2i_pipelines.types.Batch.take`.
    :param exclude: globs of files and folders to skip.
    :param pace: gives a context manager that each step but this works within on each batch; it may wait.
    """

    def __init__(
        self,
        batch_size: int = BATCH_SIZE,
        on_error: OnError = "record",
        exclude: Sequence[str] = (),
        pace: Pace = nullcontext,
    ) -> None:
        self.pace = pace
        self.batch_size = batch_size
        self.exclude = exclude
        self.on_error = on_error

    def __call__(self, source: object) -> Iterator[Batch]:
        """Anything that :func:`t2i_pipelines.images.records` reads -> batches, made when asked for.

        :raises SourceError: If there is nothing to read, or at a bad row with ``on_error="raise"``.
        """
        clock = Stopwatch(pace=self.pace)
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
        with clock.busy("read", is_paced=False):  # a slow source holds up no other step
            batch = Batch.take(rows, self.batch_size)
        batch.clock = clock
        return batch
