"""Files as streams, wherever they are."""

from __future__ import annotations

import os
from errno import EINVAL
from stat import S_ISREG
from typing import Any, BinaryIO, cast

from t2i_pipelines.errors import MissingExtraError, SourceError, T2IError
from t2i_pipelines.images.address import is_http, scheme
from t2i_pipelines.images.cause import cause
from t2i_pipelines.images.fetch import open_url
from t2i_pipelines.images.sources.record import not_regular

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def open_binary(address: str) -> BinaryIO:
    """A file as a stream of bytes, wherever it is. Over HTTP it cannot seek.

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
    """The filesystem of fsspec for an address, and the path in it.

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
