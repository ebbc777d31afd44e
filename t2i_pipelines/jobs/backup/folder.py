"""The folder of an export, on a disk or wherever fsspec writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import CopyError, SourceError, T2IError, cause
from t2i_pipelines.images import normal
from t2i_pipelines.images.files import filesystem

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
        """A file in it, as the filesystem itself names it."""
        return f"{self._root}/{name}"

    def where(self, name: str) -> str:
        """A file in it, as messages show it."""
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
        """A small file.

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
        """How many bytes are written."""
        return self.bytes

    def flush(self) -> None:
        """Leave it to the end of the block."""

    def close(self) -> None:
        """Leave it to the end of the block."""

    def hexdigest(self) -> str:
        """BLAKE2b of what is written, 64 hex digits."""
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
