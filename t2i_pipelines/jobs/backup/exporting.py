"""From a collection to a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from t2i_pipelines.collection import check_exists, open_collection
from t2i_pipelines.collection.notes import read_note
from t2i_pipelines.errors import CopyError
from t2i_pipelines.jobs.backup.folder import Folder
from t2i_pipelines.jobs.backup.manifest import Fingerprint, Manifest, Part, claim
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
    :return: what was written.
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
    found = {name: read_note(collection, name) for name in NOTES}
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
    """The same pages, counted."""
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
