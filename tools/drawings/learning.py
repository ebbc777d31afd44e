"""The parts of a training step: pace, optimiser, checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2i_pipelines.finetune.clip import contrast
from tools.drawings.network import encode_image, encode_text, to_tensor
from tools.drawings.samples import Batch

TOP_RATE = 1.2e-3
WARM_UP = 0.02  # of the whole training
CHUNKS, ROUND = 8, 8


def rate_at(progress: float) -> float:
    """Learning rate after this share of the training: a short rise, then half a cosine down to zero."""
    if progress < WARM_UP:
        return TOP_RATE * (progress + 1e-4) / WARM_UP
    return TOP_RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW that lets matrices decay, and nothing else."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=TOP_RATE, betas=(0.9, 0.98), eps=1e-6)


def encode_captions(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(C, L) -> (C, D): short captions apart from long ones, to compute less padding.

    Lengths are rounded up: every new shape costs the matrix library a compilation.
    """
    lengths = (ids != 0).sum(1)
    order = lengths.argsort()
    parts = []
    for chunk in order.chunk(CHUNKS):
        longest = -(-int(lengths[chunk[-1]]) // ROUND) * ROUND
        parts.append(encode_text(model, ids[chunk, :longest]))
    return torch.cat(parts)[order.argsort()]


def step(model: Any, optimiser: torch.optim.Optimizer, batch: Batch, rate: float) -> float:
    """Learn from one batch; the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        pictures = encode_image(model, to_tensor(batch.images))
        captions = encode_captions(model, batch.ids)
    scale = model.logit_scale.exp()
    loss = contrast(pictures.float(), captions.float(), batch.truth, scale)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))
    return float(loss.detach())


def save(path: Path, **state: Any) -> None:
    """Write a checkpoint, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
