"""Uploaded images: read from a form, staged until their job runs, then kept under the digest of their bytes.

::

    UPLOADS/3f/3f2a...c1.jpeg     an image that is kept; a root as any other, that can be inserted again
    UPLOADS/.incoming/JOB/0       the first file of an upload whose job waits

Names that clients give are metadata and never a part of a path.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, BinaryIO

from fastapi import Request
from pydantic import Field, TypeAdapter
from pydantic_core import from_json, to_json
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from t2i_pipelines.errors import ConfigError, ImageDecodeError, cause
from t2i_pipelines.images.decode import identify, image_suffixes
from t2i_pipelines.images.files import digest
from t2i_pipelines.images.record import RESERVED, record_of
from t2i_pipelines.serve.images import media_type_of
from t2i_pipelines.serve.middleware import VALUES, check_values
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.schemas import Name
from t2i_pipelines.types import Outcome, Record, Skipped

FILES = 1000
"""Files that a request may have."""

FIELDS_BYTES = 1 << 20
"""Bytes of the part ``fields``."""

ROW_BYTES = 1 << 16
"""Bytes of the metadata of one image, as JSON: what Milvus stores of a row's further columns."""

LONGEST_NAME = 255
"""Characters of a file's name that are kept."""

PIECE = 1 << 18
"""Bytes of a form that are parsed before other requests have their turn."""

INCOMING = ".incoming"
LEFT_SECONDS = 24 * 3600
"""After so long, staged files of a process that was killed are removed."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Row = Annotated[dict[Name, Any], Field(max_length=64)]
_ROWS: TypeAdapter[dict[str, Any] | list[dict[str, Any]]] = TypeAdapter(Row | list[Row])


@dataclass
class Form:
    """A form with images.

    :ivar files: name, cleaned, and content of each.
    :ivar rows: metadata of each.
    """

    parts: FormData
    files: list[tuple[str, BinaryIO]]
    rows: list[dict[str, Any]]


async def read_form(request: Request) -> Form:
    """Return the files and metadata of a form; close its ``parts`` after use.

    :raises Refusal: If it cannot be read, has too many files, or its metadata does not fit them.
    """
    try:
        form = await MultiPartParser(
            request.headers, _pieces(request), max_files=FILES, max_fields=1, max_part_size=FIELDS_BYTES
        ).parse()
    except MultiPartException as err:
        if err.message.startswith("Too many files"):
            raise Refusal(422, f"a request may have {FILES:,} files", code="too_many_files") from err
        raise Refusal(400, f"the form cannot be read: {err.message}") from err
    except (LookupError, UnicodeError) as err:  # of a charset that is none, or not for this
        raise Refusal(400, f"the form's charset does not fit: {err!s:.200}") from err
    except OSError as err:  # large files are parsed into temporary ones
        raise no_room(err) from err
    try:
        return await _checked(form)
    except UnicodeError as err:  # half a character, which some charsets can write
        await form.close()
        raise Refusal(400, f"fields cannot be read: {err!s:.200}") from err
    except BaseException:
        await form.close()
        raise


def no_room(err: OSError) -> Exception:
    """Return the refusal of a full disk; of another error, itself."""
    if err.errno not in FULL:
        return err
    return Refusal(507, "there is no room for uploads; nothing of this one is kept", code="storage_full")


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    body = await request.body()
    for at in range(0, len(body), PIECE):
        yield body[at : at + PIECE]
        await asyncio.sleep(0)


async def _checked(form: FormData) -> Form:
    files, given = [], b"{}"
    for name, value in form.multi_items():
        if name == "image" and isinstance(value, UploadFile):
            files.append((cleaned(value.filename or ""), value.file))
        elif name == "fields":
            given = value.encode() if isinstance(value, str) else await value.read(FIELDS_BYTES + 1)
        elif name == "image":
            raise Refusal(422, "image is text; send the bytes of a file, with the name of the file")
        else:
            raise Refusal(422, f"a form has files as image, and fields; it cannot have {name!r:.80}")
    if not files:
        raise Refusal(422, "there is no file; send each as a part that is called image")
    return Form(form, files, rows_of(given, len(files)))


def rows_of(given: bytes, files: int) -> list[dict[str, Any]]:
    """Return the metadata of each file from the JSON of ``fields``: an object for all, or one for each.

    :raises Refusal: If it is no JSON, too large, names a column that is reserved, or does not fit the files.
    """
    if len(given) > FIELDS_BYTES:
        raise Refusal(413, f"fields may have {FIELDS_BYTES:,} bytes")
    check_values([given], VALUES["/v1/insert"])
    try:
        found = _ROWS.validate_python(from_json(given, allow_inf_nan=False))
    except ValueError as err:
        raise Refusal(422, "fields must be a JSON object, or a list with one for each file") from err
    rows = found if isinstance(found, list) else [found] * files
    if len(rows) != files:
        raise Refusal(422, f"fields is a list of {len(rows)}, and there are {files} files")
    if isinstance(found, dict) and files > 1 and "id" in found:
        raise Refusal(422, "an id is of one image: give a list of fields, with one object for each file")
    for row in rows[:1] if isinstance(found, dict) else rows:
        if taken := sorted((RESERVED - {"id"}) & row.keys()):
            raise Refusal(422, f"the column {taken[0]} is reserved; choose another name")
        if len(to_json(row)) > ROW_BYTES:
            raise Refusal(422, f"the fields of an image may have {ROW_BYTES:,} bytes")
    return rows


def cleaned(name: str) -> str:
    """Return a file's name as metadata: without folders, and without what cannot be printed."""
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name))[-1]
    return "".join(letter for letter in last if letter.isprintable()).strip()[:LONGEST_NAME]


