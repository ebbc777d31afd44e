"""Folders and globs on whatever fsspec opens, one remote folder's listing in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from t2i_pipelines.errors import SourceError
from t2i_pipelines.images.address import below, split_pattern
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.opening import filesystem
from t2i_pipelines.images.sources.listing import Listing
from t2i_pipelines.images.sources.record import described, refused
from t2i_pipelines.types import Record

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What filesystems call the time of the last change. Those that only say ``created`` write files anew."""


def look_at(address: str) -> Mapping[str, Any] | None:
    """What the filesystem tells of a file or folder, its ``type`` above all; None if there is nothing.

    :raises SourceError: If the filesystem does not answer, or refuses.
    """
    fs, path = filesystem(address)
    try:
        told: Mapping[str, Any] = fs.info(path)
    except FileNotFoundError:
        return None
    except Exception as err:  # each filesystem has errors of its own
        raise SourceError(f"cannot read {address!r}: {cause(err)}") from err
    return told


def file_row(address: str, told: Mapping[str, Any]) -> Record:
    """One file, from its address and what :func:`look_at` gave."""
    size = told.get("size")
    return described(address, {}, size=-1 if size is None else int(size), mtime=_mtime(told))


def folder_rows(address: str, listing: Listing) -> Iterator[Record]:
    """Yield the images in a remote folder and below, each folder in the order of names."""
    return _walk(address, None, listing, listing.takes_file)


def glob_rows(pattern: str, listing: Listing) -> Iterator[Record]:
    """Yield the files that match, ``**`` over any number of folders."""
    from fsspec.utils import glob_translate

    base, relative = split_pattern(pattern)
    depth = None if "**" in relative else relative.count("/") + 1
    fits = re.compile(glob_translate(relative)).match
    return _walk(base, depth, listing, lambda found: fits(found) is not None and not listing.excludes(found))


def _walk(
    address: str, depth: int | None, listing: Listing, wanted: Callable[[str], bool]
) -> Iterator[Record]:
    fs, root = filesystem(address)
    begun = False
    try:
        for folder, folders, files in fs.walk(root, maxdepth=depth, detail=True, on_error="raise"):
            above = folder[len(root) :].strip("/")
            names = sorted(n for n in folders if listing.takes_folder(f"{above}/{n}" if above else n))
            kept = [(name, folders[name]) for name in names]
            folders.clear()
            folders.update(kept)  # what walk goes on with
            for name in sorted(files):
                path = f"{folder}/{name}"
                relative = path[len(root) :].lstrip("/")
                begun = True
                if wanted(relative):
                    yield file_row(below(address, relative), files[name])
            fs.invalidate_cache(folder)
    except FileNotFoundError:
        return
    except Exception as err:  # each filesystem has errors of its own
        reason = f"cannot list {address!r}: {cause(err)}"
        if not begun:
            raise SourceError(reason) from err
        yield refused(address, f"{reason}; the rest of it is not read")


def _mtime(told: Mapping[str, Any]) -> int:
    """Nanoseconds since 1970; -1 if the filesystem does not tell."""
    value = next((told[name] for name in _TIMES if told.get(name) is not None), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return -1
    if isinstance(value, datetime):
        value = value.timestamp()
    return round(value * 1e6) * 1000 if isinstance(value, (int, float)) else -1
