"""Local folders and globs, one folder's names in memory at a time.

Links to folders are followed once. A folder that cannot be listed is a failed record of its own, so that the
rest is read and ``sync`` knows that the listing is not complete.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from fnmatch import translate
from itertools import takewhile

from t2i_pipelines.errors import cause
from t2i_pipelines.images.record import Listing, refused
from t2i_pipelines.types import Record

_Identity = tuple[int, int]
"""Device and inode of a folder."""


def folder_rows(root: str, listing: Listing) -> Iterator[str | Record]:
    """Yield the images in a folder and below, each folder in the order of names.

    Folders that links lead to come after the others, each once: a link is skipped where it leads to a folder
    that is read already, or to one that holds such a folder.

    :raises OSError: If the folder itself cannot be listed.
    """
    os.scandir(root).close()
    source = os.path.realpath(root)
    read: list[str] = []
    links = [root]
    while links:
        link, *links = links
        real = os.path.realpath(link)
        if any(_holds(one, real) for one in read) or (read and _holds(real, source)):
            name = _posix(os.path.relpath(link, root))
            listing.skipped.add(f"{name}/", "link to a folder that is read already, or that holds the source")
            continue
        found: list[str] = []
        yield from _walk(root, link, listing, found, frozenset(one for one in read if _holds(real, one)))
        read.append(real)
        links += found


def _walk(
    root: str, start: str, listing: Listing, links: list[str], read: frozenset[str]
) -> Iterator[str | Record]:
    """Yield the images below ``start``, but not those below the folders in ``read``, which are real paths."""
    within = os.path.basename(os.path.abspath(root))
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        try:
            entries = _entries(folder)
        except OSError as err:
            yield unlistable(folder, err)
            continue
        below: list[str] = []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            relative = _posix(path[len(root) :].lstrip(os.sep))
            if _is_folder(entry):
                if read and os.path.realpath(path) in read:
                    continue
                if listing.takes_folder(relative, within):
                    (links if _is_link(entry) else below).append(path)
            elif listing.takes_file(relative):
                yield path
        waiting += reversed(below)


def _holds(folder: str, path: str) -> bool:
    """Return whether a folder is ``path``, or above it; both are real paths."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _identity(folder: str) -> _Identity:
    """Return device and inode of a folder; (0, 0) if it is gone."""
    try:
        found = os.stat(folder)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder or ".") as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Return whether a folder is a symbolic link, or a junction of Windows."""
    is_junction = getattr(entry, "is_junction", None)  # from Python 3.12 on
    return entry.is_symlink() or (is_junction is not None and is_junction())


def unlistable(folder: str, err: OSError) -> Record:
    """Return the failed record of a folder that cannot be listed."""
    return refused(folder, f"cannot list folder {folder}: {cause(err)}; what is in it is not read")


def glob_rows(pattern: str, listing: Listing) -> Iterator[str | Record]:
    """Yield what matches, as :func:`glob.glob` does, each folder in the order of names.

    ``**`` follows a link to a folder once, and never into a folder that it is in. Wildcards match no folder
    that a listing skips; a part without wildcards names it.
    """
    root = "/" if os.path.isabs(pattern) else ""
    parts = [part for part in pattern.split("/") if part]
    # ** twice in a row would match twice
    once = [part for part, before in zip(parts, ["", *parts], strict=False) if not part == before == "**"]
    base = os.path.join(root, *takewhile(lambda part: not glob.has_magic(part), once))
    return _Glob(listing, base).matching(root, once, ())


class _Glob:
    """One walk over the folders that a pattern may match in.

    :param base: the pattern up to its first wildcard.
    """

    def __init__(self, listing: Listing, base: str) -> None:
        self._listing = listing
        self._base = base
        self._within = os.path.basename(os.path.abspath(base))
        self._followed: set[tuple[_Identity, int]] = set()

    def matching(
        self, folder: str, parts: list[str], inside: tuple[_Identity, ...]
    ) -> Iterator[str | Record]:
        """Yield what matches ``parts`` in a folder.

        :param inside: the folders that the walk is in; what ``**`` matches must not be one of them.
        """
        head, *rest = parts
        if not glob.has_magic(head):
            yield from self._at(os.path.join(folder, head), rest, inside)
            return
        try:
            entries = _entries(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as err:
            yield unlistable(folder, err)
            return
        if head == "**":
            yield from self.matching(folder, rest or ["*"], inside)
            inside = (*inside, _identity(folder or "."))
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if _is_folder(entry) and self._enters(entry, path, inside, len(parts)):
                    yield from self.matching(path, parts, inside)
            return
        fits = re.compile(translate(head)).match
        for entry in entries:
            if fits(entry.name) and (head[0] == "." or entry.name[0] != "."):
                path = os.path.join(folder, entry.name)
                if (
                    rest
                    and _is_folder(entry)
                    and not self._listing.enters(self._relative(path), self._within)
                ):
                    continue
                yield from self._at(path, rest, inside)

    def _enters(self, entry: os.DirEntry[str], path: str, inside: tuple[_Identity, ...], depth: int) -> bool:
        if not self._listing.takes_folder(self._relative(path), self._within):
            return False
        if not _is_link(entry):
            return True
        identity = _identity(path)
        if identity in inside or (identity, depth) in self._followed:
            return False
        self._followed.add((identity, depth))
        return True

    def _at(self, path: str, rest: list[str], inside: tuple[_Identity, ...]) -> Iterator[str | Record]:
        relative = self._relative(path)
        if rest:
            if os.path.isdir(path) and not (relative and self._listing.excludes(relative, folder=True)):
                yield from self.matching(path, rest, inside)
        elif os.path.lexists(path) and not os.path.isdir(path) and not self._listing.excludes(relative):
            yield path

    def _relative(self, path: str) -> str:
        """Return a path below the first wildcard; empty of one above it."""
        return _posix(path[len(self._base) :]).lstrip("/")
