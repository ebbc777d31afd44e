"""How many bytes an image's file may have."""

from __future__ import annotations

from t2i_pipelines.errors import ImageDecodeError

MAX_BYTES = 64 << 20
"""Of one image's file, over HTTP, on a remote filesystem, or in a tar."""


def check_size(size: int) -> None:
    """Pass a picture that is small enough.

    :param size: bytes, of the whole file or of what has been read so far.
    :raises ImageDecodeError: If it is more than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        raise ImageDecodeError(f"larger than the {MAX_BYTES:,} bytes that a picture may have")
