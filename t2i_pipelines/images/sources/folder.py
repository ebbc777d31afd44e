"""Local folders and globs, one folder's names in memory at a time."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from fnmatch import translate

from t2i_pipelines.errors import SourceError

_RASTER = "avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _RASTER.split())
"""What counts as a picture in a folder or a tar. A glob, a list or a table may name any file."""


def is_picture(name: str) -> bool:
    """Whether a folder's file counts: by its suffix, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def folder_rows(path: str) -> Iterator[str]:
    """The pictures in a folder and below, each folder in the order of names.

    :raises SourceError: If a folder cannot be listed.
    """

    def refuse(err: OSError) -> None:
        raise SourceError(f"cannot list folder {err.filename!r}: {err.strerror}") from err

    for folder, below, files in os.walk(path, onerror=refuse, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if is_picture(name):
                yield os.path.join(folder, name)


def glob_rows(pattern: str) -> Iterator[str]:
    """The files that match, as :func:`glob.glob` tells it, each folder in the order of names."""
    root = "/" if os.path.isabs(pattern) else ""
    parts = [part for part in pattern.split("/") if part]
    # ** twice in a row would match twice
    once = [part for part, before in zip(parts, ["", *parts], strict=False) if not part == before == "**"]
    return _matching(root, once)


def _matching(folder: str, parts: list[str]) -> Iterator[str]:
    head, *rest = parts
    if head == "**":
        yield from _matching(folder, rest or ["*"])
        for name, is_folder in _listed(folder):
            if is_folder and not name.startswith("."):
                yield from _matching(os.path.join(folder, name), parts)
    elif not glob.has_magic(head):
        yield from _at(os.path.join(folder, head), rest)
    else:
        fits = re.compile(translate(head)).match
        for name, is_folder in _listed(folder):
            if fits(name) and (is_folder or not rest) and (head[0] == "." or name[0] != "."):
                yield from _at(os.path.join(folder, name), rest)


def _at(path: str, rest: list[str]) -> Iterator[str]:
    if rest and os.path.isdir(path):
        yield from _matching(path, rest)
    elif not rest and os.path.isfile(path):
        yield path


def _listed(folder: str) -> list[tuple[str, bool]]:
    """Names in order, and whether each is a folder; as with glob, what cannot be listed matches nothing."""
    try:
        with os.scandir(folder or ".") as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return []
