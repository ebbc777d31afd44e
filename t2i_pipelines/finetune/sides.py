"""Images and captions to vectors, each side no more often than what learns makes necessary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from t2i_pipelines.finetune.clip import Clip
from t2i_pipelines.finetune.options import Augment, Train
from t2i_pipelines.finetune.store import Store

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

    pictures, captions = np.arange(len(store.digests)), np.arange(len(ids))
    return (
        _side(clip, "image", see, clip.image_head, pictures),
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
