"""Read the bytes of an image, and fetch remote ones ahead of time.

Batches that wait in a pipeline fetch their images already, so that no batch waits for its slowest host. An
image that is not being fetched yet is fetched by its reader.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from t2i_pipelines._towhee.locks import Lock, in_forked_child
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError, T2IError, cause
from t2i_pipelines.images import address as addresses
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.fetch import fetch
from t2i_pipelines.images.files import filesystem, open_regular, read_member
from t2i_pipelines.types import Record


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
