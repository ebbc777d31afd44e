"""A CLIP in parts: two towers, and the two heads that take what towers give into the common space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from t2i_pipelines.finetune.loss import MOST_SCALE
from t2i_pipelines.finetune.options import Train
from t2i_pipelines.finetune.start import Start
from t2i_pipelines.types import Compute

HEADS = ("text_projection", "visual.proj", "visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias")
Weights = dict[str, torch.Tensor]


class Clip:
    """The module that learns. Batch norms keep the starting model's statistics: small batches have worse.

    :param running: where it runs, and whether its forward pass is in bf16 while it learns.
    """

    def __init__(self, start: Start, train: Train, running: Compute) -> None:
        self.start = start
        self.train = train
        self.running = running
        self.module = start.module.to(running.device).eval()
        self.module.requires_grad_(False)
        if self._has_pool:  # convolutions in fp32 take 1.7 times as long otherwise, on a CPU
            self.module.visual.to(memory_format=torch.channels_last)
        for name, weight in self.module.named_parameters():
            weight.requires_grad_(_learns(name, train))

    @property
    def size(self) -> int:
        """How many numbers the model has."""
        return sum(weight.numel() for weight in self.module.parameters())

    @property
    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return {name: one for name, one in self.module.named_parameters() if one.requires_grad}

    @property
    def scale(self) -> torch.Tensor:
        """What cosines are multiplied with in the loss."""
        exponent: torch.Tensor = self.module.logit_scale.exp()
        return exponent

    def weights(self) -> Weights:
        """A copy of the weights that learn, on the CPU."""
        return {name: one.detach().cpu().clone() for name, one in self.learning.items()}

    def set(self, weights: Weights) -> None:
        """Put such a copy in place."""
        with torch.no_grad():
            for name, one in self.learning.items():
                one.copy_(weights[name])

    def bound_scale(self) -> None:
        """Keep the temperature where CLIP keeps it."""
        with torch.no_grad():
            self.module.logit_scale.clamp_(0, MOST_SCALE)

    def half(self) -> AbstractContextManager[None]:
        """Matrix products in bf16, if that is how the model runs; weights stay fp32."""
        return torch.autocast(self.running.device, torch.bfloat16, enabled=self.running.precision == "bf16")

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> (N, D) vectors."""
        seen: torch.Tensor = self.module.encode_image(pixels.to(self.running.device))
        return seen

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """(C, L) -> (C, D) vectors."""
        found: torch.Tensor = self.module.encode_text(ids, device=self.running.device)
        return found

    def image_head(self, features: torch.Tensor) -> torch.Tensor:
        """(N, W) of the image tower -> (N, D)."""
        if self._has_pool:
            head = self.module.visual.attnpool.c_proj
            return F.linear(features, head.weight, head.bias)
        out: torch.Tensor = features @ self.module.visual.proj
        return out

    def text_head(self, features: torch.Tensor) -> torch.Tensor:
        """(C, W) of the text tower -> (C, D)."""
        out: torch.Tensor = features @ self.module.text_projection
        return out

    @property
    def _has_pool(self) -> bool:
        return hasattr(self.module.visual, "attnpool")

    @contextmanager
    def headless(self) -> Iterator[None]:
        """Let :meth:`see` and :meth:`read` give what goes into the heads."""
        visual, module = self.module.visual, self.module
        text, module.text_projection = module.text_projection, _eye(module.text_projection.shape[0], module)
        if self._has_pool:
            pool, image = visual.attnpool, visual.attnpool.c_proj
            width = image.weight.shape[1]
            pool.c_proj = nn.Linear(width, width, device=image.weight.device).requires_grad_(False)
            pool.c_proj.weight.copy_(torch.eye(width))
            pool.c_proj.bias.zero_()
        else:
            image, visual.proj = visual.proj, _eye(visual.proj.shape[0], module)
        try:
            yield
        finally:
            module.text_projection = text
            if self._has_pool:
                visual.attnpool.c_proj = image
            else:
                visual.proj = image


def _eye(width: int, module: nn.Module) -> nn.Parameter:
    device = next(module.parameters()).device
    return nn.Parameter(torch.eye(width, device=device), requires_grad=False)


def _learns(name: str, train: Train) -> bool:
    if name == "logit_scale" or train == "all":
        return True
    if train == "heads":
        return name in HEADS
    return name.startswith("visual.") == (train == "image")
