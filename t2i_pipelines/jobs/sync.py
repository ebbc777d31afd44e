"""Make a collection equal to its source, with the collection as the only state.

::

    collection -> Inventory ─┐
    source -> records -> Plan ─┬─ unchanged, or failed
                               ├─ new, changed -> run_insert, with Twins that share vectors
                               └─ gone -> deleted, last

The rows of the collection and the records that wait for their turn are kept on disk beyond some megabytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.collection.rows import chunks
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.encoders import load_space
from t2i_pipelines.errors import DeletionRefusedError, ImageDecodeError, SourceError
from t2i_pipelines.images import brief, digest, distinct_records, read
from t2i_pipelines.images.address import is_http, scheme, split_member
from t2i_pipelines.images.record import kind_of
from t2i_pipelines.images.scratch import Scratch, Spill
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert, shows_settings
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import KEPT, Batch, Outcome, Record, Skipped, Stopwatch, content_of, log, log_failure

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
    * ``failed``: could not be read, decoded, embedded or stored. An earlier row of it is kept,
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


STAMP_FIELDS = ("size", "mtime", "digest")
"""Fields that a scan of the collection must return beside ``id``."""

GONE, UNCHANGED, PENDING, FAILED = range(4)
"""States of a row: not in the source, the same there, another there, not readable there."""


class Inventory(Scratch):
    """The rows of a collection: stamp (see :func:`stamp`), content and state of each id. Thread-safe.

    Sorted arrays of NumPy took 49 bytes of memory a row; with them, a sync of 100,000 unchanged files
    (``python -m benchmarks.sync``) took a tenth less processor time.

    :param pages: rows with ``id`` and :data:`STAMP_FIELDS`.
    """

    def __init__(self, pages: Iterable[list[Any]]) -> None:
        super().__init__(
            "CREATE TABLE rows (id TEXT PRIMARY KEY, stamp INTEGER, content BLOB, state INTEGER DEFAULT 0)"
            " WITHOUT ROWID; CREATE TABLE found (content BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID"
        )
        for page in pages:
            self.each("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, 0)", map(described, page))

    def __len__(self) -> int:
        return self.count("TRUE")

    def count(self, where: str) -> int:
        """Return how many rows meet a condition."""
        return int(self.ask(f"SELECT count(*) FROM rows WHERE {where}")[0][0])

    def ids(self, where: str, many: int) -> Iterator[list[str]]:
        """Yield the ids of the rows that meet a condition, in order, ``many`` at a time."""
        last = ""
        page = f"SELECT id FROM rows WHERE {where} AND id > ? ORDER BY id LIMIT ?"
        while some := [id for (id,) in self.ask(page, last, many)]:
            yield some
            last = some[-1]

    def of(self, ids: Sequence[str], where: str = "TRUE") -> dict[str, tuple[int, bytes, int]]:
        """Id -> stamp, content and state, of those that are stored and meet a condition."""
        asked = f"SELECT id, stamp, content, state FROM rows WHERE {where} AND id IN"
        found: dict[str, Any] = {}
        for some in chunks(ids):
            marks = ", ".join("?" * len(some))
            found |= {id: tuple(row) for id, *row in self.ask(f"{asked} ({marks})", *some)}
        return found

    def mark(self, states: Iterable[tuple[int, str]]) -> None:
        """Note the state of some rows: state and id of each."""
        self.each("UPDATE rows SET state = ? WHERE id = ?", states)

    def gone(self) -> int:
        """Return how many rows the source does not name."""
        return self.count(f"state = {GONE}")

    def gone_ids(self, many: int) -> Iterator[list[str]]:
        """Yield the ids of these rows, ``many`` at a time."""
        return self.ids(f"state = {GONE}", many)

    def keep_all(self) -> None:
        """Mark these rows as not readable, so that they stay."""
        self.ask(f"UPDATE rows SET state = {FAILED} WHERE state = {GONE}")

    def moved(self, contents: Iterable[bytes]) -> int:
        """How many of these rows have one of these contents, and so are in the source under other names."""
        self.ask("DELETE FROM found")
        self.each("INSERT OR IGNORE INTO found VALUES (?, NULL)", ((one,) for one in contents))
        return self.count(f"state = {GONE} AND content IN (SELECT content FROM found)")


def described(row: Mapping[str, Any]) -> tuple[str, int, bytes]:
    """Id, stamp and content of a row."""
    return row["id"], stamp(*(row[name] for name in STAMP_FIELDS)), content_key(row["digest"])


def content_key(digest: str) -> bytes:
    """The content's part of a row's digest as 16 bytes, none where the row was not made from a file."""
    try:
        return bytes.fromhex(content_of(digest))
    except ValueError:
        return b""


def stamp(size: int, mtime: int, digest: str) -> int:
    """Return 64 bits of size, time of change and metadata, by which a file is known without being opened.

    :param digest: ``content:metadata``; only the metadata's part counts.
    """
    text = f"{size} {mtime} {digest.partition(':')[2]}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


_AT_ONCE = 1000


class Plan:
    """Reads the source once, against the inventory, and puts aside what needs work.

    A new or changed record waits in memory, beyond some megabytes on disk. With it
    wait the bytes that came with it, unless they can be read again without reading the whole source.

    :param waiting: takes the records that are new or changed, as the source gave them.
    :param refresh: take every record that is stored for changed.
    """

    def __init__(self, inventory: Inventory, waiting: Spill, refresh: bool = False) -> None:
        self.waiting = waiting
        self._inventory = inventory
        self._refresh = refresh

    def read(self, records: Iterable[Record]) -> Iterator[Record]:
        """Take the source in; give the records that have ended already: unchanged, or failed."""
        records = iter(records)
        while some := Batch.take(records, _AT_ONCE):
            stored = self._inventory.of([record.id for record in some])
            for record in some:
                if (row := stored.get(record.id)) is not None:
                    stored[record.id] = (*row[:2], self._judge(record, *row))
                self._lighten(record, row)
            self._inventory.mark((state, id) for id, (_, _, state) in stored.items())
            if waiting := some.unfinished:
                self.waiting.add(waiting)
            yield from (record for record in some if record.status is not None)

    def _judge(self, record: Record, stored: int, content: bytes, state: int) -> int:
        """Compare a record with its row; return the row's new state."""
        if record.status is not None:
            record.reason += KEPT if record.status == "failed" else ""
            return state or FAILED
        if self._is_same(record, stored, content):
            record.status = "unchanged"
            return UNCHANGED
        return PENDING

    def _is_same(self, record: Record, stored: int, content: bytes) -> bool:
        """Return whether nothing needs to be read; bytes that came with the record are compared as well."""
        if self._refresh or _stamp(record) != stored:
            return False
        return record.content is None or content_key(digest(record.content)) == content

    def _lighten(self, record: Record, row: tuple[int, bytes, int] | None) -> None:
        """Release bytes that are not needed while the record waits.

        Where they alone tell that an image has changed, they are needed to tell so again.
        """
        if record.content is not None:
            told = row is None or self._refresh or _stamp(record) != row[0]
            if record.status is not None or (told and _can_be_read_again(record)):
                record.content = None

    def work(self) -> Iterator[Record]:
        """Return the new and changed records, in the order of the source."""
        return iter(self.waiting)


