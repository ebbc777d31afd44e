"""Make a collection equal to its source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Unpack

from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.encoders import load_space
from t2i_pipelines.errors import DeletionRefusedError, SourceError
from t2i_pipelines.images import brief, distinct_records
from t2i_pipelines.images.address import scheme
from t2i_pipelines.images.record import kind_of
from t2i_pipelines.images.scratch import Spill
from t2i_pipelines.jobs.sync.plan import (
    FAILED,
    STAMP_FIELDS,
    Inventory,
    Plan,
    Twins,
    content_key,
    preview,
)
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert, shows_settings
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Outcome, Record, Skipped, Stopwatch, log, log_failure

MOST_DELETED = 0.2
"""Of the stored rows; more need ``force=True``."""

_DELETED_AT_ONCE = 1000


@shows_settings
def sync(
    source: object,
    *,
    force: bool = False,
    dry_run: bool = False,
    report: InsertReport | None = None,
    progress: Callable[[Outcome], object] | None = None,
    **settings: Unpack[SettingsArgs],
) -> InsertReport:
    """Make the collection equal to the source: ``sync("photos", uri="milvus.db")``.

    Each input, and each row that has no input any more, ends with one status:

    * ``unchanged``: size, time of change and metadata are those that are stored; the file is not opened.
      If only its time of change is another, the file is read and the row gets the new time.
    * ``inserted``: new, decoded and embedded.
    * ``reused``: new, but a row has the same bytes, so its vector is taken: a renamed or copied file.
    * ``updated``: stored under this id before, and changed. Its vector is taken over where the bytes
      are known, as with new metadata.
    * ``deleted``: a row that the source does not name any more.
    * ``failed``: could not be read, decoded, embedded or stored. What was stored of it before is kept,
      because the source still names it; nothing is left of a new one. Where it is unknown even which
      image a row of the source means, nothing is deleted, and ``report.note`` says so.

    The collection is the only state. It is read first, then the source; nothing is changed until both have
    been. Then new and changed images are stored, and only when they are, rows are deleted. So a run
    that is killed at any time loses nothing, and the next run ends where that one would have.

    Memory: up to 64 MiB for the stored rows and 16 MiB for the new and changed images, beyond that temporary
    files; and the failures, all of which the report keeps.

    :param source: as for :func:`~t2i_pipelines.build_insert_pipeline`: all that the collection shall hold.
    :param force: delete any number of rows. Without it, no more than a fifth of the stored rows, where a
        row whose bytes the source has under another name does not count; and none if the source has rows
        whose image is unknown.
    :param dry_run: change nothing; the report tells what would be done. New and changed files are read.
    :param report: to be filled, in place of a new one.
    :param progress: called with each :class:`~t2i_pipelines.types.Outcome` as soon as it is known.
    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises DeletionRefusedError: If too many rows would be deleted; before anything is changed.
    :raises SourceError: If there is nothing to read: an empty folder empties no collection, ``force`` or not.
    :raises ConfigError: If a setting is wrong.
    :raises ModelMismatchError: If another model made the collection.
    """
    target, chosen = checked(settings)
    report = InsertReport() if report is None else report
    report.dry_run = dry_run
    clock = Stopwatch()
    report.clocks.append(clock)
    log.info("syncing %s", brief(source, 200), extra={"source": brief(source, 200), "dry_run": dry_run})

    def tell(outcome: Outcome) -> None:
        report.add(outcome)
        if progress is not None:
            progress(outcome)

    collection = open_collection(**target.place)
    with clock.busy("load"):
        space = load_space(*target.lookup)
    with clock.busy("scan"):
        collection.verify(space)
        inventory = Inventory(collection.scan(STAMP_FIELDS))
    waiting = Spill()
    plan = Plan(inventory, waiting, chosen.refresh)
    nameless = 0
    with clock.busy("compare"):
        for record in plan.read(distinct_records(source, exclude=chosen.exclude, skipped=clock.skipped)):
            if record.status == "failed":
                if chosen.on_error == "raise":
                    raise SourceError(record.reason)
                log_failure(record.path, record.id, record.stage, record.reason)
            nameless += not record.id
            tell(record.outcome)
    if not force:
        report.note = _keep_all(inventory, nameless) if nameless else ""
        report.note = report.note or _keep_skipped(collection, inventory, clock.skipped)
    too_many = not force and inventory.gone() > MOST_DELETED * len(inventory)
    if dry_run or too_many:
        found = preview(plan.work(), SkipUnchanged(target=target, refresh=chosen.refresh), Twins(inventory))
        with clock.busy("preview"):
            contents = _contents(found, tell if dry_run else None)
        refusal = _refusal(inventory, contents) if too_many else ""
        if refusal and not dry_run:
            raise DeletionRefusedError(refusal)
        report.note = report.note or refusal
    if waiting and not dry_run:
        run_insert(_with_twins(plan.work(), Twins(inventory)), insert_arguments(target, chosen), tell)
    with clock.busy("delete"):
        _delete(collection, inventory, tell, dry_run)
    fields = {"counts": dict(report.counts), "seconds": report.seconds, "stages": report.stages}
    log.info("%s", report.budget(), extra=fields)
    return report


def _keep_all(inventory: Inventory, nameless: int) -> str:
    """Delete nothing, since the source was not understood as a whole; the note that says so."""
    gone = inventory.gone()
    inventory.keep_all()
    if not gone:
        return ""
    return (
        f"{gone:,} stored images were not found in the source, but {nameless:,} of its rows cannot be "
        f"read, so nothing is deleted; mend the source, or take force=True, or --force"
    )


def _keep_skipped(collection: Collection, inventory: Inventory, skipped: Skipped) -> str:
    """Keep the rows of files that are there but skipped, such as HEIC without its extra; say so in a note.

    Excluded files, and local ones that are gone, are deleted.
    """
    kinds = {kind for (kind, reason), _ in skipped.snapshot() if not reason.startswith("excluded")}
    if not kinds:
        return ""
    kept = 0
    for ids in inventory.gone_ids(_DELETED_AT_ONCE):
        rows: dict[str, dict[str, Any]] = collection.rows(ids, ["path"])
        some = [
            id for id, row in rows.items() if kind_of(row["path"]) in kinds and _may_be_there(row["path"])
        ]
        inventory.mark((FAILED, id) for id in some)
        kept += len(some)
    if not kept:
        return ""
    images, are, them = ("image", "is", "it") if kept == 1 else ("images", "are", "them")
    return (
        f"{kept:,} stored {images} {are} of a kind that the source skips now, and {are} kept; "
        f"force=True, or --force, deletes {them}"
    )


def _may_be_there(path: str) -> bool:
    return bool(scheme(path)) or os.path.lexists(path)


def _with_twins(waiting: Iterator[Record], twins: Twins) -> Iterator[Record]:
    for record in waiting:
        record.twins = twins
        yield record


def _contents(found: Iterator[Record], tell: Callable[[Outcome], None] | None) -> list[bytes]:
    """Return the contents of the new and changed files."""
    contents = []
    for record in found:
        if tell is not None:
            tell(record.outcome)
        if record.status != "failed":
            contents.append(content_key(record.digest))
    return contents


def _refusal(inventory: Inventory, contents: list[bytes]) -> str:
    """Return why so many deletions are refused; empty where enough of the rows have only moved."""
    stored = len(inventory)
    lost = inventory.gone() - inventory.moved(contents)
    if lost <= MOST_DELETED * stored:
        return ""
    return (
        f"the source lacks {lost:,} of the {stored:,} stored images, more than a fifth, so nothing is "
        f"changed; is a disk not mounted? If they are gone for good: force=True, or --force"
    )


def _delete(
    collection: Collection, inventory: Inventory, tell: Callable[[Outcome], None], dry_run: bool
) -> None:
    for ids in inventory.gone_ids(_DELETED_AT_ONCE):
        rows: dict[str, dict[str, Any]] = collection.rows(ids, ["path"])
        if not dry_run:
            collection.delete(ids)
        for id, row in rows.items():
            tell(Outcome(row["path"], id, "deleted", ""))
