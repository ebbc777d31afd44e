"""Cache the preprocessed images of a run, and save and restore its state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from t2i_pipelines.config.training import Augment
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.errors import ConfigError, FinetuneError, ImageDecodeError
from t2i_pipelines.images import decode, digest, path_key, read
from t2i_pipelines.types import Image, Outcome, Reason

ROOM = 2 << 30
"""Bytes of fitted images that are kept; those beyond are read again each time."""

AHEAD = 256

LEAST_AREA = 0.7
"""Of an image, in a crop. RandomResizedCrop's 0.08 (torchvision) would cut away what captions name."""


COPY = 2.5
"""Mean difference of the thumbnails of two near copies at most, of 255."""


def thumbnail(image: Image) -> Image:
    """Shrink a fitted image to (16, 16, 3), to find near copies by: 768 bytes an image."""
    return np.asarray(Pillow.fromarray(image).resize((16, 16), Pillow.Resampling.BOX))


class Opened(NamedTuple):
    """An image that was read, or why it was not."""

    digest: str
    fitted: Image | None
    failed: Outcome | None


class Store:
    """Images by number. Adding a content that is there already gives its number.

    :ivar failed: those that could not be read.
    :ivar digests: of the contents, by number.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.failed: list[Outcome] = []
        self.digests: list[str] = []
        self._preprocess = preprocess
        self._paths: list[str] = []
        self._numbers: dict[str, int] = {}
        self._kept: dict[int, Image] = {}
        self._thumbnails: list[Image] = []
        self._most = ROOM // (preprocess.size**2 * 3)
        self._threads = ThreadPoolExecutor(os.cpu_count(), "t2i-finetune")

    def add(self, paths: Sequence[str]) -> list[int | None]:
        """Return the number of each image; None for one that cannot be read, which is then in ``failed``."""
        numbers: list[int | None] = []
        for path, opened in self._opened(paths):
            if opened.failed is not None:
                self.failed.append(opened.failed)
                numbers.append(None)
                continue
            number = self._numbers.setdefault(opened.digest, len(self._paths))
            if number == len(self._paths):
                self._paths.append(path)
                self.digests.append(opened.digest)
                assert opened.fitted is not None
                self._thumbnails.append(thumbnail(opened.fitted))
                if len(self._kept) < self._most:
                    self._kept[number] = opened.fitted
            numbers.append(number)
        return numbers

    def groups(self) -> NDArray[np.int64]:
        """Return for each image the lowest number of its near copies: other files of the same pixels.

        Copies that were saved again, resized or stripped of metadata differ by less than :data:`COPY` in the
        mean of their thumbnails. Only images of nearly one mean colour are compared.
        """
        found = np.arange(len(self._thumbnails))
        cells: dict[tuple[int, ...], list[int]] = {}
        for number, small in enumerate(self._thumbnails):
            cell = tuple(int(value) for value in small.mean((0, 1)) // COPY)
            around = product(*((value - 1, value, value + 1) for value in cell))
            near = [one for place in around for one in cells.get(place, ())]
            cells.setdefault(cell, []).append(number)
            if near:
                others = np.stack([self._thumbnails[one] for one in near]).astype(np.int16)
                copies = np.array(near)[np.abs(others - small).mean((1, 2, 3)) < COPY]
                same = np.unique(found[copies])
                if len(same):
                    found[number] = same[0]
                if len(same) > 1:  # this image joins groups that were apart
                    found[np.isin(found, same)] = same[0]
        return found

    def _opened(self, paths: Sequence[str]) -> Iterator[tuple[str, Opened]]:
        """Yield each image; not more than ``AHEAD`` of them are open at the same time."""
        for at in range(0, len(paths), AHEAD):
            some = paths[at : at + AHEAD]
            yield from zip(some, self._threads.map(self._open, some), strict=True)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def tensor(
        self, numbers: Sequence[int], augment: Augment = "none", seed: Sequence[int] = ()
    ) -> np.ndarray:
        """(N, 3, S, S) float32, what the image tower takes.

        :param seed: with an image's number it decides its crop.
        :raises FinetuneError: If an image that could be read before cannot be read now.
        """
        images = list(self._threads.map(self._get, numbers))
        if augment != "none":
            images = [
                vary(image, augment, np.random.default_rng([*seed, number]))
                for image, number in zip(images, numbers, strict=True)
            ]
        return self._preprocess.tensor(images)

    def _get(self, number: int) -> Image:
        if (kept := self._kept.get(number)) is not None:
            return kept
        opened = self._open(self._paths[number])
        if opened.fitted is None or opened.digest != self.digests[number]:
            why = opened.failed.reason if opened.failed else "its content is another now"
            raise FinetuneError(
                f"{self._paths[number]} changed while the run lasted: {why}; leave the images as they are, "
                "and run it again"
            )
        return opened.fitted

    def _open(self, path: str) -> Opened:
        try:
            content = read(path)
            image = decode(content, path, side=lambda: self._preprocess.size)
        except ImageDecodeError as err:
            return Opened("", None, Outcome(path, path_key(path), "failed", Reason(str(err), "decode")))
        return Opened(digest(content), self._preprocess.fit(image), None)


def vary(image: Image, augment: Augment, random: np.random.Generator) -> Image:
    """A part of a square image, in its proportions, mirrored or not: (S, S, 3) -> (s, s, 3) uint8."""
    size = len(image)
    side = round(size * random.uniform(LEAST_AREA, 1) ** 0.5)
    top, left = random.integers(0, size - side + 1, 2)
    part = image[top : top + side, left : left + side]
    if augment == "crop+flip" and random.random() < 0.5:
        part = part[:, ::-1]
    return np.ascontiguousarray(part)


NAME, NEW = "training.pt", "training.pt.new"


def save(folder: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the checkpoint in place of the one before.

    :param run: what makes the run this run: its options, its model, its pairs.
    """
    new = folder / NEW
    with new.open("wb") as file:
        torch.save({"run": dict(run), "state": dict(state)}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / NAME)


def load(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state that a run was killed in; None if there is none.

    :raises ConfigError: If it is another run's; names the first difference.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in run.items():
        if found["run"].get(name) != value:
            raise ConfigError(
                f"{path} is the checkpoint of a run with {name}={found['run'].get(name)!r}, this one has "
                f"{value!r}; give the same to go on, resume=False to start over, or another output_dir"
            )
    state: dict[str, Any] = found["state"]
    return state
