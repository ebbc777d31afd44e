"""open_clip, in batches, as its README embeds, from the same weights under OpenAI's names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.contenders.started import Batched
from benchmarks.peers.inputs import Inputs
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines.encoders.tokenizer import CONTEXT_LENGTH
from t2i_pipelines.types import Image, Matrix, Vector

NAME = "bench"


class OpenClip(Batched):
    """``create_model_and_transforms``, ``encode_image(torch.stack([...]))``."""

    def __init__(self, inputs: Inputs, uri: str) -> None:
        super().__init__(uri, inputs.shape.dim)
        bring_in()
        import open_clip

        open_clip.add_model_config(inputs.of("open_clip") / f"{NAME}.json")
        model, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=str(inputs.openai))
        self._model: Any = model.eval()
        self._preprocess: Callable[[Any], Any] = preprocess
        self._tokenize = open_clip.get_tokenizer(NAME)

    def embed_files(self, paths: Sequence[str]) -> Matrix:
        """Opened by Pillow, as in its README."""
        from PIL import Image as Pillow

        return self._embed([Pillow.open(path) for path in paths])

    def embed_pictures(self, pictures: Image) -> Matrix:
        """One batch of images."""
        from PIL import Image as Pillow

        return self._embed([Pillow.fromarray(picture) for picture in pictures])

    def _embed(self, opened: list[Any]) -> Matrix:
        import torch

        pixels = torch.stack([self._preprocess(one) for one in opened])
        with torch.no_grad():
            return np.asarray(self._model.encode_image(pixels, normalize=True).numpy(), np.float32)

    def embed_text(self, text: str) -> Vector:
        """One query."""
        import torch

        with torch.no_grad():
            found = self._model.encode_text(self._tokenize([text]), normalize=True)
        return np.asarray(found.numpy()[0], np.float32)


def prepare(inputs: Inputs) -> None:
    """Write the model's sizes as open_clip's model config."""
    shape = inputs.shape
    config = {
        "embed_dim": shape.dim,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": shape.image_size,
            "layers": shape.vision[1],
            "width": shape.vision[0],
            "patch_size": shape.patch_size,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": shape.text[0],
            "heads": shape.text[0] // 64,
            "layers": shape.text[1],
        },
    }
    folder = inputs.of("open_clip")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(config), encoding="utf-8")


start = OpenClip
