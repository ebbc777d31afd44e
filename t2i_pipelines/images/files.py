"""Open files as streams wherever they are, and single files of tars.

A tar that is not compressed is listed once, and then only the file's own bytes are read. Any other is
read from its start to the file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from errno import EINVAL
from functools import lru_cache
from stat import S_ISREG
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import ImageDecodeError, MissingExtraError, SourceError, T2IError, cause
from t2i_pipelines.images.address import check_size, is_http, scheme, split_member
from t2i_pipelines.images.fetch import open_url
from t2i_pipelines.images.record import not_regular

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
