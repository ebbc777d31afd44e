"""The folder of an export, and its manifest, which is written last: without it the export was cut short.

The manifest is ``_manifest.json``; pandas and pyarrow skip names with an underscore in the folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from t2i_pipelines.collection.rows import FIELDS
from t2i_pipelines.errors import CopyError, SourceError, T2IError, cause
from t2i_pipelines.images import normal
from t2i_pipelines.images.files import filesystem
from t2i_pipelines.types import Space

DIGEST_BYTES = 32
A_READ = 1 << 20


class Folder:
    """Files below one address. Errors of the filesystem become ours and name the file.

    :param address: a local path, or a URL that fsspec opens, such as ``s3://bucket/backup``.
    :raises CopyError: If no filesystem is known for it.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        try:
            self.address = normal(address).rstrip("/") or "/"
            self._fs, self._root = filesystem(self.address)
        except SourceError as err:
            raise CopyError(f"cannot use {os.fspath(address)!r} as a folder of an export: {err}") from err
        self._root = self._root.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disks."""
        return "file" in _protocols(self._fs)

    def path(self, name: str) -> str:
        """Return a file in it, as the filesystem itself names it."""
        return f"{self._root}/{name}"

    def where(self, name: str) -> str:
        """Return a file in it, as messages show it."""
        return f"{self.address}/{name}"

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of what lies there, -1 for a folder; empty if there is no folder.

        :raises CopyError: If it cannot be listed.
        """
        try:
            self._fs.invalidate_cache()
            found = self._fs.ls(self._root or "/", detail=True)
        except FileNotFoundError:
            return {}
        except Exception as err:  # each filesystem has errors of its own
            raise CopyError(f"cannot list {self.address}: {cause(err)}; is it a folder?") from err
        sizes = {}
        for one in found:
            if one["name"].rstrip("/") != self._root:
                size = -1 if one["type"] == "directory" else int(one["size"])
                sizes[one["name"].rstrip("/").rpartition("/")[2]] = size
            elif one["type"] == "file" and not one["name"].endswith("/"):  # as object stores mark folders
                raise CopyError(f"{self.address} is a file; an export is a folder")
        return sizes

    def make(self) -> None:
        """Make the folder, and those above it.

        :raises CopyError: If that is not possible.
        """
        with _writable(self.address):
            self._fs.makedirs(self._root or "/", exist_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file.

        :raises CopyError: If that is not possible.
        """
        with _writable(self.where(name)):
            self._fs.rm_file(self.path(name))

    def remove_if_empty(self) -> None:
        """Delete the folder if nothing is left in it. Object stores have no empty folders."""
        if self.is_local:
            with suppress(OSError):
                Path(self._root).rmdir()

    @contextmanager
    def writing(self, name: str) -> Iterator[Written]:
        """A new file, on the disk when the block ends.

        :raises CopyError: If it cannot be written.
        """
        where = self.where(name)
        with _writable(where):
            file = self._fs.open(self.path(name), "wb")
        written = Written(file, where)
        try:
            yield written
            with _writable(where):
                if self.is_local:
                    file.flush()
                    os.fsync(file.fileno())
                file.close()
        except BaseException:
            with suppress(Exception):  # the first failure is the one to tell
                file.close()
            raise

    def publish(self, name: str, content: bytes) -> None:
        """Write a small file whole or not at all: renamed into place, or one request of an object store.

        :raises CopyError: If it cannot be written.
        """
        if not self.is_local:
            with _writable(self.where(name)):
                self._fs.pipe_file(self.path(name), content)
            return
        half = f"{name}.tmp"
        with self.writing(half) as file:
            file.write(content)
        with _writable(self.where(name)):
            Path(self.path(half)).replace(self.path(name))
        with suppress(OSError):  # not every filesystem can
            _sync(self._root)

    def content(self, name: str) -> bytes:
        """Return a small file.

        :raises CopyError: If it cannot be read.
        """
        with self.reading(name) as file:
            return file.read()

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """A file that can seek.

        :raises CopyError: If it cannot be read; what is raised within the block counts as that, but for ours.
        """
        try:
            with self._fs.open(self.path(name), "rb") as file:
                yield cast(BinaryIO, file)
        except T2IError:
            raise
        except Exception as err:  # each filesystem has errors of its own, and so has a damaged file
            raise CopyError(f"cannot read {self.where(name)}: {cause(err)}") from err

    def digest(self, name: str) -> str:
        """BLAKE2b of a file, 64 hex digits.

        :raises CopyError: If it cannot be read.
        """
        found = blake2b(digest_size=DIGEST_BYTES)
        with self.reading(name) as file:
            while some := file.read(A_READ):
                found.update(some)
        return found.hexdigest()


class Written:
    """A file that is being written from its start to its end, with its digest so far.

    :ivar bytes: that are written.
    :ivar discarded: the file is not wanted any more; further writes are dropped.
    """

    closed = False

    def __init__(self, file: Any, where: str) -> None:
        self._file, self._where = file, where
        self._digest = blake2b(digest_size=DIGEST_BYTES)
        self.bytes = 0
        self.discarded = False

    def write(self, content: Any) -> int:
        """Append.

        :raises CopyError: If that is not possible.
        """
        size = memoryview(content).nbytes
        if not self.discarded:
            with _writable(self._where):
                self._file.write(content)
            self._digest.update(content)
            self.bytes += size
        return size

    def tell(self) -> int:
        """Return how many bytes are written."""
        return self.bytes

    def flush(self) -> None:
        """Leave it to the end of the block."""

    def close(self) -> None:
        """Leave it to the end of the block."""

    def hexdigest(self) -> str:
        """BLAKE2b of the written bytes, 64 hex digits."""
        return self._digest.hexdigest()


@contextmanager
def _writable(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as err:  # each filesystem has errors of its own
        raise CopyError(
            f"cannot write {where}: {cause(err)}; make room there or choose another folder, and run it again"
        ) from err


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _sync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


NAME = "_manifest.json"
FORMAT = "t2i_pipelines collection"
VERSION = 1
"""Of manifest and columns together. A change that old code would read wrongly counts one up."""

PART = re.compile(r"t2i-\d{5,}\.parquet")
_HALF = f"{NAME}.tmp"
_DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST_DIM = 32_768
"""Of Milvus's float vectors."""


@dataclass(frozen=True)
class Part:
    """One Parquet file.

    :ivar bytes: its size.
    :ivar blake2b: of the file, 32 bytes in hex.
    """

    name: str
    rows: int
    bytes: int
    blake2b: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of an export, and what proves it complete.

    :ivar collection_name: where the rows come from.
    :ivar created: when the export began, UTC, ISO 8601.
    :ivar space: which model the vectors are of.
    :ivar index_type: that the collection had; an import chooses its own.
    :ivar digest: of all rows, see :class:`~t2i_pipelines.jobs.backup.folder.Fingerprint`.
    :ivar notes: texts that were kept with the collection, such as the calibration of relevance.
    """

    collection_name: str
    created: str
    space: Space
    index_type: str
    rows: int
    digest: str
    files: tuple[Part, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.bytes for part in self.files)

    def write(self, folder: Folder) -> None:
        """Finish an export.

        :raises CopyError: If it cannot be written.
        """
        told = {"format": FORMAT, "version": VERSION, **asdict(self)}
        folder.publish(NAME, json.dumps(told, ensure_ascii=False, indent=1).encode())

    @classmethod
    def read(cls, folder: Folder) -> Manifest:
        """Return what an export says of itself, after a look at the sizes of its files.

        :raises CopyError: If there is no export, it was cut short, a newer version wrote it, or a file is
            missing or of another size.
        """
        sizes = folder.sizes()
        if NAME not in sizes:
            raise CopyError(_nothing(folder, sizes))
        manifest = cls._parsed(folder.content(NAME), folder.where(NAME))
        for part in manifest.files:
            where = folder.where(part.name)
            if part.name not in sizes:
                raise CopyError(f"{where} is missing; bring it back, or export the collection again")
            if sizes[part.name] != part.bytes:
                raise CopyError(
                    f"{where} has {sizes[part.name]:,} bytes and had {part.bytes:,} when it was written; "
                    f"copy it again from where it is whole, or export the collection again"
                )
        return manifest

    @classmethod
    def _parsed(cls, content: bytes, where: str) -> Manifest:
        try:
            told = json.loads(content)
            version = told.pop("version")
            if told.pop("format") != FORMAT:
                raise ValueError("another format")
            if isinstance(version, int) and version > VERSION:
                raise CopyError(
                    f"{where} has format {version}, and this t2i-pipelines knows {VERSION}; install the "
                    f"version that made it"
                )
            manifest = _checked(cls, told)
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise CopyError(
                f"{where} is damaged, or no manifest of t2i-pipelines: {type(err).__name__}: {err}; "
                f"export the collection again"
            ) from err
        return manifest


def claim(folder: Folder) -> None:
    """Make a folder ready for an export: an earlier one that was cut short is deleted, nothing else.

    :raises CopyError: If there is something else, or the folder cannot be made.
    """
    there = folder.sizes()
    if NAME in there:
        raise CopyError(f"{folder.address} holds an export already; choose another folder, or delete it")
    if others := sorted(name for name in there if not PART.fullmatch(name) and name != _HALF):
        raise CopyError(
            f"{folder.address} is not empty, it holds {others[0]!r} for one; choose another folder"
        )
    for name in there:
        folder.remove(name)
    folder.make()


def _checked(cls: type[Manifest], found: Any) -> Manifest:
    """Build a manifest; refuse values of other types, and those that no export writes.

    :raises ValueError: Names the key and its value.
    """
    from pydantic import TypeAdapter

    if unknown := sorted(found.keys() - {one.name for one in fields(cls)}):
        raise ValueError(f"unknown key {unknown[0]!r}")
    # as JSON: pydantic's strict mode takes its arrays for tuples, and no text for a number
    manifest: Manifest = TypeAdapter(cls).validate_json(json.dumps(found), strict=True)
    for part in manifest.files:
        if not PART.fullmatch(part.name):
            raise ValueError(f"{part.name!r} is no file of an export")
        if part.rows < 0 or part.bytes < 0 or not _DIGEST.fullmatch(part.blake2b):
            raise ValueError(f"{part} is no file of an export")
    if not 1 <= manifest.space.dim <= LARGEST_DIM:
        raise ValueError(f"space.dim is {manifest.space.dim}, and a vector has 1 to {LARGEST_DIM:,} numbers")
    if sum(part.rows for part in manifest.files) != manifest.rows:
        raise ValueError("the rows of its files do not add up")
    return manifest


def _nothing(folder: Folder, sizes: Mapping[str, int]) -> str:
    if any(PART.fullmatch(name) for name in sizes):
        return f"{folder.address} has no {NAME}: that export was cut short; export the collection again"
    return f"{folder.address} holds no export of a collection: there is no {NAME}"


BYTES = 32


class Fingerprint:
    """Counts rows and sums up their digests, so that their order and their pages do not matter.

    A row's digest is BLAKE2b, 32 bytes, of its vector as little-endian float32, followed by a JSON list of
    id, path, size, mtime, digest and metadata with sorted names. The sum is taken modulo 2**256, which is
    AdHash of Bellare and Micciancio, "A New Paradigm for Collision-free Hashing", 1997. It finds every
    accident; against forgery it is not meant.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows as a collection gives and takes them; a missing value and None are the same."""
        for row in rows:
            vector = np.ascontiguousarray(row["vector"], "<f4").tobytes()
            fields = [row["id"], row["path"], row["size"], row["mtime"], row["digest"], metadata(row)]
            text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            digest = blake2b(vector + text.encode(), digest_size=BYTES).digest()
            self._sum = (self._sum + int.from_bytes(digest)) % (1 << 8 * BYTES)
            self.rows += 1

    def hexdigest(self) -> str:
        """64 hex digits; zeros without a row."""
        return self._sum.to_bytes(BYTES).hex()


def metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a row, without the fields that every row has."""
    return {name: value for name, value in row.items() if name not in FIELDS and value is not None}
