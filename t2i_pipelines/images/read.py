"""Addresses to bytes."""

from __future__ import annotations

import hashlib
import os

from t2i_pipelines.errors import ImageDecodeError, T2IError
from t2i_pipelines.images import limits
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.fetch import fetch
from t2i_pipelines.images.opening import filesystem
from t2i_pipelines.images.tar_member import read_member
from t2i_pipelines.types import Record


def read(item: str | os.PathLike[str] | Record) -> bytes:
    """Read a picture's bytes, wherever they are.

    :param item: a local path, ``file://``, ``http(s)://``, ``tar://member::archive``, any URL that fsspec
        opens; or a record, whose bytes may have come with it.
    :raises ImageDecodeError: If it is missing, a folder, unreadable, empty, or remote and too large.
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
        content = _read_file(address)
    elif kind in ("http", "https"):
        content = fetch(address)
    elif kind == "tar":
        content = read_member(address)
    elif kind == "file":
        content = _read_file(normal(address))
    else:
        content = _read_remote(address)
    if not content:
        raise ImageDecodeError(f"cannot read image {address}: the file is empty")
    return content


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as err:
        raise ImageDecodeError(f"cannot read image {path}: {err.strerror}") from err


def _read_remote(address: str) -> bytes:
    try:
        fs, path = filesystem(address)
        content: bytes = fs.cat_file(path, end=limits.MAX_BYTES + 1)
        limits.check_size(len(content))
    except T2IError as err:
        raise ImageDecodeError(f"cannot read image {address}: {err}") from err
    except Exception as err:  # each filesystem has errors of its own
        raise ImageDecodeError(f"cannot read image {address}: {cause(err)}") from err
    return content


def digest(content: bytes) -> str:
    """Digest of a file's bytes: 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
