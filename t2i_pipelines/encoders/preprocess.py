"""How an image becomes the tensor that a model sees: resize, crop, then scale by mean and deviation.

Two files say it: open_clip's ``preprocess_cfg.json`` and transformers' ``preprocessor_config.json``. They
round a crop differently, where an odd number of pixels is left over: by one pixel, which changes a vector
(cosine 0.965 of a random ViT-B/32). transformers' processors on torchvision (``...Fast``) resize otherwise
than those on Pillow by at most 2 of 255 in half a percent of the values; both are resized by Pillow here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import Image

_FILTERS = {
    "bicubic": Pillow.Resampling.BICUBIC,
    "bilinear": Pillow.Resampling.BILINEAR,
    "lanczos": Pillow.Resampling.LANCZOS,
}
_MODES = ("squash", "shortest", "longest")
_CROPS = ("openai", "transformers")
MOST_LONG = 32
"""Sides of the square that the longer side of an enlarged image may have. Of one that is thinner, only the
middle is resized: the square is cut out of it, and the rest would take gigabytes."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_BYTE = 1 / 255


@dataclass(frozen=True)
class Preprocess:
    """How images become tensors; ``str()`` of it is stored with a collection and compared.

    An image that already has ``size`` by ``size`` pixels counts as fitted, and is not resized again.

    :ivar size: side of the square that the model sees, in pixels.
    :ivar mean: of R, G and B, on the scale that ``scale`` gives.
    :ivar std: likewise.
    :ivar interpolation: ``bicubic``, ``bilinear`` or ``lanczos``, all antialiased as in Pillow; ``bicubic``
        if absent.
    :ivar resize_mode: ``squash`` to the square; or the ``shortest`` side to ``size`` and the centre cut out,
        which open_clip does where its older files say nothing; or the ``longest`` side to ``size`` and the
        rest filled up.
    :ivar crop: whose rounding the crop has: ``openai`` (half to even, as torchvision and open_clip) or
        ``transformers`` (down). Not in ``str()``: the same weights, exported by one library or the other,
        fill and search one collection.
    :ivar resize: what is resized to before the centre is cut out; None is ``size``.
    :ivar scale: what bytes are multiplied by.
    :ivar fill_color: of the rest that ``longest`` leaves, 0 to 255.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    crop: str = "openai"
    resize: int | None = None
    scale: float = _BYTE
    fill_color: int = 0

    @classmethod
    def load(cls, path: Path) -> Preprocess:
        """Read ``preprocess_cfg.json``.

        :raises CheckpointError: If it is missing or says something that is not known here.
        """
        return cls.of(_read(path), str(path))

    @classmethod
    def of_folder(cls, folder: Path, size: int, usual: str = "CLIPImageProcessor") -> Preprocess | None:
        """Read what transformers wrote: ``preprocessor_config.json``, or ``processor_config.json``.

        :param size: with ``usual``, see :meth:`of_processor`.
        :return: None where there is neither file.
        :raises CheckpointError: If the file asks for what is not known here.
        """
        for name, part in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
            if (path := folder / name).is_file():
                given = _read(path)
                if isinstance(given, dict) and (part is None or part in given):
                    return cls.of_processor(given[part] if part else given, str(path), size, usual)
        return None

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
                crop=given.get("crop", "openai"),
                resize=None if given.get("resize") is None else int(given["resize"]),
                scale=float(given.get("scale", _BYTE)),
                fill_color=int(given.get("fill_color", 0)),
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
        if loaded.crop not in _CROPS:
            raise CheckpointError(f"{where}: crop must be one of {', '.join(_CROPS)}, got {loaded.crop!r}")
        return loaded

    @classmethod
    def of_processor(
        cls, given: Mapping[str, Any], where: str, size: int, usual: str = "CLIPImageProcessor"
    ) -> Preprocess:
        """Take the settings from transformers' ``preprocessor_config.json``.

        :param where: the file, for the message.
        :param size: side of the square that the model sees; the file must lead to it.
        :param usual: the processor's type, where the file does not say it.
        :raises CheckpointError: If the file asks for what is not known here.
        """
        given = {key: value for key, value in given.items() if value is not None}
        kind = given.get("image_processor_type") or given.get("feature_extractor_type") or usual
        name = str(kind).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
        if "auto_map" in given or name not in _PROCESSORS:
            why = (
                "code of its own repository, which is never run" if "auto_map" in given else "not known here"
            )
            known = ", ".join(_PROCESSORS)
            raise CheckpointError(f"{where}: the processor {kind} is {why}; known are {known}")
        given = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, **_PROCESSORS[name], **given}
        resample = _PILLOW.get(given.get("resample", Pillow.Resampling.BICUBIC))
        if resample is None:
            raise CheckpointError(f"{where}: resample must be one of {_PILLOW}, got {given['resample']!r}")
        if given.get("do_pad") or not given.get("do_resize", True):
            raise CheckpointError(f"{where}: do_pad and do_resize=false are not supported")
        squashed, resize = _sides(given.get("size", size), bool(given.get("squash")), where)
        cropped, side = _sides(given.get("crop_size", size), True, where)
        if not given.get("do_center_crop"):
            cropped, side = squashed, resize
        if not cropped or side > resize:
            raise CheckpointError(
                f"{where}: size {given.get('size')} and crop_size {given.get('crop_size')} do not lead to a "
                "square of one size"
            )
        if side != size:
            raise CheckpointError(f"{where} leads to {side} pixels, the model sees {size}")
        normalizes = given.get("do_normalize", True)
        return cls(
            size=size,
            mean=tuple(map(float, given["image_mean"])) if normalizes else (0.0, 0.0, 0.0),
            std=tuple(map(float, given["image_std"])) if normalizes else (1.0, 1.0, 1.0),
            interpolation=resample,
            resize_mode="squash" if squashed else "shortest",
            crop="transformers",
            resize=None if resize == size else resize,
            scale=float(given.get("rescale_factor", _BYTE)) if given.get("do_rescale", True) else 1.0,
        )

    def __str__(self) -> str:
        mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        line = f"{self.resize_mode} {self.size} {self.interpolation} mean {mean} std {std}"
        line += f" from {self.resize}" if self.resize not in (None, self.size) else ""
        line += f" scale {self.scale:.4g}" if not math.isclose(self.scale, _BYTE, rel_tol=1e-6) else ""
        return line + (f" fill {self.fill_color}" if self.resize_mode == "longest" else "")

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> (size, size, 3) uint8. A fitted image comes back as it is."""
        height, width = image.shape[:2]
        if height == width == self.size:
            return image
        to = self._resized(height, width)
        if max(to) > MOST_LONG * min(to) and self.resize_mode == "shortest":
            return self.fit(_middle(image, MOST_LONG // 2))
        resized = Pillow.fromarray(image).resize((to[1], to[0]), _FILTERS[self.interpolation])
        if self.resize_mode == "longest":
            fitted = np.full((self.size, self.size, 3), self.fill_color, np.uint8)
            top, left = ((self.size - side) // 2 for side in to)
            fitted[top : top + to[0], left : left + to[1]] = np.asarray(resized)
            return fitted
        # the rounded half of what is left over: half to even, as Python and torchvision round, or down
        top, left = ((side - self.size) // 2 for side in to)
        if self.crop == "openai":
            top, left = (round((side - self.size) / 2) for side in to)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to."""
        side = self.resize or self.size
        if self.resize_mode == "squash":
            return side, side
        if self.resize_mode == "longest":  # as timm's ResizeKeepRatio
            ratio = max(height / side, width / side)
            return max(round(height / ratio), 1), max(round(width / ratio), 1)
        # as torchvision's Resize(side), and transformers: the long side is cut to whole pixels, down
        other = int(side * max(height, width) / min(height, width))
        return (other, side) if width <= height else (side, other)

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
        scaled = (np.arange(256) * self.scale).astype(np.float32)
        mean, std = (np.array(one, np.float32)[:, None] for one in (self.mean, self.std))
        return np.asarray((scaled - mean) / std, np.float32)


_PILLOW = {int(number): name for name, number in _FILTERS.items()}
_SQUASHED = {"squash": True, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
_CROPPED = {"do_center_crop": True}
_PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": _CROPPED,
    "ChineseCLIPImageProcessor": _CROPPED,
    "BitImageProcessor": _CROPPED,
    "SiglipImageProcessor": _SQUASHED,
    "ViTImageProcessor": {**_SQUASHED, "resample": Pillow.Resampling.BILINEAR},
}
"""What transformers' classes do where their files say nothing."""


def _sides(size: Any, squash: bool, where: str) -> tuple[bool, int]:
    """Return whether transformers' ``size`` is a square's, and the side; else it is the shortest side's.

    :param squash: what a mere number means.
    """
    given = size if isinstance(size, Mapping) else {}
    if isinstance(size, int):
        return squash, size
    if given.keys() == {"shortest_edge"}:
        return False, int(given["shortest_edge"])
    if given.keys() == {"height", "width"} and given["height"] == given["width"]:
        return True, int(given["height"])
    raise CheckpointError(f"{where}: a size must be square or a shortest_edge, got {size!r}")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointError(f"{path} cannot be read: {type(err).__name__} {err}") from err


def _middle(image: Image, ratio: int) -> Image:
    """Cut out the middle of a thin image, ``ratio`` times as long as it is wide."""
    axis = int(image.shape[1] > image.shape[0])
    length, kept = image.shape[axis], ratio * min(image.shape[:2])
    start = (length - kept) // 2
    return image[start : start + kept] if axis == 0 else image[:, start : start + kept]
