"""Files to pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Semaphore
from typing import Any, ClassVar, Unpack

import numpy as np
from PIL import Image as Pillow

from t2i_pipelines._towhee.door import TowheeImage
from t2i_pipelines._towhee.locks import in_forked_child
from t2i_pipelines.config.args import DecodingArgs
from t2i_pipelines.config.settings import Decoding, Model
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ConfigError, ImageDecodeError
from t2i_pipelines.images import checked_array, decode, decode_isolated, digest, is_remote, pixels_of, read
from t2i_pipelines.images.shrink import Side
from t2i_pipelines.operators.base import ItemOperator
from t2i_pipelines.types import (
    Backend,
    Batch,
    Device,
    Encoder,
    Image,
    OnError,
    Precision,
    Record,
    Stage,
    Stopwatch,
)


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Decoding threads, shared by the whole process; OpenCV and Pillow release the GIL."""
    return ThreadPoolExecutor(count, "t2i-decode")


FETCHES = 32
"""Remote images that are waited for at the same time, and held in memory."""


@cache
def _fetchers() -> ThreadPoolExecutor:
    """Threads that mostly wait; at most ``decode_workers`` of them decode."""
    return ThreadPoolExecutor(FETCHES, "t2i-fetch")


@cache
def _turns(count: int) -> Semaphore:
    return Semaphore(count)


def _renew() -> None:
    for made in (_workers, _fetchers, _turns):
        made.cache_clear()


in_forked_child(_renew)


def _cores() -> int:
    return os.cpu_count() or 1


def _threads(items: Iterable[Any], count: int) -> ThreadPoolExecutor:
    return (
        _fetchers() if any(isinstance(item, str) and is_remote(item) for item in items) else _workers(count)
    )


class ImageDecode(ItemOperator):
    """``ops.t2i.image_decode``: a path, bytes, a PIL image, or a list of these -> RGB images.

    :param model_name: shrink each image to what this model sees, right after decoding. A batch of
        12-megapixel photos is then held as kilobytes.
    :param settings: see :class:`t2i_pipelines.config.Decoding`. Without a ``model_name``, images have
        their full size, whatever ``reduce`` says.
    :param model: the model, checked already; in place of the arguments before it.
    :param decoding: the settings, checked already; in place of ``settings``.
    :raises ConfigError: If a setting is wrong.
    """

    stage: ClassVar[Stage] = "decode"

    def __init__(
        self,
        model_name: str | None = None,
        checkpoint_path: str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        backend: Backend = "auto",
        on_error: OnError = "record",
        *,
        model: Model | None = None,
        decoding: Decoding | None = None,
        **settings: Unpack[DecodingArgs],
    ) -> None:
        plain = (model_name, checkpoint_path, device, precision, backend)
        self._model = plain if model is None else model.lookup
        self.on_error = on_error
        if decoding is not None and settings:
            raise ConfigError(f"give decoding or settings, not both; got {', '.join(settings)} as well")
        self._decoding = Decoding.of(**settings) if decoding is None else decoding
        self._count = self._decoding.decode_workers or _cores()

    def many(self, items: Sequence[Any]) -> list[Any]:
        """Paths, bytes or PIL images -> ``towhee.types.Image`` arrays, (H, W, 3) uint8, mode RGB.

        With ``frames="mean"`` an animation gives (F, H, W, 3), from which ``ops.t2i.clip`` makes one vector.

        :raises ImageDecodeError: At the first that cannot be read.
        """
        one = partial(self._one, side=cache(self._side))
        return [TowheeImage(image, "RGB") for image in _threads(items, self._count).map(one, items)]

    def work(self, batch: Batch) -> None:
        """Fill, and count how long the threads read and decode."""
        if self._count < _cores():
            batch.clock.hints["decode"] = f"decode_workers={_cores()}"
        self.fill(batch.pending, batch.clock)

    def fill(self, records: list[Record], clock: Stopwatch | None = None) -> None:
        """Read and decode; a file whose bytes are embedded already takes that vector over undecoded."""
        threads = _threads((record.path for record in records), self._count)
        fill_one = partial(self._fill_one, side=cache(self._side), clock=clock or Stopwatch())
        for record, err in zip(records, threads.map(fill_one, records), strict=True):
            if err is not None:
                self.reject(record, err)

    def _fill_one(self, record: Record, side: Side, clock: Stopwatch) -> ImageDecodeError | None:
        try:
            with clock.thread("read"):
                content = read(record, self._decoding.max_bytes)
            record.content = record.ahead = None
            record.stage = "decode"
            if not record.has_twin(digest(content)):
                with _turns(self._count), clock.thread("decode"):
                    record.image = self._decode(content, record.path, side)
        except ImageDecodeError as err:
            return err
        except MemoryError:
            return ImageDecodeError(f"cannot read image {record.path}: not enough memory")
        return None

    def _one(self, item: Any, side: Side) -> Image:
        if isinstance(item, np.ndarray):
            return self._fit(checked_array(item))
        if isinstance(item, Pillow.Image):
            return self._fit(pixels_of(item, self._decoding))
        if isinstance(item, (bytes, bytearray)):
            return self._decode(bytes(item), "<bytes>", side)
        if isinstance(item, (str, os.PathLike)):
            return self._decode(read(item, self._decoding.max_bytes), os.fspath(item), side)
        raise ImageDecodeError(
            f"an image is a path, bytes, a PIL image or an array; got {type(item).__name__}"
        )

    def _decode(self, content: bytes, name: str, side: Side) -> Image:
        way = decode_isolated if self._decoding.isolate else decode
        return self._fit(way(content, name, self._decoding, side))

    def _fit(self, image: Image) -> Image:
        encoder = self._encoder()
        if encoder is None:
            return image
        return encoder.fit(image) if image.ndim < 4 else np.stack([encoder.fit(frame) for frame in image])

    def _encoder(self) -> Encoder | None:
        model_name, checkpoint_path, device, precision, backend = self._model
        if model_name is None:
            return None
        return load_encoder(model_name, checkpoint_path, device, precision, backend)

    def _side(self) -> int | None:
        """Found out by fitting an image that is no square; None where that gives no square."""
        encoder = self._encoder()
        if encoder is None:
            return None
        height, width = encoder.fit(np.zeros((8, 9, 3), np.uint8)).shape[:2]
        return height if height == width else None
