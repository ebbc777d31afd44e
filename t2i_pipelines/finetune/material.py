"""Training and evaluation data: numbered images and captions, reproducible batches, and scores.

Batches follow from the seed and the step alone, so an interrupted run can be resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t2i_pipelines.encoders.tokenizer import TextTokenizer
from t2i_pipelines.errors import ConfigError, FinetuneError, SourceError
from t2i_pipelines.evaluate import Pairs, first_ranks
from t2i_pipelines.finetune.clip import Clip, Side, contrast
from t2i_pipelines.finetune.store import Store
from t2i_pipelines.types import Matrix

TEXTS_A_PASS = 1024


class Texts:
    """Captions by number. Those that the model reads as the same tokens are one."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._numbers: dict[bytes, int] = {}
        self._rows: list[NDArray[np.int64]] = []

    def add(self, texts: Sequence[str]) -> list[int]:
        """Return the number of each text."""
        numbers = []
        for at in range(0, len(texts), TEXTS_A_PASS):
            for row in self._tokenizer(texts[at : at + TEXTS_A_PASS]):
                number = self._numbers.setdefault(row.tobytes(), len(self._rows))
                if number == len(self._rows):
                    self._rows.append(row)
                numbers.append(number)
        return numbers

    @property
    def ids(self) -> NDArray[np.int64]:
        """(C, L) tokens."""
        return np.stack(self._rows)


class Material:
    """Pairs as numbers of a :class:`Store` and of :class:`Texts`.

    :ivar name: for messages.
    :ivar rows: (M, 2) int64: image and caption of each pair; each pair once.
    """

    def __init__(self, name: str, rows: NDArray[np.int64], groups: NDArray[np.int64] | None = None) -> None:
        self.name = name
        self.rows = rows
        self._groups = groups

    @classmethod
    def of(cls, pairs: Pairs, store: Store, texts: Texts) -> Material:
        """Read the images, which are open to failures, and the captions.

        :raises SourceError: If not one image can be read.
        """
        images = store.add(pairs.images)
        captions = texts.add(pairs.texts)
        known = {
            (image, caption): None
            for caption, right in zip(captions, pairs.shown, strict=True)
            for number in right
            if (image := images[number]) is not None
        }
        if not known:
            raise SourceError(
                f"{pairs.name}: none of {len(pairs.images)} images can be read, so there is nothing to "
                f"learn from; the first: {store.failed[-len(pairs.images)].reason}"
            )
        return cls(pairs.name, np.array(list(known), np.int64), store.groups())

    @property
    def images(self) -> NDArray[np.int64]:
        """The images' numbers, ascending."""
        return np.unique(self.rows[:, 0])

    @property
    def captions(self) -> NDArray[np.int64]:
        """The captions' numbers, ascending."""
        return np.unique(self.rows[:, 1])

    def right(self) -> list[list[int]]:
        """Of each of ``captions`` the right ones, as places in ``images``."""
        found: list[list[int]] = [[] for _ in self.captions]
        for image, caption in zip(*_places(self.rows), strict=True):
            found[caption].append(int(image))
        return found

    def split(self, share: float, random: np.random.Generator) -> tuple[Material, Material]:
        """Hold some images out: (to learn from, held out). Near copies stay on one side.

        :raises SourceError: If there are too few of them for that.
        """
        images = random.permutation(self.images)
        count = round(share * len(images))
        if count < 2 or len(images) - count < 2:
            raise SourceError(
                f"{self.name}: {len(images)} different images are too few to hold {share:.0%} out for "
                "validation: at least 2, and 2 to learn from; give more, change validation_share, or give "
                "pairs of their own by validation="
            )
        chosen = images[:count]
        if self._groups is not None:
            groups = self._groups[images]
            each, first, sizes = np.unique(groups, return_index=True, return_counts=True)
            order = np.argsort(first)  # whole groups, in the order of their first images
            enough = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
            chosen = images[np.isin(groups, each[order][:enough])]
        held_out = np.isin(self.rows[:, 0], chosen)
        if held_out.all():
            raise SourceError(
                f"{self.name}: all {len(images)} images are near copies of one another, so none can be "
                "held out; give other images, or pairs of their own by validation="
            )
        return Material(self.name, self.rows[~held_out]), Material(self.name, self.rows[held_out])


class Truth:
    """Which captions are known to be true of which images, over all that a run learns from."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._width = int(rows[:, 0].max()) + 1
        self._known = np.unique(rows[:, 1] * self._width + rows[:, 0])

    def __call__(self, captions: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(C, N) bool for C captions and N images."""
        return np.isin(captions[:, None] * self._width + images[None, :], self._known)


def digest_of(materials: Sequence[Material], store: Store, ids: NDArray[np.int64]) -> str:
    """32 hex digits: the same for the same contents of images, tokens and pairs, in the same order."""
    digest = hashlib.blake2b(digest_size=16)
    for one in materials:
        digest.update(one.rows.tobytes())
    digest.update(" ".join(store.digests).encode())
    digest.update(ids.tobytes())
    return digest.hexdigest()


