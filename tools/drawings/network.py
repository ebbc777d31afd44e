"""t2i_mini's sizes, and a faster way through Towhee's CLIP while it is trained.

The weights are those of ``towhee.models.clip.CLIP``; only the order of work differs: pictures of any
size that is a multiple of 32, texts no longer than need be, one query in the attention pool.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from t2i_pipelines._towhee.door import clip_models
from t2i_pipelines.encoders.openai_clip import encode_text as encode_text  # texts no longer than need be
from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD

SIZES: dict[str, Any] = {
    "embed_dim": 256,
    "image_resolution": 96,
    "vision_layers": (1, 1, 2, 1),
    "vision_width": 32,
    "vision_patch_size": None,
    "context_length": 32,
    "vocab_size": 5120,
    "transformer_width": 192,
    "transformer_heads": 3,
    "transformer_layers": 2,
}


def make_clip(sizes: dict[str, Any]) -> nn.Module:
    """A ``towhee.models.clip.CLIP`` of these sizes, with fresh weights."""
    model: nn.Module = clip_models().CLIP(**sizes)
    return model


def to_tensor(images: torch.Tensor) -> torch.Tensor:
    """(N, S, S, 3) uint8 RGB -> (N, 3, S, S) float32, normalised, channels last in memory."""
    mean, std = torch.tensor(CLIP_MEAN) * 255, torch.tensor(CLIP_STD) * 255
    return ((images - mean) / std).permute(0, 3, 1, 2)


def _positions(pool: Any, height: int, width: int) -> torch.Tensor:
    """The attention pool's (1 + height * width, E) positions, stretched from those it has."""
    own: torch.Tensor = pool.positional_embedding
    side = round((own.shape[0] - 1) ** 0.5)
    if (height, width) == (side, side):
        return own
    grid = own[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
    return torch.cat([own[:1], grid.flatten(2)[0].T])


def _pool(pool: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, E, H, W) -> (N, D): what ``AttentionPool2d`` gives, computed for its first query alone."""
    height, width = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(1, keepdim=True), x], 1) + _positions(pool, height, width).to(x.dtype)
    many, heads = x.shape[0], pool.num_heads
    parts = [pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x)]
    q, k, v = (part.view(many, part.shape[1], heads, -1).transpose(1, 2) for part in parts)
    mixed = F.scaled_dot_product_attention(q, k, v)
    out: torch.Tensor = pool.c_proj(mixed.transpose(1, 2).reshape(many, -1))
    return out


def encode_image(model: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) -> (N, D), not normalised."""
    visual = model.visual
    for conv, norm in ((visual.conv1, visual.bn1), (visual.conv2, visual.bn2), (visual.conv3, visual.bn3)):
        x = F.relu(norm(conv(x)), inplace=True)
    x = visual.avgpool(x)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    return _pool(visual.attnpool, x)
