"""A CLIP as two towers and two heads, its contrastive loss, and the cached outputs of frozen parts.

The loss counts every true pair as a positive. With unit vectors ``u`` of captions and ``v`` of images, a
scale ``s``, and ``T[i]`` the images that caption ``i`` is true of::

    to image = - mean over i of mean over k in T[i] of log(exp(s u_i v_k) / sum over j of exp(s u_i v_j))

``to caption`` is the same with captions and images exchanged, and the loss is the mean of the two. It is
the bidirectional loss of UniCL (Yang et al. 2022, arXiv:2204.03610, equations 3 to 5), whose sum over
positives stands outside of the logarithm, as in SupCon (Khosla et al. 2020, arXiv:2004.11362, equation 2).
Where each caption has one image and each image one caption it is CLIP's InfoNCE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from t2i_pipelines.config.training import Augment, Train
from t2i_pipelines.finetune.start import Start
from t2i_pipelines.finetune.store import Store
from t2i_pipelines.types import Compute

MOST_SCALE = math.log(100)
"""CLIP's bound of ``logit_scale`` (Radford et al. 2021, section 2.5)."""


def contrast(
    images: torch.Tensor, captions: torch.Tensor, truth: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return the loss of a batch, in nats.

    :param images: (N, D), of any length; each row a different image.
    :param captions: (C, D), likewise.
    :param truth: (C, N) bool: whether the caption is true of the image; every row and column has a True.
    :param scale: what cosines are multiplied with, the inverse temperature.
    """
    logits = scale * F.normalize(captions, dim=-1) @ F.normalize(images, dim=-1).T
    goal = truth.float()
    to_image = (goal / goal.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    to_caption = (goal / goal.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return -(to_image + to_caption) / 2


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
        """Return a copy of the weights that learn, on the CPU."""
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


AT_ONCE = 128
"""Items that are embedded in one pass where nothing is learned."""

Numbers = NDArray[np.int64]
Encode = Callable[[Numbers], torch.Tensor]


class Side(Protocol):
    """One of the two sides: numbers of its items -> vectors."""

    def __call__(self, numbers: Numbers, seed: Sequence[int] | None = None) -> torch.Tensor:
        """(N,) -> (N, D).

        :param seed: decides the crops; None takes the items as they are.
        """


class Whole:
    """A side whose tower learns: every item goes through it every time."""

    def __init__(self, encode: Callable[[Numbers, Sequence[int] | None], torch.Tensor]) -> None:
        self._encode = encode

    def __call__(self, numbers: Numbers, seed: Sequence[int] | None = None) -> torch.Tensor:
        """(N,) -> (N, D); in several passes where nothing is learned."""
        if torch.is_grad_enabled():
            return self._encode(numbers, seed)
        return torch.cat([self._encode(some, seed) for some in _parts(numbers)])


class Cached:
    """A side whose tower does not learn: what it gives is computed once, and only the head is left.

    :param head: (N, W) -> (N, D); the identity where the head does not learn either.
    """

    def __init__(self, encode: Encode, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._encode = encode
        self._head = head
        self._numbers: Numbers = np.empty(0, np.int64)
        self._features: torch.Tensor | None = None

    def prepare(self, numbers: Numbers) -> None:
        """Compute what will be needed; ``numbers`` ascend."""
        with torch.no_grad():
            self._features = torch.cat([self._encode(some) for some in _parts(numbers)])
        self._numbers = numbers

    def __call__(self, numbers: Numbers, seed: Sequence[int] | None = None) -> torch.Tensor:
        """(N,) -> (N, D)."""
        assert self._features is not None
        return self._head(self._features[torch.from_numpy(np.searchsorted(self._numbers, numbers))])


def sides_of(clip: Clip, store: Store, ids: NDArray[np.int64], augment: Augment) -> tuple[Side, Side]:
    """(images, captions) for all images of a store and all captions."""

    def see(numbers: Numbers, seed: Sequence[int] | None = None) -> torch.Tensor:
        kind: Augment = "none" if seed is None else augment
        return clip.see(torch.from_numpy(store.tensor(numbers.tolist(), kind, seed or ())))

    def read(numbers: Numbers, seed: Sequence[int] | None = None) -> torch.Tensor:
        return clip.read(torch.from_numpy(ids[numbers]))

    images, captions = np.arange(len(store.digests)), np.arange(len(ids))
    return (
        _side(clip, "image", see, clip.image_head, images),
        _side(clip, "text", read, clip.text_head, captions),
    )


def _side(
    clip: Clip,
    tower: Train,
    encode: Callable[..., torch.Tensor],
    head: Callable[[torch.Tensor], torch.Tensor],
    numbers: Numbers,
) -> Side:
    if clip.train in ("all", tower):
        return Whole(encode)
    if clip.train != "heads":
        frozen = Cached(encode, lambda vectors: vectors)
        frozen.prepare(numbers)
        return frozen
    cached = Cached(encode, head)
    with clip.headless():
        cached.prepare(numbers)
    return cached


def _parts(numbers: Numbers) -> Iterator[Numbers]:
    return (numbers[at : at + AT_ONCE] for at in range(0, len(numbers), AT_ONCE))