def _places(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of images and captions -> their places among the different ones."""
    images = np.unique(rows[:, 0], return_inverse=True)[1]
    captions = np.unique(rows[:, 1], return_inverse=True)[1]
    return images, captions


DOMAIN, REPLAY = 1, 2


class Batch(NamedTuple):
    """What one step learns from, each image and each caption once.

    :ivar step: 1 and up.
    :ivar epoch: 1 and up.
    """

    step: int
    epoch: int
    images: NDArray[np.int64]
    captions: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The batches of a run.

    :ivar domain: what every epoch passes once.
    :ivar replay: what is mixed in, as often as need be.
    :ivar size: pairs a batch.
    :ivar share: of a batch, from ``replay``.
    """

    domain: Material
    replay: Material | None
    size: int
    share: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse what teaches nothing.

        :raises SourceError: If there is only one image, or one caption.
        :raises ConfigError: If a batch has no room for the pairs themselves.
        """
        if self.size <= self.replayed:
            raise ConfigError(
                f"replay_share={self.share} leaves no room for the pairs in batches of {self.size}; lower it"
            )
        rows = (
            self.domain.rows if self.replay is None else np.concatenate([self.domain.rows, self.replay.rows])
        )
        for what, numbers in (("image", rows[:, 0]), ("caption", rows[:, 1])):
            if len(np.unique(numbers)) < 2:
                raise SourceError(
                    f"{self.domain.name}: there is only one {what} to learn from, and nothing to tell it "
                    f"from; give pairs with different {what}s, or add some by replay="
                )

    @property
    def replayed(self) -> int:
        """Pairs of each batch that come from ``replay``."""
        return 0 if self.replay is None else round(self.share * self.size)

    @property
    def steps_an_epoch(self) -> int:
        """Batches in which every pair of the domain comes once."""
        return -(-len(self.domain.rows) // (self.size - self.replayed))

    def batches(self, after: int, steps: int) -> Iterator[Batch]:
        """Yield those after the step ``after``, up to the step ``steps``."""
        shuffled, of_epoch = [np.empty(0, np.int64)], 0
        for step in range(after + 1, steps + 1):
            epoch, at = divmod(step - 1, self.steps_an_epoch)
            if of_epoch != epoch + 1:
                of_epoch = epoch + 1
                mixed = self._random(DOMAIN, of_epoch).permutation(len(self.domain.rows))
                shuffled = np.array_split(mixed, self.steps_an_epoch)  # of nearly equal size
            rows = self.domain.rows[shuffled[at]]
            if self.replay is not None and self.replayed:
                rows = np.concatenate([rows, self._replay(step)])
            yield Batch(step, of_epoch, np.unique(rows[:, 0]), np.unique(rows[:, 1]))

    def _replay(self, step: int) -> NDArray[np.int64]:
        assert self.replay is not None
        chosen = self._random(REPLAY, step).integers(0, len(self.replay.rows), self.replayed)
        return self.replay.rows[chosen]

    def _random(self, what: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, what, number])


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
            captions, images = self.read(self.material.captions), self.see(self.material.images)
        found = tuple(np.asarray(one.float().cpu().numpy(), np.float32) for one in (captions, images))
        for what, vectors in zip(("captions", "images"), found, strict=True):
            if not np.isfinite(vectors).all():
                raise FinetuneError(
                    f"the model's vectors of {what} of {self.material.name} are not numbers any more; lower "
                    "learning_rate, or check the checkpoint it started from"
                )
        return found[0], found[1]

    def mark(self, at: int) -> Mark:
        """R@``at`` and loss."""
        captions, images = self.vectors()
        right = self.material.right()
        asked = first_ranks(captions, images, right)
        shown = first_ranks(images, captions, _other_way(right, len(images)))
        recall = (float((asked <= at).mean()) + float((shown <= at).mean())) / 2
        return Mark(recall, -self._loss(captions, images))

    def metrics(self, at: int) -> dict[str, float]:
        """Metric -> 0 to 1; see ``before`` of :class:`~t2i_pipelines.finetune.FinetuneResult`."""
        captions, images = self.vectors()
        right = self.material.right()
        asked = first_ranks(captions, images, right)
        shown = first_ranks(images, captions, _other_way(right, len(images)))
        ks = sorted({1, 5, 10, at})
        found = {f"R@{k}": float((asked <= k).mean()) for k in ks}
        if all(len(one) >= MANY_RIGHT for one in right):
            found["P@10"] = _precision(captions, images, right)
        return found | {f"image to text R@{k}": float((shown <= k).mean()) for k in ks}

    def _loss(self, captions: Matrix, images: Matrix) -> float:
        """Return the mean over batches of the pairs, in their order."""
        truth, losses = Truth(self.material.rows), []
        scale = self.clip.scale.detach().float().cpu()
        for at in range(0, len(self.material.rows), LOSS_BATCH):
            rows = self.material.rows[at : at + LOSS_BATCH]
            some, told = np.unique(rows[:, 0]), np.unique(rows[:, 1])
            seen = images[np.searchsorted(self.material.images, some)]
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
    for caption, images in enumerate(right):
        for image in images:
            found[image].append(caption)
    return found


def _precision(captions: Matrix, images: Matrix, right: list[list[int]]) -> float:
    """Share of right ones among the best ten, averaged over the captions."""
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (captions, images)]
    best: NDArray[np.int64] = np.argsort(-(units[0] @ units[1].T), axis=1, kind="stable")[:, :MANY_RIGHT]
    return float(np.mean([np.isin(found, wanted).mean() for found, wanted in zip(best, right, strict=True)]))
