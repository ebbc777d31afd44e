"""How well images and captions find each other, on pairs that are not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t2i_pipelines.errors import FinetuneError
from t2i_pipelines.evaluate import first_ranks
from t2i_pipelines.finetune.clip import Clip, Side, contrast
from t2i_pipelines.finetune.material import Material, Truth
from t2i_pipelines.types import Matrix

MANY_RIGHT = 10
LOSS_BATCH = 64


class Mark(NamedTuple):
    """What decides between two states of a model; of two, the larger is better.

    :ivar recall: R@k, 0 to 1, the mean of text to image and image to text.
    :ivar gain: minus the loss, which decides where R@k says the same.
    """

    recall: float
    gain: float


@dataclass(frozen=True)
class Scoring:
    """Some pairs, and how to embed them."""

    material: Material
    clip: Clip
    see: Side
    read: Side

    def vectors(self) -> tuple[Matrix, Matrix]:
        """Vectors of the different (captions, images), in float32.

        :raises FinetuneError: If the model gives something that is not a number.
        """
        with torch.no_grad():
            captions, pictures = self.read(self.material.captions), self.see(self.material.pictures)
        found = tuple(np.asarray(one.float().cpu().numpy(), np.float32) for one in (captions, pictures))
        for what, vectors in zip(("captions", "images"), found, strict=True):
            if not np.isfinite(vectors).all():
                raise FinetuneError(
                    f"the model's vectors of {what} of {self.material.name} are not numbers any more; lower "
                    "learning_rate, or check the checkpoint it started from"
                )
        return found[0], found[1]

    def mark(self, at: int) -> Mark:
        """R@``at`` and loss."""
        captions, pictures = self.vectors()
        right = self.material.right()
        asked = first_ranks(captions, pictures, right)
        shown = first_ranks(pictures, captions, _other_way(right, len(pictures)))
        recall = (float((asked <= at).mean()) + float((shown <= at).mean())) / 2
        return Mark(recall, -self._loss(captions, pictures))

    def metrics(self, at: int) -> dict[str, float]:
        """Metric -> 0 to 1; see ``before`` of :class:`~t2i_pipelines.finetune.FinetuneResult`."""
        captions, pictures = self.vectors()
        right = self.material.right()
        asked = first_ranks(captions, pictures, right)
        shown = first_ranks(pictures, captions, _other_way(right, len(pictures)))
        ks = sorted({1, 5, 10, at})
        found = {f"R@{k}": float((asked <= k).mean()) for k in ks}
        if all(len(one) >= MANY_RIGHT for one in right):
            found["P@10"] = _precision(captions, pictures, right)
        return found | {f"image to text R@{k}": float((shown <= k).mean()) for k in ks}

    def _loss(self, captions: Matrix, pictures: Matrix) -> float:
        """The mean over batches of the pairs, in their order."""
        truth, losses = Truth(self.material.rows), []
        scale = self.clip.scale.detach().float().cpu()
        for at in range(0, len(self.material.rows), LOSS_BATCH):
            rows = self.material.rows[at : at + LOSS_BATCH]
            some, told = np.unique(rows[:, 0]), np.unique(rows[:, 1])
            seen = pictures[np.searchsorted(self.material.pictures, some)]
            read = captions[np.searchsorted(self.material.captions, told)]
            losses.append(
                contrast(
                    torch.from_numpy(seen),
                    torch.from_numpy(read),
                    torch.from_numpy(truth(told, some)),
                    scale,
                ).item()
            )
        return float(np.mean(losses))


def _other_way(right: list[list[int]], count: int) -> list[list[int]]:
    """Of each image the captions that are right."""
    found: list[list[int]] = [[] for _ in range(count)]
    for caption, pictures in enumerate(right):
        for picture in pictures:
            found[picture].append(caption)
    return found


def _precision(captions: Matrix, pictures: Matrix, right: list[list[int]]) -> float:
    """Share of right ones among the best ten, averaged over the captions."""
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (captions, pictures)]
    best: NDArray[np.int64] = np.argsort(-(units[0] @ units[1].T), axis=1, kind="stable")[:, :MANY_RIGHT]
    return float(np.mean([np.isin(found, wanted).mean() for found, wanted in zip(best, right, strict=True)]))
