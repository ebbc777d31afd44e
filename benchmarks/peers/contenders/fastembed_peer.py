"""fastembed: its CLIP classes on ONNX Runtime, pointed at local towers instead of those on the hub.

The towers are exported from transformers, as those that fastembed downloads were.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contenders.started import Batched
from benchmarks.peers.inputs import Inputs
from benchmarks.peers.plan import BATCH
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines.encoders.tokenizer import CONTEXT_LENGTH
from t2i_pipelines.types import Image, Matrix, Vector

OPSET = 17


class FastEmbed(Batched):
    """``ImageEmbedding(...).embed([...], batch_size=32)`` and ``TextEmbedding(...).embed``."""

    def __init__(self, inputs: Inputs, uri: str) -> None:
        super().__init__(uri, inputs.shape.dim)
        from fastembed import ImageEmbedding, TextEmbedding

        folder = inputs.of("fastembed")
        self._images = ImageEmbedding(
            "Qdrant/clip-ViT-B-32-vision", specific_model_path=str(folder / "vision")
        )
        self._texts = TextEmbedding(
            "Qdrant/clip-ViT-B-32-text", specific_model_path=str(folder / "text"), lazy_load=True
        )

    def embed_files(self, paths: Sequence[str]) -> Matrix:
        """Paths, which it opens itself."""
        return np.stack(list(self._images.embed(list(paths), batch_size=BATCH)))

    def embed_pictures(self, pictures: Image) -> Matrix:
        """One batch of images."""
        from PIL import Image as Pillow

        opened = [Pillow.fromarray(picture) for picture in pictures]
        return np.stack(list(self._images.embed(opened, batch_size=BATCH)))

    def embed_text(self, text: str) -> Vector:
        """One query."""
        return np.asarray(next(iter(self._texts.embed([text]))), np.float32)


def prepare(inputs: Inputs) -> None:
    """Export both towers, each beside the settings that fastembed reads."""
    bring_in()
    import torch
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    folder = inputs.of("fastembed")
    side = inputs.shape.image_size
    _export(
        CLIPVisionModelWithProjection.from_pretrained(inputs.transformers),
        {"pixel_values": torch.zeros(2, 3, side, side)},
        folder / "vision",
    )
    ids = torch.full((2, CONTEXT_LENGTH), 49407)
    _export(
        CLIPTextModelWithProjection.from_pretrained(inputs.transformers),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        folder / "text",
    )
    for tower, names in {
        "vision": ("config.json", "preprocessor_config.json"),
        "text": ("config.json", "tokenizer.json", "tokenizer_config.json"),
    }.items():
        for name in names:
            content = (inputs.transformers / name).read_bytes()
            (folder / tower / name).write_bytes(content)
    special = json.loads((folder / "text/tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {name: value for name, value in special.items() if name.endswith("_token")}
    (folder / "text/special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "text/config.json").write_text(json.dumps({"pad_token_id": 49407}), encoding="utf-8")


def _export(model: Any, feeds: dict[str, Any], folder: Path) -> None:
    """Write ``model.onnx`` with a free batch size."""
    import torch
    from torch import nn

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, *values: torch.Tensor) -> Any:
            output = self.model(**dict(zip(feeds, values, strict=True)))
            return output.text_embeds if "input_ids" in feeds else output.image_embeds

    folder.mkdir(parents=True, exist_ok=True)
    output = "text_embeds" if "input_ids" in feeds else "image_embeds"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Tower(),
            tuple(feeds.values()),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(feeds),
            output_names=[output],
            dynamic_axes={
                **{name: {0: "batch", 1: "sequence"} for name in feeds if name != "pixel_values"},
                **{name: {0: "batch"} for name in (*feeds, output) if name in ("pixel_values", output)},
            },
        )


start = FastEmbed
