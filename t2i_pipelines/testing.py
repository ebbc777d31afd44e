"""A model without weights, for your tests and ours: vectors that you can compute in your head.

>>> import t2i_pipelines.testing  # registers model_name="colour"
>>> from t2i_pipelines.encoders import load_encoder
>>> load_encoder("colour").encode_texts(["a red car", "yellow"]).tolist()
[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.types import Compute, Image, Matrix, Space

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
    "white": (1, 1, 1),
}


class ColourEncoder:
    """A three-dimensional CLIP: an image is its mean colour, a text the sum of its colour words.

    An image of 255-red is ``(1, 0, 0)``; ``"a red and a blue ball"`` is ``(1, 0, 1)``. A text without a
    colour word is ``(1, 1, 1)``. A black image is ``(0, 0, 0)``, which no pipeline accepts: the way to
    test what happens to an image that cannot be embedded.

    :ivar images: images embedded so far; :ivar texts: texts embedded so far.
    """

    space = Space("colour", "mean colour, version 1", "none", 3)

    def __init__(self) -> None:
        self.images = 0
        self.texts = 0

    def fit(self, image: Image) -> Image:
        """Any image -> its (1, 1, 3) mean colour, rounded."""
        mean: Image = np.mean(image, axis=(0, 1), keepdims=True).round().astype(np.uint8)
        return mean

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, 3) float32 in [0, 1]."""
        self.images += len(images)
        means = [self.fit(image).reshape(3) for image in images]
        return np.array(means, np.float32).reshape(-1, 3) / np.float32(255)

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, 3) float32, sums of colours."""
        self.texts += len(texts)
        return np.array([_colour_of(text) for text in texts], np.float32).reshape(-1, 3)


def _colour_of(text: str) -> list[int]:
    words = re.findall(r"\w+", text.lower())
    named = [COLOURS[word] for word in words if word in COLOURS]
    return [sum(parts) for parts in zip(*named, strict=True)] or [1, 1, 1]


def _colour(checkpoint_path: str | None, compute: Compute) -> ColourEncoder:
    return ColourEncoder()


register_encoder("colour", _colour)
