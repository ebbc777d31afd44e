"""Export a collection to a folder of Parquet files, and import it again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

from t2i_pipelines.collection import Collection, check_exists, open_collection
from t2i_pipelines.config.args import StorageArgs
from t2i_pipelines.config.checks import check_one_of
from t2i_pipelines.errors import ConfigError, CopyError, ModelMismatchError, StoreError
from t2i_pipelines.jobs.backup import parquet
from t2i_pipelines.jobs.backup.folder import Fingerprint, Folder, Manifest, Part, claim
from t2i_pipelines.jobs.backup.parquet import Writer, pages
from t2i_pipelines.search.relevance import NOTE as RELEVANCE

PART_ROWS = 100_000
PART_BYTES = 256 << 20
"""Of a file; it may have a page more."""

NOTES = (RELEVANCE,)
"""Texts that are kept with a collection and are worth as much with its copy."""

Pages: TypeAlias = Iterator[list[dict[str, Any]]]
Progress: TypeAlias = Callable[[int, int], object]
"""Called with the rows that are done, and all."""


def export_collection(
    destination: str | os.PathLike[str],
    *,
    uri: str | Path = "milvus.db",
    token: str = "",
    collection_name: str = "image_collection",
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Manifest:
    """Write a collection to a folder: ``export_collection("backup", uri="milvus.db")``.

    Every row with its vector and metadata, as Parquet files of 100,000 rows or 256 MB each, which pandas and
    Milvus's own importer read; and last, at once, a manifest. A run that is killed leaves a folder without
    one, which is no export; the next run into it starts over. Memory is that of one page, 8 MB of vectors.

    Rows that others write meanwhile may or may not be in it.

    :param destination: a folder that is empty or not there: a local path, or a URL that fsspec opens, such
        as ``s3://bucket/backup``.
    :return: the manifest of the copy.
    :raises CopyError: If the destination is not empty or cannot be written, or rows cannot all be read.
    :raises CollectionNotFoundError: If there is no such collection.
    """
    collection = open_collection(uri, token, collection_name, timeout)
    check_exists(uri, token, collection_name)
    space = collection.space()
    assert space is not None
    folder = Folder(destination)
    claim(folder)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    before = collection.count()
    seen = Fingerprint()
    reading = pages(collection, space.dim)
    parts = tuple(_parts(folder, _seen(reading, seen, before, progress)))
    after = collection.count()
    if not min(before, after) <= seen.rows <= max(before, after):
        raise CopyError(
            f"{seen.rows:,} rows were read of collection {collection_name!r}, which has {after:,}; "
            f"export it again while nothing writes to it"
        )
    found = {name: collection.read_note(name) for name in NOTES}
    manifest = Manifest(
        collection_name=collection_name,
        created=created,
        space=space,
        index_type=collection.index_type,
        rows=seen.rows,
        digest=seen.hexdigest(),
        files=parts,
        notes={name: text for name, text in found.items() if text},
    )
    manifest.write(folder)
    return manifest


def _seen(reading: Pages, seen: Fingerprint, total: int, progress: Progress | None) -> Pages:
    """Return the same pages, counted."""
    for page in reading:
        seen.add(page)
        yield page
        if progress is not None:
            progress(seen.rows, max(total, seen.rows))


def _parts(folder: Folder, reading: Pages) -> Iterator[Part]:
    """Write the files, and tell of each when it is done."""
    page = next(reading, None)
    for number in count():
        if page is None:
            return
        name, rows = f"t2i-{number:05}.parquet", 0
        with folder.writing(name) as file, Writer(file) as writer:
            while page and (not rows or (rows + len(page) <= PART_ROWS and file.bytes < PART_BYTES)):
                writer.add(page)
                rows += len(page)
                page = next(reading, None)
        yield Part(name, rows, file.bytes, file.hexdigest())


IfExists: TypeAlias = Literal["fail", "replace", "merge"]

UNDER_WAY = "t2i_import"
"""The property of a collection that names the export that is being brought into it."""

log = logging.getLogger("t2i_pipelines.jobs.backup")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    :ivar rows: of the export, all of which are stored now.
    :ivar deleted: rows that the export does not have, deleted by ``replace``.
    :ivar others: rows that the export does not have, left there by ``merge``.
    :ivar digest: of the rows, the same as in the export's manifest.
    """

    rows: int
    deleted: int
    others: int
    digest: str


