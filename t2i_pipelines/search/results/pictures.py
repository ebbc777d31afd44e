"""The images of hits, read and decoded as they were for inserting, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image as Pillow

from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError, SourceError
from t2i_pipelines.images import decode, is_remote, read
from t2i_pipelines.images.address import normal, scheme
from t2i_pipelines.images.shrink import MARGIN

THREADS = 8
"""Images that are read at the same time."""

_LENIENT = Decoding(truncated="accept")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load(path: str, longest: int | None = None) -> Pillow.Image:
    """Read an image: upright, RGB, over white. What is there of a file that is cut off is taken.

    :param path: a path or any address that can be inserted; what is remote is fetched.
    :param longest: the longer side is at most this, in pixels; a large JPEG is decoded at a fraction.
    :raises ImageDecodeError: If it cannot be read; names file and cause.
    """
    try:
        if _is_other(path):
            raise ImageDecodeError(f"cannot read image {path}: it is not a file")
        return decoded(read(path), path, longest)
    except SourceError as err:
        raise ImageDecodeError(f"cannot read image {path}: {err}") from err


def decoded(content: bytes, name: str, longest: int | None = None) -> Pillow.Image:
    """Decode an image, see :func:`load`."""
    side = None if longest is None else lambda: longest // MARGIN
    return shrunk(Pillow.fromarray(decode(content, name, _LENIENT, side)), longest)


def shrunk(picture: Pillow.Image, longest: int | None) -> Pillow.Image:
    """The image, its longer side at most ``longest`` pixels."""
    if longest is not None:
        picture.thumbnail((longest, longest))
    return picture


def is_gone(path: str) -> bool:
    """Whether a local file is no longer there; of a file in a tar, the tar. Nothing remote is asked."""
    if is_remote(path):
        return False
    try:
        Path(_local(path)).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # there may be a file, which cannot be read
        return False
    return False


def _is_other(path: str) -> bool:
    """Whether a local path is no file: a folder, a device or a pipe, which reading would not end."""
    return not is_remote(path) and not is_gone(path) and not os.path.isfile(_local(path))  # noqa: PTH113


def _local(path: str) -> str:
    while scheme(path) == "tar":
        path = path.partition("::")[2]
    return normal(path) if scheme(path) else path


def together(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Do the same to many, ``THREADS`` at a time; results come in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))
