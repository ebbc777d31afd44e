"""Open files as streams wherever they are, read the bytes of images, and fetch remote ones ahead of time.

A tar that is not compressed is listed once, and then only the file's own bytes are read. Any other is
read from its start to the file.

Batches that wait in a pipeline fetch their images already, so that no batch waits for its slowest host. An
image that is not being fetched yet is fetched by its reader.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from errno import EINVAL
from functools import cache, lru_cache
from stat import S_ISREG
from typing import Any, BinaryIO, cast

from t2i_pipelines._towhee.locks import Lock, in_forked_child
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError, MissingExtraError, SourceError, T2IError, cause
from t2i_pipelines.images import address as addresses
from t2i_pipelines.images.address import check_size, is_http, normal, scheme, split_member
from t2i_pipelines.images.fetch import fetch, open_url
from t2i_pipelines.images.record import not_regular
from t2i_pipelines.types import Record

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def open_binary(address: str) -> BinaryIO:
    """Return a file as a stream of bytes, wherever it is. Over HTTP it cannot seek.

    :raises SourceError: If it cannot be opened; names address and cause.
    """
    try:
        if is_http(address):
            return open_url(address)
        if not scheme(address):
            return open_regular(address)
        fs, path = filesystem(address)
        return cast(BinaryIO, fs.open(path, "rb"))
    except T2IError:
        raise
    except Exception as err:  # each filesystem has errors of its own
        raise SourceError(f"cannot read {address!r}: {cause(err)}") from err


def open_regular(path: str) -> BinaryIO:
    """Open a local file, unless it is a pipe or a device, whose bytes may never come or never end.

    :raises OSError: If it cannot be opened, or is not a regular file.
    """
    file = open(path, "rb", opener=_open_without_blocking)  # noqa: SIM115 - closed by the caller
    mode = os.fstat(file.fileno()).st_mode
    if not S_ISREG(mode):
        file.close()
        raise OSError(EINVAL, not_regular(mode), path)
    return file


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def filesystem(address: str) -> tuple[Any, str]:
    """Return the filesystem of fsspec for an address, and the path in it.

    :raises MissingExtraError: If the package for this protocol is not installed.
    :raises SourceError: If fsspec cannot open it; names address and cause.
    """
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(address)
    except ImportError as err:
        kind = scheme(address)
        way_out = f"; run: pip install 't2i-pipelines[{_EXTRAS[kind]}]'" if kind in _EXTRAS else ""
        raise MissingExtraError(f"cannot open {kind}://: {err}{way_out}") from err
    except Exception as err:  # each protocol has errors of its own
        raise SourceError(f"cannot open {address!r}: {cause(err)}") from err
    return fs, path


TARS_LISTED = 64
"""Listings that are kept: some 150 bytes a file."""


def read_member(address: str) -> bytes:
    """Read ``tar://member::archive``; at most ``limits.MAX_BYTES``.

    :raises ImageDecodeError: If the tar cannot be read or has no such file.
    """
    try:
        member, archive = split_member(address)
        content = _from_stream(member, archive) if is_http(archive) else _from_file(member, archive)
    except ImageDecodeError as err:
        raise ImageDecodeError(f"cannot read image {address}: {err}") from err
    except Exception as err:  # damaged tars and remote filesystems fail in many ways
        raise ImageDecodeError(f"cannot read image {address}: {cause(err)}") from err
    if content is None:
        raise ImageDecodeError(f"cannot read image {address}: the tar has no such file")
    return content


def _from_file(member: str, archive: str) -> bytes | None:
    fs, path = filesystem(archive)
    if scheme(archive) in ("", "file", "local"):
        open_regular(path).close()
    places = _listing(archive, fs.ukey(path))
    if places is None:
        return _from_stream(member, archive)
    if member not in places:
        return None
    start, size = places[member]
    check_size(size)
    content: bytes = fs.cat_file(path, start=start, end=start + size)
    return content


@lru_cache(TARS_LISTED)
def _listing(archive: str, version: str) -> Mapping[str, tuple[int, int]] | None:
    """Return where each file starts and how long it is; None if the tar is compressed.

    :param version: changes when the tar does, so that an old listing is not used.
    """
    fs, path = filesystem(archive)
    places = {}
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for one in tar:
                tar.members = []  # type: ignore[attr-defined] # else they pile up
                if one.isreg() and not one.issparse():
                    places[one.name] = (one.offset_data, one.size)
    except tarfile.ReadError:
        return places or None  # a tar that breaks off has whole files before that
    return places


def _from_stream(member: str, archive: str) -> bytes | None:
    with open_binary(archive) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for one in tar:
            tar.members = []  # type: ignore[attr-defined]
            if one.name == member and one.isreg():
                check_size(one.size)
                file = tar.extractfile(one)
                return file.read() if file else None
    return None


def read(item: str | os.PathLike[str] | Record, max_bytes: int = Decoding.max_bytes) -> bytes:
    """Read an image's bytes, wherever they are.

    :param item: a local path, ``file://``, ``http(s)://``, ``tar://member::archive``, any URL that fsspec
        opens; or a record, whose bytes may have come with it.
    :param max_bytes: size of a local file at most; that of a remote one is ``address.MAX_BYTES``.
    :raises ImageDecodeError: If it is missing, not a regular file, unreadable, empty or too large.
    """
    if isinstance(item, Record):
        if item.content is not None:
            return item.content
        if item.ahead is not None and (content := item.ahead()) is not None:
            return content
        item = item.path
    address = os.fspath(item)
    kind = scheme(address)
    if not kind:
        content = _read_file(address, max_bytes)
    elif kind in ("http", "https"):
        content = fetch(address)
    elif kind == "tar":
        content = read_member(address)
    elif kind == "file":
        content = _read_file(normal(address), max_bytes)
    else:
        content = _read_remote(address)
    if not content:
        raise ImageDecodeError(f"cannot read image {address}: the file is empty")
    return content


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            # some files of /proc have nothing to give yet, which is None
            content = b"" if found.st_size > max_bytes else file.read(max_bytes + 1) or b""
    except (OSError, ValueError) as err:  # a name with a zero byte is a ValueError
        raise ImageDecodeError(f"cannot read image {path}: {cause(err)}") from err
    except MemoryError as err:
        raise ImageDecodeError(f"cannot read image {path}: not enough memory for its bytes") from err
    size = max(found.st_size, len(content))
    if size > max_bytes:
        raise ImageDecodeError(
            f"cannot read image {path}: {size:,} bytes are more than max_bytes={max_bytes:,}; "
            "raise max_bytes (--max-bytes) if you trust the file"
        )
    return content


def _read_remote(address: str) -> bytes:
    try:
        fs, path = filesystem(address)
        content: bytes = fs.cat_file(path, end=addresses.MAX_BYTES + 1)
        addresses.check_size(len(content))
    except T2IError as err:
        raise ImageDecodeError(f"cannot read image {address}: {err}") from err
    except Exception as err:  # each filesystem has errors of its own
        raise ImageDecodeError(f"cannot read image {address}: {cause(err)}") from err
    return content


def digest(content: bytes) -> str:
    """Digest of a file's bytes: 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


