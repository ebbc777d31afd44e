"""A CLIP with random weights, as transformers and as OpenAI store one.

The weights differ from transformers' own random ones, under which any two images are nearly one (a
cosine of 0.93 on average, up to 0.997), so that a cosine near 1 would prove little. Here matrices have the
variance 2 / inputs, biases and the layer norms' weights a deviation of 0.1: at ViT-B/32's size two images
are at 0.61 on average, about where a trained CLIP puts unrelated photographs. All weights are float16
numbers, as OpenAI's are, so that loaders that go through float16 lose nothing.

Trained models have a few far larger activations than these: int8's cosine on them can be lower.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers.plan import Shape
from t2i_pipelines.encoders.openai_clip import from_transformers
from t2i_pipelines.encoders.tokenizer import CONTEXT_LENGTH, openai_tokenizer

SEED = 0
VOCABULARY, START, END = 49408, 49406, 49407


def write_transformers(folder: Path, shape: Shape) -> Any:
    """Write model, tokenizer and preprocessing settings; gives the ``transformers.CLIPModel``."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(SEED)
    model: Any = CLIPModel(
        CLIPConfig(
            projection_dim=shape.dim,
            vision_config={
                **_tower(shape.vision, shape.dim),
                "image_size": shape.image_size,
                "patch_size": shape.patch_size,
            },
            text_config={
                **_tower(shape.text, shape.dim),
                "vocab_size": VOCABULARY,
                "max_position_embeddings": CONTEXT_LENGTH,
                "bos_token_id": START,
                "eos_token_id": END,
                "pad_token_id": 1,
            },
        )
    )
    spread_out(model)
    model.eval().save_pretrained(folder)
    side = shape.image_size
    CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return model


def _tower(sizes: tuple[int, int], dim: int) -> dict[str, Any]:
    width, layers = sizes
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "projection_dim": dim,
        "hidden_act": "quick_gelu",
    }


def spread_out(model: nn.Module) -> None:
    """Give a model random weights under which different images get different vectors."""
    random = torch.Generator().manual_seed(SEED + 1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if name.endswith("bias"):
                weight.copy_(0.1 * noise)
            elif "patch_embedding" in name:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            elif weight.ndim > 1 and "embedding" not in name:
                weight.copy_(noise * (2 / weight[0].numel()) ** 0.5)
            elif name.endswith("weight") and weight.ndim == 1:
                weight.copy_(1 + 0.1 * noise)
            weight.copy_(weight.half())


def _tokenizer() -> Any:
    """CLIP's, filled with the vocabulary and merges that every CLIP shares."""
    from transformers import CLIPTokenizer

    stored = json.loads(openai_tokenizer().to_str())["model"]
    merges: Any = [tuple(pair) for pair in stored["merges"]]
    return CLIPTokenizer(vocab=stored["vocab"], merges=merges, model_max_length=CONTEXT_LENGTH)


def write_openai(path: Path, model: nn.Module) -> None:
    """Write the weights of a ``transformers.CLIPModel`` under OpenAI's names, as a plain state dict."""
    torch.save(from_transformers(dict(model.state_dict())), path)
