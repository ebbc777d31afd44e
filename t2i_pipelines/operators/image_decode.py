"""Files to pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Semaphore
from typing import Any

import numpy as np

from t2i_pipelines._towhee import TowheeImage
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode, digest, is_remote, read
from t2i_pipelines.operators.base import ItemOperator
from t2i_pipelines.types import Backend, Device, Image, OnError, Precision, Record


@cache
def _workers() -> ThreadPoolExecutor:
    """Decoding threads, one a core, for the whole process; OpenCV and Pillow let go of the GIL."""
    return ThreadPoolExecutor(os.cpu_count(), "t2i-decode")


FETCHES = 32
"""Remote pictures that are waited for at the same time, and held in memory."""


@cache
def _fetchers() -> ThreadPoolExecutor:
    """Threads that mostly wait; at most one a core decodes."""
    return ThreadPoolExecutor(FETCHES, "t2i-fetch")


_cores = Semaphore(os.cpu_count() or 1)


def _threads(items: Iterable[Any]) -> ThreadPoolExecutor:
    return _fetchers() if any(isinstance(item, str) and is_remote(item) for item in items) else _workers()


class ImageDecode(ItemOperator):
    """``ops.t2i.image_decode``: a path, bytes, or a list of these -> RGB pictures.

    :param model_name: shrink each picture to what this model sees, right after decoding. A batch of
        12-megapixel photos is then held as kilobytes; the model's vectors are the same.
    """

    def __init__(
        self,
        model_name: str | None = None,
        checkpoint_path: str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        backend: Backend = "auto",
        on_error: OnError = "record",
    ) -> None:
        self._model = (model_name, checkpoint_path, device, precision, backend)
        self.on_error = on_error

    def many(self, items: Sequence[Any]) -> list[Any]:
        """Paths or bytes -> ``towhee.types.Image`` arrays, (H, W, 3) uint8, mode RGB.

        :raises ImageDecodeError: At the first that cannot be read.
        """
        return [TowheeImage(image, "RGB") for image in _threads(items).map(self._decode, items)]

    def fill(self, records: list[Record]) -> None:
        """Read and decode; a file whose bytes are embedded already takes that vector over undecoded."""
        threads = _threads(record.path for record in records)
        for record, err in zip(records, threads.map(self._fill_one, records), strict=True):
            if err is not None:
                self.reject(record, err)

    def _fill_one(self, record: Record) -> ImageDecodeError | None:
        try:
            content = read(record)
            record.content = None
            record.stage = "decode"
            if not record.has_twin(digest(content)):
                with _cores:
                    record.image = self._fit(decode(content, record.path))
        except ImageDecodeError as err:
            return err
        return None

    def _decode(self, item: Any) -> Image:
        if isinstance(item, np.ndarray):
            return self._fit(item)
        if isinstance(item, (bytes, bytearray)):
            return self._fit(decode(bytes(item)))
        if isinstance(item, (str, os.PathLike)):
            return self._fit(decode(read(item), os.fspath(item)))
        raise ImageDecodeError(f"a picture is a path, bytes or an array; got {type(item).__name__}")

    def _fit(self, image: Image) -> Image:
        model_name, checkpoint_path, device, precision, backend = self._model
        if model_name is None:
            return image
        return load_encoder(model_name, checkpoint_path, device, precision, backend).fit(image)
