"""Load a collection by the server's importer."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Unpack

from t2i_pipelines._towhee.door import ops, pipe
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.collection import open_collection
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.encoders import load_space
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.jobs.backup.folder import Folder
from t2i_pipelines.jobs.bulk.shipment import BulkInsert, Shipment, importer_of
from t2i_pipelines.pipelines.build import (
    OUTCOME_COLUMNS,
    checked,
    insert_arguments,
    shows_settings,
    vector_steps,
)
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Outcome, Stopwatch


@shows_settings
def insert_bulk(
    source: object,
    destination: str | os.PathLike[str],
    *,
    report: InsertReport | None = None,
    progress: Callable[[Outcome], object] | None = None,
    **settings: Unpack[SettingsArgs],
) -> InsertReport:
    """Load images through Milvus's own importer: ``insert_bulk("photos", "s3://bucket/bulk", uri=...)``.

    For first loads into a server, of millions of images: the server writes its segments from files, and no
    row passes through its log. Below that, :func:`~t2i_pipelines.build_insert_pipeline` is as fast.

    Images whose ids are not stored become Parquet files of 50,000 rows by Milvus's bulk writer. Each is
    copied to ``destination``, imported while the next is made, and deleted when all its rows are found. An
    import replaces no row, so images that are stored already are ``unchanged``, or if they have changed
    ``updated`` in the normal way. Each input has one outcome in the report; one whose file the server could
    not import is ``failed``, and the file is left where it is.

    A run that is killed is run again when the server has ended its imports; before that, it is refused.

    :param destination: a folder that the server can read, in which it makes one of its own: of a server that
        keeps its data on a disk, a local path; of one with object storage, a URL of the same bucket for
        fsspec, such as ``s3://a-bucket/bulk``: the server gets the part after the bucket.
    :param report: to be filled, in place of a new one.
    :param progress: called with each :class:`~t2i_pipelines.types.Outcome` as soon as it is known.
    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises ConfigError: If a setting is wrong, it is Milvus Lite, which has no importer, or another import
        into the collection is running.
    :raises CopyError: If the destination cannot be written.
    :raises MissingExtraError: If the extra ``bulk`` is not installed.
    """
    target, chosen = checked(settings)
    report = InsertReport() if report is None else report
    clock = Stopwatch()
    report.clocks.append(clock)

    turn = threading.Lock()

    def tell(outcome: Outcome) -> None:
        with turn:
            report.add(outcome)
            if progress is not None:
                progress(outcome)

    collection = open_collection(**target.place)
    importer = importer_of(collection, target.place)
    if collection.verify(load_space(*target.lookup)) and (running := importer.running()):
        raise ConfigError(
            f"import {', '.join(running)} into collection {collection.name!r} is running, and rows that came "
            f"in twice would be there twice; run it again when it has ended"
        )
    there = Folder(f"{os.fspath(destination).rstrip('/')}/{uuid.uuid4().hex}")
    there.make()
    with ExitStack() as left, tempfile.TemporaryDirectory(prefix="t2i-bulk-") as here:
        left.callback(there.remove_if_empty)
        shipment = Shipment(collection, importer, Path(here), there, tell)
        last = BulkInsert(shipment, target=target, on_error=chosen.on_error)

        def tell_unless_waiting(*row: Any) -> None:
            outcome = Outcome(*row)
            if outcome.status not in ("inserted", "updated") or outcome.id not in last.waiting:
                tell(outcome)

        steps = vector_steps(pipe.input("source"), insert_arguments(target, chosen))
        steps = steps.map("batch", "batch", last).flat_map("batch", OUTCOME_COLUMNS, ops.t2i.outcomes())
        harden(steps.map(OUTCOME_COLUMNS, (), lambda *row: tell_unless_waiting(*row)).output())(source)
        with clock.busy("insert"):
            shipment.end()
            collection.flush()
    return report
