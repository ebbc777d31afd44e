"""Make records of the rows of a source, and choose which files of a listing are images."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from errno import EISDIR
from fnmatch import fnmatchcase
from stat import S_IFIFO, S_IFMT, S_IFSOCK, S_ISDIR, S_ISREG
from typing import Any
from uuid import UUID

from t2i_pipelines.errors import SourceError, cause
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.decode import HEIF_SUFFIXES, image_suffixes
from t2i_pipelines.types import Record, Skipped

RESERVED = frozenset({"id", "vector", "path", "size", "mtime", "digest"})
"""Columns of the collection that a source's further columns cannot take the names of."""


def record_of(row: object) -> Record:
    """Make a record of an address, or of a mapping with a ``path`` or a ``url``; a failed one of a bad row.

    The size and time of a local file are read; it is not opened. Those of any other file are unknown.
    """
    try:
        return _record_of(row)
    except Exception as err:  # rows come from outside: one that breaks a rule of Python's fails alone
        return refused(brief(row), f"cannot understand the row {brief(row)}: {cause(err)}")


def _record_of(row: object) -> Record:
    if isinstance(row, Record):
        return row
    if isinstance(row, (str, os.PathLike)):
        row = {"path": row}
    if not isinstance(row, Mapping):
        return refused(brief(row), f"neither a path nor a row with a `path`: {brief(row)}")
    named = "path" if row.get("path") else "url"
    given = row.get(named)
    if not given or not isinstance(given, (str, os.PathLike)):
        return refused("", f"row without a `path` or `url`: {brief(dict(row))}")
    try:
        address = normal(given)
    except SourceError as err:
        return refused(os.fsdecode(os.fspath(given)), f"cannot read image {given}: {err}")
    record = described(address, {key: value for key, value in row.items() if key not in ("path", named)})
    if record.status is None and not scheme(address):
        _look_at(record)
    return record


def described(
    address: str,
    row: Mapping[Any, Any],
    *,
    size: int = -1,
    mtime: int = -1,
) -> Record:
    """Return a record from its address and its further columns; ``id`` among these is the primary key."""
    values = _plain_nested(row)
    metadata = {name: value for name, value in values.items() if name != "id" and value is not None}
    key = "" if values.get("id") is None else str(values["id"])
    record = Record(
        address,
        key,
        metadata=metadata,
        # under an id of its own, an image may move
        digest=metadata_digest({**metadata, "path": address} if key else metadata),
        size=size,
        mtime=mtime,
    )
    if _is_broken(address):
        record.path = _SURROGATES.sub("\ufffd", address)
        record.fail(f"{record.path}: the name is not valid UTF-8, so it cannot be stored; rename the file")
    record.id = key or path_key(record.path)
    if broken := next((name for name in ("id", *metadata) if _is_broken(name if name != "id" else key)), ""):
        record.fail(f"{record.path}: {broken!a} holds half a character, which cannot be stored")
        record.id = "" if broken == "id" else record.id
    if taken := sorted(RESERVED & metadata.keys()):
        record.fail(f"{address}: column {', '.join(taken)} is reserved; rename it in the source")
    return record


def _look_at(record: Record) -> None:
    try:
        stat = os.stat(record.path)
    except (OSError, ValueError) as err:
        record.fail(f"cannot read image {record.path}: {getattr(err, 'strerror', None) or err}")
        return
    if not S_ISREG(stat.st_mode):
        record.fail(f"cannot read image {record.path}: {not_regular(stat.st_mode)}")
    else:
        record.size, record.mtime = stat.st_size, stat.st_mtime_ns