THREADS = 64
"""Images that are fetched ahead at the same time, of all hosts together."""

BYTES = 512 << 20
"""Of images that have come and are not decoded yet. When they are as many, no further one is begun."""


class _Content:
    """The bytes of an image, counted for as long as they are referenced."""

    held = 0
    _lock = Lock()  # re-entrant: a collection of garbage may come in between

    def __init__(self, content: bytes) -> None:
        self.content = content
        with _Content._lock:
            _Content.held += len(content)

    def __del__(self) -> None:
        with _Content._lock:
            _Content.held -= len(self.content)


class Ahead:
    """One image on its way. Nothing is fetched any more once this object is gone."""

    def __init__(self, address: str) -> None:
        self._future: Future[_Content | None] = _threads().submit(_fetch, weakref.ref(self), address)

    def take(self) -> bytes | None:
        """Return the bytes, waited for if they are on their way; None if they are not being fetched.

        :raises ImageDecodeError: If they cannot be had.
        """
        if self._future.cancel():
            return None
        found = self._future.result()
        return found.content if found is not None else None


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "t2i-ahead")


in_forked_child(_threads.cache_clear)


def _fetch(asked_by: weakref.ref[Ahead], address: str) -> _Content | None:
    if asked_by() is None or _Content.held >= BYTES:
        return None
    return _Content(read(address))
