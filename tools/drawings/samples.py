"""Endless training batches: fresh scenes and photographs, each with two captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from t2i_pipelines.types import Image
from tools.drawings.backgrounds import COLOURS, PAINTERS, paint
from tools.drawings.captions import Told, ground_key, tell
from tools.drawings.emoji_names import LANGUAGES, Concept, concepts
from tools.drawings.photos import CONCEPTS, LABELS, Photos
from tools.drawings.scenes import draw, invent

ENGLISH = 0.36  # share of the captions; the other languages have the rest in equal parts
GREY = 0.06  # share of the pictures without colour
VARIANTS = 48  # of every background, painted once and cropped anew each time
MARGIN = 1.2  # painted backgrounds are this much larger than what is cropped from them
COMMON = 3.0  # how much more often common things are drawn
PHOTOGRAPHED = 12.0  # ... and those that photographs show too, or else their names would mean photographs


class Batch(NamedTuple):
    """What a training step takes: N pictures, 2N captions."""

    images: torch.Tensor
    """(N, S, S, 3) uint8 RGB."""
    ids: torch.Tensor
    """(2N, L) int64."""
    truth: torch.Tensor
    """(2N, N) bool: whether the caption is true of the picture."""


def thing_weights(things: Sequence[Concept]) -> np.ndarray:
    """Summed-up chances of drawing each thing."""
    photographed = {CONCEPTS.get(label, label) for label in LABELS}
    weights = np.array([COMMON if thing.common else 1.0 for thing in things])
    weights[[thing.key in photographed for thing in things]] = PHOTOGRAPHED
    return np.cumsum(weights / weights.sum())


def _marks(rows: list[frozenset[str]], number: dict[str, int]) -> torch.Tensor:
    """(rows, keys) float32, 1 where the row has the key."""
    at = [row * len(number) + number[key] for row, keys in enumerate(rows) for key in keys]
    marks = np.zeros(len(rows) * len(number), np.float32)
    marks[at] = 1
    return torch.from_numpy(marks.reshape(len(rows), len(number)))


def is_true(captions: list[frozenset[str]], contents: list[frozenset[str]]) -> torch.Tensor:
    """(C, N) bool: a caption is true of every picture that shows all it names."""
    number = {key: at for at, key in enumerate(sorted(frozenset().union(*captions, *contents)))}
    named, shown = (_marks(rows, number) for rows in (captions, contents))
    return named @ shown.T > named.sum(1, keepdim=True) - 0.5


def _vary(picture: Image, rng: np.random.Generator, *, strength: float) -> Image:
    """Change brightness, contrast and saturation, and now and then the sharpness."""
    gain, grey = 1 + strength * rng.uniform(-1, 1), strength * rng.uniform(-1, 1)
    lift = 60 * strength * rng.uniform(-1, 1)
    rows = np.full((3, 3), grey / 3, np.float32) + np.eye(3, dtype=np.float32) * np.float32(gain - grey)
    changed = cv2.transform(picture, np.column_stack([rows, np.full(3, lift)]).astype(np.float32))
    if rng.random() < 0.15:
        changed = cv2.GaussianBlur(changed, (3, 3), rng.uniform(0.3, 0.9))
    return np.asarray(changed)


def _drain(picture: Image) -> Image:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


class Samples(IterableDataset[Batch]):
    """Batches without end, the same for the same seed."""

    def __init__(
        self, photos: Photos, tokenizer: Tokenizer, *, size: int, batch: int, photo_share: float, seed: int
    ) -> None:
        self.photos, self.tokenizer, self.size, self.seed = photos, tokenizer, size, seed
        self.photo_count = round(batch * photo_share)
        self.scene_count = batch - self.photo_count
        self.things = list(concepts())
        self.weights = thing_weights(self.things)
        self.by_key = {thing.key: thing for thing in self.things}

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng(self.seed)
        self.grounds = self._paint(rng)
        while True:
            yield self._batch(rng)

    def _paint(self, rng: np.random.Generator) -> dict[str, list[Image]]:
        side = round(self.size * MARGIN)
        return {
            name: [
                cv2.resize(paint(name, 3 * side, 3 * side, rng), (side, side), interpolation=cv2.INTER_AREA)
                for _ in range(VARIANTS)
            ]
            for name in PAINTERS
        }

    def _batch(self, rng: np.random.Generator) -> Batch:
        pictures, told, contents = [], [], []
        for number in range(self.scene_count + self.photo_count):
            make = self._scene if number < self.scene_count else self._photo
            picture, shown, captions = make(rng)
            pictures.append(picture)
            contents.append(shown)
            told += captions
        texts, named = [text for text, _ in told], [keys for _, keys in told]
        ids = torch.tensor([found.ids for found in self.tokenizer.encode_batch(texts)])
        truth = is_true(named, contents)
        return Batch(torch.from_numpy(np.stack(pictures)), ids, truth)

    def _captions(self, things: list[Concept], ground: str | None, rng: np.random.Generator) -> list[Told]:
        others = (1 - ENGLISH) / (len(LANGUAGES) - 1)
        languages = rng.choice(len(LANGUAGES), 2, p=[ENGLISH] + [others] * (len(LANGUAGES) - 1))
        return [tell(things, ground, LANGUAGES[language], rng) for language in languages]

    def _scene(self, rng: np.random.Generator) -> tuple[Image, frozenset[str], list[Told]]:
        scene = invent(self.things, self.weights, rng)
        ground = self.grounds[scene.background][int(rng.integers(VARIANTS))]
        top, left = rng.integers(0, ground.shape[0] - self.size + 1, 2)
        crop = ground[top : top + self.size, left : left + self.size]
        picture = _vary(draw(scene, crop[:, ::-1] if rng.random() < 0.5 else crop), rng, strength=0.12)
        background: str | None = scene.background
        if rng.random() < GREY:
            picture = _drain(picture)
            background = None if background in COLOURS else background
        things = [thing.concept for thing in scene.objects]
        shown = frozenset(thing.key for thing in things)
        if background is not None:
            shown |= {ground_key(background)}
        return picture, shown, self._captions(things, background, rng)

    def _photo(self, rng: np.random.Generator) -> tuple[Image, frozenset[str], list[Told]]:
        at = int(rng.integers(len(self.photos.labels)))
        side = int(rng.integers(24, 33))
        top, left = rng.integers(0, 32 - side + 1, 2)
        photo = self.photos.pixels[at, top : top + side, left : left + side]
        photo = photo[:, ::-1] if rng.random() < 0.5 else photo
        size = (self.size, self.size)
        picture = _vary(
            cv2.resize(np.ascontiguousarray(photo), size, interpolation=cv2.INTER_CUBIC), rng, strength=0.25
        )
        if rng.random() < GREY:
            picture = _drain(picture)
        label = LABELS[int(self.photos.labels[at])]
        thing = self.by_key[CONCEPTS.get(label, label)]
        return picture, frozenset({thing.key}), self._captions([thing], None, rng)
