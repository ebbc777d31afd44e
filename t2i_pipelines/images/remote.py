"""Folders and globs on whatever fsspec opens, one remote folder's listing in memory at a time."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from t2i_pipelines.errors import SourceError, cause
from t2i_pipelines.images.address import below, split_pattern
from t2i_pipelines.images.files import filesystem
from t2i_pipelines.images.record import Listing, described, refused
from t2i_pipelines.types import Record

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What filesystems call the time of the last change. Those that only say ``created`` rewrite files."""


def look_at(address: str) -> Mapping[str, Any] | None:
    """Return the filesystem's entry of a file or folder, with its ``type``; None if there is none.

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
    """Return one file, from its address and what :func:`look_at` gave."""
    size = told.get("size")
    return described(address, {}, size=-1 if size is None else int(size), mtime=_mtime(told))


def folder_rows(address: str, listing: Listing) -> Iterator[Record]:
    """Yield the images in a remote folder and below, each folder in the order of names."""
    within = _last(address)
    return _walk(address, None, lambda path: listing.takes_folder(path, within), listing.takes_file)


def glob_rows(pattern: str, listing: Listing) -> Iterator[Record]:
    """Yield the files that match, ``**`` over any number of folders."""
    from fsspec.utils import glob_translate

    base, relative = split_pattern(pattern)
    depth = None if "**" in relative else relative.count("/") + 1
    fits = re.compile(glob_translate(relative)).match
    within = _last(base)
    named = {part for part in relative.split("/") if not glob.has_magic(part)}

    def enters(path: str) -> bool:
        if path.rpartition("/")[2] in named:
            return not listing.excludes(path, folder=True)
        return listing.takes_folder(path, within)

    return _walk(base, depth, enters, lambda path: fits(path) is not None and not listing.excludes(path))


def _last(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]


def _walk(
    address: str, depth: int | None, enters: Callable[[str], bool], wanted: Callable[[str], bool]
) -> Iterator[Record]:
    """Yield the files that are wanted, and a failed record of each folder that cannot be listed.

    :param depth: folders below each other that are listed at most.
    """
    fs, root = filesystem(address)
    waiting = [("", root)]
    while waiting:
        folder, place = waiting.pop()
        try:
            listed = _listed(fs, place)
        except Exception as err:  # each filesystem has errors of its own
            if not folder:
                if isinstance(err, FileNotFoundError):
                    return
                raise SourceError(f"cannot list {address!r}: {cause(err)}") from err
            folder = below(address, folder)
            yield refused(folder, f"cannot list folder {folder}: {cause(err)}; what is in it is not read")
            continue
        paths = [(f"{folder}/{name}" if folder else name, found) for name, found in listed]
        for path, found in paths:
            if found["type"] != "directory" and wanted(path):
                yield file_row(below(address, path), found)
        if depth is None or folder.count("/") + bool(folder) + 1 < depth:
            folders = [(path, found) for path, found in paths if found["type"] == "directory"]
            waiting += [(path, found["name"]) for path, found in reversed(folders) if enters(path)]


def _listed(fs: Any, folder: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the names in a folder, in order, with the filesystem's entry of each."""
    own = folder.strip("/")
    listed: list[Mapping[str, Any]] = fs.ls(folder, detail=True)
    fs.invalidate_cache(folder)
    names = [(one["name"].rstrip("/"), one) for one in listed if one["name"].strip("/") != own]
    return sorted(((name.rpartition("/")[2], one) for name, one in names), key=lambda pair: pair[0])


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
