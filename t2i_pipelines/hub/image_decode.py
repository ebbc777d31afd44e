"""``ops.image_decode.cv2`` and ``ops.image_decode.cv2_rgb``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from t2i_pipelines._towhee.door import TowheeImage
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.operators.image_decode import ImageDecode

MODES = ("BGR", "RGB")


class Cv2(ImageDecode):
    """A path, URL or bytes -> ``towhee.types.Image``, (H, W, 3) uint8, at full size; a list -> a list.

    Images come upright, in sRGB, over white: see :mod:`t2i_pipelines.operators.image_decode`.

    :param mode: order of the channels, ``BGR`` or ``RGB``, in capitals or not.
    :raises ConfigError: If it is another.
    """

    def __init__(self, mode: str = "BGR") -> None:
        super().__init__()
        self._mode = str(mode).upper()
        if self._mode not in MODES:
            raise ConfigError(f"mode must be {' or '.join(MODES)}, got {mode!r}")

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N of what ``ops.t2i.image_decode`` reads -> N images.

        :raises ImageDecodeError: At the first that cannot be read.
        """
        images = super().many(items)
        return images if self._mode == "RGB" else [TowheeImage(swapped(image), "BGR") for image in images]


class Cv2Rgb(Cv2):
    """``cv2("rgb")``."""

    def __init__(self) -> None:
        super().__init__("RGB")


def swapped(image: Any) -> Any:
    """RGB as BGR, BGR as RGB: (H, W, 3) uint8."""
    return np.ascontiguousarray(image[..., ::-1])
