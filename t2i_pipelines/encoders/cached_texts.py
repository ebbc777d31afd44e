"""The texts that a model has embedded lately."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from cachetools import LRUCache

from t2i_pipelines.config.checks import filled
from t2i_pipelines.encoders.vectors import mean_direction
from t2i_pipelines.types import Encoder, Matrix, Vector

TEXTS_KEPT = 4096
"""Vectors that are remembered of each model: 8 MiB at 512 dimensions."""


class CachedTexts:
    """Texts to vectors, by one model; the least recently used are forgotten. Thread-safe.

    :ivar hits: texts that were known; :ivar misses: those that were not.
    """

    def __init__(self, encoder: Encoder, size: int = TEXTS_KEPT) -> None:
        self._encoder = encoder
        self._kept: LRUCache[bytes, Vector] = LRUCache(size)
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def __call__(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> list[Vector]:
        """N texts -> N vectors (D,) float32, not normalised; what is not known, in one pass.

        With several templates, a text's vector is the mean of the unit vectors that it has in each.
        """
        keys = {text: _key(text, templates) for text in texts}
        with self._lock:
            known = {text: self._kept.get(key) for text, key in keys.items()}
            unknown = [text for text, vector in known.items() if vector is None]
            self.misses += len(unknown)
            self.hits += len(known) - len(unknown)
        if unknown:
            new = dict(zip(unknown, self._embed(unknown, templates), strict=True))
            known |= new
            with self._lock:
                self._kept.update({keys[text]: np.array(vector) for text, vector in new.items()})
        return [np.array(known[text]) for text in texts]

    def _embed(self, texts: Sequence[str], templates: Sequence[str]) -> Matrix:
        prompts = [prompt for text in texts for prompt in filled(templates, text)]
        vectors = self._encoder.encode_texts(prompts)
        if len(templates) == 1:
            return vectors
        return np.stack([mean_direction(some) for some in np.split(vectors, len(texts))])


def _key(text: str, templates: Sequence[str]) -> bytes:
    """Of one length, however long the text is."""
    return blake2b(repr((text, *templates)).encode(), digest_size=16).digest()