def _can_be_read_again(record: Record) -> bool:
    """Return whether its tar is neither packed nor on the web, so that one file can be read out of it."""
    if not record.path.startswith("tar://"):
        return False
    _, archive = split_member(record.path)
    return archive.lower().endswith(".tar") and not is_http(archive)


def _stamp(record: Record) -> int:
    return stamp(record.size, record.mtime, record.digest)


class Twins:
    """Finds the first image with some content: stored before, stored by this run, or under way.

    Rows that this run is about to change are not offered: they may hold something else when it is time
    to read their vectors.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        inventory.ask("DELETE FROM found")
        inventory.ask("CREATE INDEX IF NOT EXISTS contents ON rows (content)")
        self._under_way: dict[str, Record] = {}
        self._lock = threading.Lock()

    def claim(self, content: str, record: Record) -> Record | None:
        """Return an image with this content; None if ``record`` is the first, which others may then get.

        :param content: 32 hex digits.
        """
        with self._lock:
            found = self._inventory.ask(
                "SELECT id FROM found WHERE content = ?1 UNION ALL SELECT * FROM"
                f" (SELECT id FROM rows WHERE content = ?1 AND state != {PENDING} LIMIT 1)",
                bytes.fromhex(content),
            )
            if found:
                return Record("", found[0][0])
            first = self._under_way.setdefault(content, record)
            return None if first is record else first

    def settle(self, record: Record) -> None:
        """Take note that ``record`` has ended: it is stored, or the next with its content is the first."""
        with self._lock:
            content = content_key(record.digest)
            if self._under_way.get(content.hex()) is record:
                del self._under_way[content.hex()]
                if record.status != "failed":
                    self._inventory.ask("INSERT OR REPLACE INTO found VALUES (?, ?)", content, record.id)


_PREVIEWED_AT_ONCE = 256
READS = 32
"""Files that are read, or waited for, at the same time."""


def preview(records: Iterable[Record], look_up: SkipUnchanged, twins: Twins) -> Iterator[Record]:
    """Read the files, and end each record as it would end if every file can be decoded and embedded.

    :param look_up: ends records whose rows are unchanged.
    :param twins: not those of the run: foreseen images count as stored.
    """
    records = iter(records)
    with ThreadPoolExecutor(READS, "t2i-preview") as pool:
        while batch := Batch.take(records, _PREVIEWED_AT_ONCE):
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