def import_collection(
    source: str | os.PathLike[str],
    *,
    uri: str | Path = "milvus.db",
    token: str = "",
    collection_name: str = "image_collection",
    timeout: float = 30.0,
    if_exists: IfExists = "fail",
    progress: Progress | None = None,
    **stored: Unpack[StorageArgs],
) -> Imported:
    """Bring an export into a collection: ``import_collection("backup", uri="http://localhost:19530")``.

    The collection is made if there is none. Each file is compared with the digest in the manifest before a
    row of it is stored. In the end every row is read from the collection again: number and digest of the
    rows must be those of the export. A run that was killed is simply run again, with the same arguments:
    rows are stored by id, and the collection remembers which export is being brought in.

    :param source: a folder that :func:`export_collection` wrote: a local path, or a URL that fsspec opens.
    :param if_exists: of a collection that has rows: ``fail``; ``replace``, all that the export does not have
        is deleted, last of all; or ``merge``, the export's rows take the place of those with the same ids.
    :param stored: used when the collection is made: ``index_type``, ``vector_type``, ``mmap``,
        ``partition_key``, ``replica_number``; see :class:`~t2i_pipelines.config.Storage`. How the exported
        collection was stored does not count.
    :raises CopyError: If the export is cut short, damaged, or of a newer version, or did not arrive whole.
    :raises ModelMismatchError: If the collection is of another model, whatever ``if_exists`` says.
    :raises ConfigError: If the collection has rows already, or a setting is wrong.
    """
    check_one_of("if_exists", if_exists, IfExists)
    folder = Folder(source)
    manifest = Manifest.read(folder)
    collection = open_collection(uri, token, collection_name, timeout, **stored)
    _prepare(collection, folder, manifest, if_exists)
    done = 0
    for part in manifest.files:
        for rows in _rows(folder, part):
            collection.upsert(rows)
            done += len(rows)
            if progress is not None:
                progress(done, manifest.rows)
    collection.finish()
    found = _compare(collection, folder, manifest, delete=if_exists == "replace")
    _check(found, collection, folder, manifest, if_exists)
    if not found.others:
        for name, text in manifest.notes.items():
            _keep(collection, name, text)
    _keep(collection, UNDER_WAY, "")
    return found


def _prepare(collection: Collection, folder: Folder, manifest: Manifest, if_exists: IfExists) -> None:
    """Make the collection, or see that the rows may come into it, and note in it that they do."""
    try:
        is_there = collection.verify(manifest.space)
    except ModelMismatchError as err:
        raise ModelMismatchError(f"cannot import {folder.address}: {err}") from err
    stored = collection.count() if is_there else 0
    if stored and if_exists == "fail" and collection.read_note(UNDER_WAY) != manifest.digest:
        raise ConfigError(
            f"collection {collection.name!r} has {stored:,} rows already; import into another "
            f"collection_name, or say if_exists='merge' (--if-exists merge) to add to them, or "
            f"'replace' to put the export in their place"
        )
    collection.prepare(manifest.space)
    _keep(collection, UNDER_WAY, manifest.digest)


def _rows(folder: Folder, part: Part) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file, after its digest has been compared."""
    if folder.digest(part.name) != part.blake2b:
        raise CopyError(
            f"{folder.where(part.name)} is not what was written, its digest is another; copy it again from "
            f"where it is whole, or export the collection again"
        )
    with folder.reading(part.name) as file:
        yield from parquet.rows(file)


def _compare(collection: Collection, folder: Folder, manifest: Manifest, *, delete: bool) -> Imported:
    """Read every row again, and tell those of the export from others. Both are in the order of ids."""
    seen, deleted, others = Fingerprint(), 0, 0
    wanted = _ids(folder, manifest)
    next_id = next(wanted, None)
    for page in pages(collection, manifest.space.dim):
        arrived, extra = [], []
        for row in page:
            while next_id is not None and next_id < row["id"]:
                next_id = next(wanted, None)  # missing: the digest will tell
            if next_id == row["id"]:
                arrived.append(row)
                next_id = next(wanted, None)
            else:
                extra.append(row["id"])
        seen.add(arrived)
        if delete:
            collection.delete(extra)
            deleted += len(extra)
        else:
            others += len(extra)
    return Imported(seen.rows, deleted, others, seen.hexdigest())


def _ids(folder: Folder, manifest: Manifest) -> Iterator[str]:
    for part in manifest.files:
        with folder.reading(part.name) as file:
            yield from parquet.ids(file)


def _check(
    found: Imported, collection: Collection, folder: Folder, manifest: Manifest, if_exists: IfExists
) -> None:
    """Pass if the export has arrived, and nothing else has.

    :raises CopyError: If not.
    """
    name, stored = f"collection {collection.name!r}", collection.count()
    if (found.rows, found.digest) != (manifest.rows, manifest.digest):
        differ = "some have changed" if found.rows == manifest.rows else f"{found.rows:,} are in it"
        raise CopyError(
            f"{manifest.rows:,} rows of {folder.address} went into {name}, and {differ}; import it again "
            f"while nothing writes to it"
        )
    if stored != found.rows + found.others or (found.others and if_exists == "fail"):
        raise CopyError(
            f"all {found.rows:,} rows of {folder.address} are in {name}, but it has {stored:,}: another "
            f"writer added to it meanwhile; import it again with if_exists='merge' or 'replace'"
        )


def _keep(collection: Collection, name: str, text: str) -> None:
    """Keep a note with the collection where the database lets us: the rows are there without it."""
    try:
        collection.write_note(name, text)
    except StoreError as err:
        log.warning("%r takes no note %r: %s", collection, name, err)
