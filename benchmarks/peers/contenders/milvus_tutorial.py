"""The loop of Milvus's "Text-to-Image Search with Milvus": OpenAI's ``clip``, one image a forward pass.

As in the tutorial, gradients are recorded, and all rows are inserted by one call at the end. Dividing in
place by a norm that was recorded makes a cycle that torch never frees: a ViT-B/32's activations, 43 MB,
stay with every image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers.contenders.started import Table
from benchmarks.peers.inputs import Inputs
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines.types import Vector


class MilvusTutorial:
    """The tutorial's functions ``encode_image`` and ``encode_text``, and its loop."""

    def __init__(self, inputs: Inputs, uri: str) -> None:
        bring_in()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import clip
        self._clip = clip
        self._model, self._preprocess = clip.load(str(inputs.openai), device="cpu")
        self._model.eval()
        self._table = Table(uri, inputs.shape.dim)

    def insert(self, paths: Sequence[str]) -> None:
        """Embed one by one, insert at once."""
        self._table.insert(paths, [self._encode_image(path) for path in paths])

    def _encode_image(self, path: str) -> list[float]:
        from PIL import Image as Pillow

        pixels = self._preprocess(Pillow.open(path)).unsqueeze(0)
        return _normalised(self._model.encode_image(pixels))

    def embed_text(self, text: str) -> Vector:
        """As the tutorial embeds a query."""
        return np.array(_normalised(self._model.encode_text(self._clip.tokenize(text))), np.float32)


def _normalised(features: Any) -> list[float]:
    features /= features.norm(dim=-1, keepdim=True)
    numbers: list[float] = features.squeeze().tolist()
    return numbers


start = MilvusTutorial