@dataclass
class Upload:
    """The files of one upload, staged until its job reads them.

    :ivar id: of the job.
    :ivar keep: where images are kept; ``staged``: where those of this upload wait.
    """

    id: str
    keep: Path
    staged: Path
    max_pixels: int
    rows: list[dict[str, Any]]
    digests: list[str]
    _made: dict[str, int] = field(default_factory=dict)
    """Path -> records without an outcome, of files that are not known to be of use yet."""
    _lock: Lock = field(default_factory=Lock)

    @property
    def fingerprint(self) -> str:
        """Digest of the names, contents and metadata."""
        return hashlib.sha256(to_json([self.digests, self.rows])).hexdigest()

    def records(self, skipped: Skipped) -> Iterator[Record]:
        """Move each file to where it is kept, and return its record; a failed one of what is no image."""
        for number, (row, name) in enumerate(zip(self.rows, self.digests, strict=True)):
            try:
                path = self._publish(self.staged / str(number), name)
            except Exception as err:  # whatever the header has: it is this file's
                called = row.get("filename") or f"file {number + 1} of the request"
                why = err if isinstance(err, ImageDecodeError) else cause(err)
                record = Record("", metadata=row)
                record.fail(f"cannot read image {called}: {why}")
                yield record
            else:
                yield record_of({**row, "path": str(path)})

    def _publish(self, staged: Path, name: str) -> Path:
        path = self.keep / name[:2] / f"{name}{_suffix(staged.read_bytes(), self.max_pixels)}"
        with self._lock:
            if not path.exists():
                if not path.parent.exists():
                    path.parent.mkdir()
                    _sync(self.keep)
                with staged.open("rb+") as file:
                    os.fsync(file.fileno())
                staged.replace(path)
                self._made[str(path)] = 0
                _sync(path.parent)
            if str(path) in self._made:
                self._made[str(path)] += 1
        return path

    def take(self, outcome: Outcome) -> None:
        """Remove the file of a failed outcome, unless it was there before or another record needs it."""
        with self._lock:
            if outcome.path not in self._made:
                return
            self._made[outcome.path] -= 1
            if outcome.status not in ("failed", "skipped"):
                del self._made[outcome.path]
            elif not self._made[outcome.path]:
                del self._made[outcome.path]
                Path(outcome.path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what is still staged."""
        shutil.rmtree(self.staged, ignore_errors=True)


def _suffix(content: bytes, max_pixels: int) -> str:
    """Return the suffix of an image's format: a folder that is inserted takes files by it."""
    if not content:
        raise ImageDecodeError("the file is empty")
    header = identify(content, max_pixels)
    if not media_type_of(header):
        raise ImageDecodeError(f"{header.format} has no signature to tell it by; send it as PNG")
    suffix = f".{header.format or ''}".lower()
    return suffix if suffix in image_suffixes() else ".jp2" if suffix == ".jpeg2000" else ""


def _sync(folder: Path) -> None:
    """Write a folder's entries to the disk, where the system has that."""
    with suppress(PermissionError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Uploads:
    """The folder of uploaded images. Thread-safe.

    :param folder: made if it is missing.
    :param max_pixels: of an image, at most.
    :raises ConfigError: If there can be no such folder.
    """

    def __init__(self, folder: Path, max_pixels: int) -> None:
        self._folder, self._max_pixels = folder, max_pixels
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigError(f"uploads must be a folder, got {str(folder)!r}: {err.strerror}") from err

    def stage(self, files: Sequence[tuple[str, BinaryIO]], rows: Sequence[dict[str, Any]]) -> Upload:
        """Write the files of a request to the disk.

        :raises Refusal: If there is no room for them.
        """
        id = secrets.token_hex(8)
        staged = self._folder / INCOMING / id
        named = [{"filename": name or None, **row} for (name, _), row in zip(files, rows, strict=True)]
        upload = Upload(id, self._folder, staged, self._max_pixels, named, [])
        try:
            staged.mkdir(parents=True)
            for number, (_, file) in enumerate(files):
                content = file.read()
                upload.digests.append(digest(content))
                (staged / str(number)).write_bytes(
                    content
                )  # synced when it is kept: till then it may be lost
        except OSError as err:
            upload.discard()
            raise no_room(err) from err
        return upload

    def clear(self, ended: Iterable[str]) -> None:
        """Remove staged files of jobs that will not run any more.

        :param ended: ids of jobs.
        """
        ids, now = set(ended), time.time()
        with suppress(FileNotFoundError):
            for staged in (self._folder / INCOMING).iterdir():
                if staged.name in ids or now - staged.stat().st_mtime > LEFT_SECONDS:
                    shutil.rmtree(staged, ignore_errors=True)
