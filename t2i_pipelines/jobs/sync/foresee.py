"""What the pipeline would do with records, without decoding, embedding or storing anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import digest, read
from t2i_pipelines.jobs.sync.twins import Twins
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.types import Batch, Record

_AT_ONCE = 256
READS = 32
"""Files that are read, or waited for, at the same time."""


def foresee(records: Iterable[Record], look_up: SkipUnchanged, twins: Twins) -> Iterator[Record]:
    """Read the files, and end each record as it would end if every file can be decoded and embedded.

    :param look_up: tells what is stored under each id.
    :param twins: of its own; it counts as stored what is only foreseen.
    """
    records = iter(records)
    with ThreadPoolExecutor(READS, "t2i-foresee") as pool:
        while batch := Batch.take(records, _AT_ONCE):
            pending = look_up(batch).pending
            for record, content in zip(pending, pool.map(_content, pending), strict=True):
                record.twins = twins
                if isinstance(content, str):
                    record.has_twin(content)
                    record.finish()
                    twins.settle(record)
                else:
                    record.fail(content)
            yield from batch


def _content(record: Record) -> str | ImageDecodeError:
    try:
        return digest(read(record))
    except ImageDecodeError as err:
        return err
    finally:
        record.content = None
