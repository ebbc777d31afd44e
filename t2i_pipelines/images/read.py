"""Files to bytes."""

from __future__ import annotations

import hashlib
import os

from t2i_pipelines.errors import ImageDecodeError


def read(path: str | os.PathLike[str]) -> bytes:
    """Read a file.

    :raises ImageDecodeError: If it is missing, a folder, unreadable or empty.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as err:
        raise ImageDecodeError(f"cannot read image {os.fspath(path)}: {err.strerror}") from err
    if not content:
        raise ImageDecodeError(f"cannot read image {os.fspath(path)}: the file is empty")
    return content


def digest(content: bytes) -> str:
    """Digest of a file's bytes: 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
