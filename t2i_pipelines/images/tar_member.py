"""Single files out of tars, by their address: for thumbnails, retries, and rows that name them.

A tar that is not compressed is listed once, and then only the file's own bytes are read. Any other is
read from its start to the file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from functools import lru_cache

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images.address import is_http, scheme, split_member
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.limits import check_size
from t2i_pipelines.images.opening import filesystem, open_binary, open_regular

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
    """Where each file starts and how long it is; None if the tar is compressed.

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
