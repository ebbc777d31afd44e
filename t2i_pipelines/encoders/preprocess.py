"""How an image becomes the tensor that a model sees: resize, then scale by mean and deviation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import Image

_FILTERS = {"bicubic": Pillow.Resampling.BICUBIC, "bilinear": Pillow.Resampling.BILINEAR}
_MODES = ("squash", "shortest")
MOST_LONG = 32
"""Sides of the square that the longer side of an enlarged image may have. Of one that is thinner, only the
middle is resized: the square is cut out of it, and the rest would take gigabytes."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """open_clip's ``preprocess_cfg.json``, as far as image towers use it.

    :ivar size: side of the square that the model sees, in pixels.
    :ivar mean: of R, G and B, on a scale from 0 to 1.
    :ivar std: likewise.
    :ivar interpolation: ``bicubic`` or ``bilinear``, both antialiased as in Pillow; ``bicubic`` if absent.
    :ivar resize_mode: ``squash`` to the square, or the ``shortest`` side to ``size`` and the centre cut out,
        which open_clip does where its older files say nothing.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str

    @classmethod
    def load(cls, path: Path) -> Preprocess:
        """Read ``preprocess_cfg.json``.

        :raises CheckpointError: If it is missing or says something that is not known here.
        """
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise CheckpointError(f"{path} cannot be read: {type(err).__name__} {err}") from err
        return cls.of(given, str(path))

    @classmethod
    def of(cls, given: Any, where: str) -> Preprocess:
        """Take the settings from what a file holds.

        :param where: the file, for the message.
        :raises CheckpointError: If something is missing or not known here.
        """
        try:
            sides = np.atleast_1d(given["size"])
            loaded = cls(
                size=int(sides[0]),
                mean=tuple(map(float, given["mean"])),
                std=tuple(map(float, given["std"])),
                interpolation=given.get("interpolation", "bicubic"),
                resize_mode=given.get("resize_mode", "shortest"),
            )
        except (ValueError, KeyError, TypeError) as err:
            raise CheckpointError(f"{where} cannot be read: {type(err).__name__} {err}") from err
        if len(set(sides.tolist())) != 1:
            raise CheckpointError(f"{where}: size must be square, got {given['size']}")
        if loaded.interpolation not in _FILTERS or loaded.resize_mode not in _MODES:
            raise CheckpointError(
                f"{where}: interpolation must be one of {', '.join(_FILTERS)} and resize_mode one of "
                f"{', '.join(_MODES)}; got {loaded.interpolation!r} and {loaded.resize_mode!r}"
            )
        return loaded

    def __str__(self) -> str:
        mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        return f"{self.resize_mode} {self.size} {self.interpolation} mean {mean} std {std}"

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> (size, size, 3) uint8. A fitted image comes back as it is."""
        height, width = image.shape[:2]
        if height == width == self.size:
            return image
        pil = Pillow.fromarray(image)
        method = _FILTERS[self.interpolation]
        if self.resize_mode == "squash":
            return np.asarray(pil.resize((self.size, self.size), method))
        # As torchvision's Resize(size) and CenterCrop(size): the long side is cut to whole pixels, down,
        # and the crop starts at the rounded half of what is left over.
        short, long = sorted((height, width))
        other = int(self.size * long / short)
        if other > MOST_LONG * self.size:
            return self.fit(_middle(image, MOST_LONG // 2))
        to = (self.size, other) if width <= height else (other, self.size)
        left, top = (round((side - self.size) / 2.0) for side in to)
        resized = pil.resize(to, method)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def tensor(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images -> (N, 3, size, size) float32."""
        tensor = np.empty((len(images), 3, self.size, self.size), np.float32)
        for planes, image in zip(tensor, images, strict=True):
            fitted = self.fit(image)
            for channel, (plane, values) in enumerate(zip(planes, self._values, strict=True)):
                np.take(values, fitted[..., channel], out=plane, mode="clip")
        return tensor

    @cached_property
    def _values(self) -> NDArray[np.float32]:
        """(3, 256) float32: what each byte becomes in each channel."""
        scaled = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.array(one, np.float32)[:, None] for one in (self.mean, self.std))
        return np.asarray((scaled - mean) / std, np.float32)


def _middle(image: Image, ratio: int) -> Image:
    """Cut out the middle of a thin image, ``ratio`` times as long as it is wide."""
    axis = int(image.shape[1] > image.shape[0])
    length, kept = image.shape[axis], ratio * min(image.shape[:2])
    start = (length - kept) // 2
    return image[start : start + kept] if axis == 0 else image[:, start : start + kept]