def not_regular(mode: int) -> str:
    """Say why a file is not opened: opening a pipe or a device may block, or never end."""
    if S_ISDIR(mode):
        return os.strerror(EISDIR)
    kinds = {S_IFIFO: "a named pipe", S_IFSOCK: "a socket"}
    return f"not a regular file but {kinds.get(S_IFMT(mode), 'a device')}"


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: times as ISO 8601, time spans as seconds, decimals as floats.

    :return: None for a missing value: None, NaN, NaT, NA.
    """
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, Decimal)):
        return None if math.isnan(value) else float(value)
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    return _plain_nested(value)


def _plain_nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {str(name): plain(item) for name, item in value.items()}
        if len(named) < len(value):
            raise ValueError("two of its keys are the same as text")
        return named
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def path_key(path: str) -> str:
    """Return the primary key of a path: 128 bits, as 32 hex digits. Two paths never share one in practice."""
    return hashlib.blake2b(path.encode(), digest_size=16).hexdigest()


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """Return the digest of a row's metadata: a colon and 16 hex digits, the tail of a record's digest."""
    described = json.dumps(metadata, sort_keys=True, default=str)
    return ":" + hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


_SURROGATES = re.compile("[\ud800-\udfff]")


def _is_broken(text: str) -> bool:
    """Return whether a text holds half a surrogate pair, which UTF-8 cannot encode."""
    return _SURROGATES.search(text) is not None


def refused(path: str, reason: str) -> Record:
    """Return a record that has failed before it began."""
    record = Record(path)
    record.fail(reason)
    return record


def brief(value: object, length: int = 80) -> str:
    """Return a value as a message shows it."""
    try:
        text = str(value) if isinstance(value, os.PathLike) else repr(value)
    except Exception:  # numbers of thousands of digits, structures nested too deep
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else text[: length - 3] + "..."


_RAW = (
    "3fr arw cr2 cr3 crw dcr dng erf gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw "
    "x3f"
)
_VIDEO = "3g2 3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
_OTHER = "ai cdr clip djvu eps exr fits hdr jxl jxr kra pdf psb svg svgz wdp wmf emf xcf"
_NO_SUFFIX = "without suffix"
_NEEDS = {
    **dict.fromkeys(HEIF_SUFFIXES, "pip install 't2i-pipelines[heif]'"),
    **{f".{name}": "camera RAW, export as JPEG" for name in _RAW.split()},
    **{f".{name}": "video" for name in _VIDEO.split()},
    **{f".{name}": "not a decodable format, export as PNG or JPEG" for name in _OTHER.split()},
    _NO_SUFFIX: "list such files by name to read them",
}
"""Suffix -> why such a file is skipped, although it looks like a photo or a video."""

_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@sharebin", "$recycle.bin"}
    | {"recycler", "system volume information", "lost+found", "__macosx"}
)
"""Thumbnails, snapshots and bins of Synology, QNAP, Windows, Linux and macOS, in small letters."""

_SYSTEM_SUFFIXES = (".lrdata", ".lrcat-data", ".cocatalog", ".tmlibrary")
"""Preview caches of Lightroom, Capture One and Photos."""

_LIBRARIES = (".photoslibrary", ".photolibrary", ".aplibrary", ".migratedphotolibrary")
_ORIGINALS = frozenset(("originals", "masters"))
"""What of a library of Apple Photos or Aperture is the user's own; the rest is derived from it."""


@dataclass(frozen=True)
class Listing:
    """Decide which files and folders a listing takes, and count those that it skips.

    Without ``exclude``, thumbnails, previews and bins of NAS and photo programs are skipped. To read such a
    folder, name it as the source.

    :ivar exclude: globs; one without a slash is compared with the name of each file and folder, one with a
        slash with the path below the source, of a glob the part from its first wildcard on. ``*`` matches
        slashes, too. As in a ``.gitignore``, ``drafts/`` is a folder, ``/drafts`` one at the top of the
        source, ``**/drafts`` one at any depth, and ``drafts/**`` all that is in one at the top.
    :ivar skipped: takes the counts.
    """

    exclude: tuple[str, ...] = ()
    skipped: Skipped = field(default_factory=Skipped)

    @classmethod
    def of(cls, exclude: Sequence[str] = (), skipped: Skipped | None = None) -> Listing:
        """Build from the setting and a run's account."""
        return cls(tuple(exclude), Skipped() if skipped is None else skipped)

    def takes_folder(self, relative: str, within: str = "") -> bool:
        """Return whether to enter a folder; count it if not. Hidden folders are skipped uncounted.

        :param relative: its path below the source, parts joined by ``/``.
        :param within: name of the source.
        """
        return not relative.rpartition("/")[2].startswith(".") and self.enters(relative, within)

    def enters(self, relative: str, within: str = "") -> bool:
        """Return whether to enter a folder, hidden or not; count it if not. See :meth:`takes_folder`."""
        above, _, name = relative.rpartition("/")
        small = name.lower()
        in_library = (above or within).rpartition("/")[2].lower().endswith(_LIBRARIES)
        if (
            small in _SYSTEM_FOLDERS
            or small.endswith(_SYSTEM_SUFFIXES)
            or (in_library and small not in _ORIGINALS)
        ):
            self.skipped.add(f"{name}/", "thumbnails or bin")
            return False
        return not self.excludes(relative, folder=True)

    def takes_file(self, relative: str) -> bool:
        """Return whether a file is an image to read; count it if it only looks like one."""
        if relative.rpartition("/")[2].startswith("."):
            return False
        kind = kind_of(relative)
        if kind in image_suffixes():
            return not self.excludes(relative)
        reason = _NEEDS.get(kind, "")
        if reason and not self.excludes(relative):
            self.skipped.add(kind, reason)
        return False

    def excludes(self, relative: str, *, folder: bool = False) -> bool:
        """Return whether one of the globs matches; count it then."""
        for pattern in self.exclude:
            if _matches(pattern, relative, folder):
                self.skipped.add(pattern, "excluded folder" if folder else "excluded")
                return True
        return False


def _matches(pattern: str, relative: str, folder: bool) -> bool:
    wanted = pattern.removesuffix("/").removesuffix("/**")
    if wanted != pattern and not folder:
        wanted = pattern  # a folder's files are compared with ``drafts/**``, which ends a path of theirs
    anchored = "/" in pattern.rstrip("/") and not wanted.startswith("**/")
    wanted = wanted.removeprefix("./").removeprefix("/")
    while wanted.startswith("**/"):
        wanted = wanted.removeprefix("**/")
    if "/" not in wanted and not anchored:
        return fnmatchcase(relative.rpartition("/")[2], wanted)
    return fnmatchcase(relative, wanted) or (not anchored and fnmatchcase(relative, f"*/{wanted}"))


def kind_of(path: str) -> str:
    """Return the suffix of a file in small letters, as it is counted."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else _NO_SUFFIX
