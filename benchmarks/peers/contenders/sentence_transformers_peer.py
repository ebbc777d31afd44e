"""sentence-transformers, in batches, from the local transformers folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers.contenders.started import Batched
from benchmarks.peers.inputs import Inputs
from benchmarks.peers.plan import BATCH
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines.types import Image, Matrix, Vector


class SentenceTransformers(Batched):
    """``SentenceTransformer(folder).encode([...], batch_size=32)``."""

    def __init__(self, inputs: Inputs, uri: str) -> None:
        super().__init__(uri, inputs.shape.dim)
        bring_in()
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(inputs.transformers), device="cpu")

    def embed_files(self, paths: Sequence[str]) -> Matrix:
        """Opened by Pillow, as in its documentation."""
        from PIL import Image as Pillow

        return self._encode([Pillow.open(path) for path in paths])

    def embed_pictures(self, pictures: Image) -> Matrix:
        """One batch of images."""
        from PIL import Image as Pillow

        return self._encode([Pillow.fromarray(picture) for picture in pictures])

    def embed_text(self, text: str) -> Vector:
        """One query."""
        return np.asarray(self._encode([text])[0])

    def _encode(self, items: list[Any]) -> Matrix:
        found = self._model.encode(
            items, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(found, np.float32)


start = SentenceTransformers
