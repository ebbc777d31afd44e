"""The pipeline of Towhee's "Build a text-image search engine", row by row, in plain Towhee.

Its operators lived on a hub that is gone. Those here do the same: OpenCV decodes to RGB, Towhee's own CLIP
(``towhee.models``) embeds one image a forward pass in float32, a lambda divides by the length, each row
is one insert. Gradients are off, the tokenizer is kept: in the tutorial's favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers.contenders.started import Table
from benchmarks.peers.inputs import Inputs
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines._towhee.door import pipe
from t2i_pipelines.types import Image, Vector


class TowheeTutorial:
    """The insert pipeline and the text half of the search pipeline."""

    def __init__(self, inputs: Inputs, uri: str) -> None:
        bring_in()
        import open_clip
        import torch

        from t2i_pipelines.encoders.openai_clip import Details, build_clip

        weights = torch.load(inputs.openai, weights_only=True)
        model, _ = build_clip(weights, Details(quick_gelu=(True, True)), str(inputs.openai))
        self._model: Any = model
        self._preprocess = open_clip.image_transform(inputs.shape.image_size, is_train=False)
        self._tokenize = open_clip.get_tokenizer("ViT-B-32")
        self._table = Table(uri, inputs.shape.dim)
        self._pipeline = (
            pipe.input("paths")
            .flat_map("paths", "path", lambda paths: paths)
            .map("path", "img", lambda path: _decode(path))
            .map("img", "vec", lambda img: self._clip(img))
            .map("vec", "vec", lambda vec: vec / np.linalg.norm(vec))
            .map(("path", "vec"), (), lambda path, vec: self._table.insert([path], [vec]))
            .output()
        )

    def insert(self, paths: Sequence[str]) -> None:
        """Run the pipeline."""
        self._pipeline(list(paths))

    def _clip(self, img: Image) -> Vector:
        import torch
        from PIL import Image as Pillow

        pixels = self._preprocess(Pillow.fromarray(img)).unsqueeze(0)
        with torch.no_grad():
            found: Any = self._model.encode_image(pixels)
        return np.asarray(found.numpy()[0], np.float32)

    def embed_text(self, text: str) -> Vector:
        """As the tutorial embeds a query."""
        import torch

        with torch.no_grad():
            found: Any = self._model.encode_text(self._tokenize([text]), device="cpu")
        vector = found.numpy()[0]
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


def _decode(path: str) -> Image:
    import cv2

    return np.asarray(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))


start = TowheeTutorial
