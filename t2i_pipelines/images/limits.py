"""How many bytes an image's file may have."""

from __future__ import annotations

from t2i_pipelines.errors import ImageDecodeError

MAX_BYTES = 64 << 20
"""Of one image's file, over HTTP, on a remote filesystem, or in a tar."""


def check_size(size: int) -> None:
    """Refuse an image that is too large.

    :param size: bytes, of the whole file or of what has been read so far.
    :raises ImageDecodeError: If it is more than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        raise ImageDecodeError(
            f"larger than the {MAX_BYTES:,} bytes that an image from the web, a bucket or a tar may have; "
            "insert it from a local folder"
        )
