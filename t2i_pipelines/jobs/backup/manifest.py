"""What an export says of itself, in a file that is written last: a folder without it was cut short.

``_manifest.json``; the underscore has pandas and pyarrow pass it by when they read the folder.

One digest of many rows, in whatever order they come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from typing import Any

import numpy as np

from t2i_pipelines.collection.rows import FIELDS
from t2i_pipelines.errors import CopyError
from t2i_pipelines.jobs.backup.folder import Folder
from t2i_pipelines.types import Space

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
    :ivar digest: of all rows, see :class:`~t2i_pipelines.jobs.backup.manifest.Fingerprint`.
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
        """What an export says of itself, after a look at the sizes of its files.

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
    """What a row holds beside the fields that every row has."""
    return {name: value for name, value in row.items() if name not in FIELDS and value is not None}
