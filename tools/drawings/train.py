"""Train t2i_mini from scratch: ``python -m tools.drawings.train --photos train.tar.gz --out runs/mini``.

The first part of the time goes to small pictures, which teach much for little, the rest to full size.
With the same seed and ``--steps``, two runs see the same pictures at the same pace; with ``--minutes``
the pace follows the clock. A run that was stopped goes on from its checkpoint. Without ``--photos`` the
model never sees a photograph: what fine-tuning on photographs gains is measured on such a one.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from tools.drawings.captions import corpus
from tools.drawings.exam import make_exam, mark
from tools.drawings.learning import make_optimiser, rate_at, save, step
from tools.drawings.network import SIZES, make_clip
from tools.drawings.photos import NO_PHOTOS, Photos, read_photos
from tools.drawings.samples import Batch, Samples
from tools.drawings.vocabulary import make_tokenizer

log = logging.getLogger(__name__)

SMALL, FULL = 64, SIZES["image_resolution"]


class Training:
    """One run: its model, its clock, its files."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.out = Path(settings.out)
        self.steps, self.seconds = 0, 0.0
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.tokenizer = make_tokenizer(
            corpus(), vocab_size=SIZES["vocab_size"], context_length=SIZES["context_length"]
        )
        self.model: Any = make_clip(SIZES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(self.model)

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.settings.steps:
            return float(self.steps / self.settings.steps)
        return float(self.seconds / (60 * self.settings.minutes))

    @property
    def size(self) -> int:
        """Side of the pictures to learn from now, in pixels."""
        return SMALL if self.progress < self.settings.small_share else int(FULL)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.out / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.steps, self.seconds = state["steps"], state["seconds"]
            log.info("going on after step %d", self.steps)

    def keep(self) -> None:
        """Write the checkpoint and the tokenizer."""
        save(
            self.out / "checkpoint.pt",
            model=self.model.state_dict(),
            optimiser=self.optimiser.state_dict(),
            steps=self.steps,
            seconds=self.seconds,
        )
        self.tokenizer.save(str(self.out / "tokenizer.json"))

    def batches(self, photos: Photos, size: int) -> Iterator[Batch]:
        """Endless batches of this picture size, made in a process of their own."""
        samples = Samples(
            photos,
            self.tokenizer,
            size=size,
            batch=self.settings.batch,
            photo_share=self.settings.photo_share if len(photos.labels) else 0.0,
            seed=self.settings.seed + 1 + self.steps,
        )
        # spawn: a forked process inherits OpenCV's threads as dead, and waits for them
        loader = DataLoader(
            samples,
            batch_size=None,
            num_workers=1,
            prefetch_factor=6,
            multiprocessing_context="spawn",
        )
        return iter(loader)

    def run(self, photos: Photos, held_out: Photos) -> None:
        """Learn until the time is over."""
        exam = make_exam(held_out)
        self.model.train()
        size, feed = 0, iter(())  # type: int, Iterator[Batch]
        examined = kept = last = time.monotonic()
        losses: list[float] = []
        while self.progress < 1:
            if self.size != size:
                size = self.size
                feed = self.batches(photos, size)
                last = time.monotonic()
            losses.append(step(self.model, self.optimiser, next(feed), rate_at(self.progress)))
            now = time.monotonic()
            self.steps, self.seconds, last = self.steps + 1, self.seconds + now - last, now
            if self.steps % 50 == 0:
                self.report(losses[-50:], size)
            if now - examined > 60 * self.settings.exam_every:
                log.info("exam: %s", _line(mark(self.model, self.tokenizer, exam, size)))
                examined = last = time.monotonic()
            if now - kept > 120:
                self.keep()
                kept = last = time.monotonic()
        self.keep()
        log.info("final exam: %s", _line(mark(self.model, self.tokenizer, exam, int(FULL))))

    def report(self, losses: list[float], size: int) -> None:
        """Log where the training stands."""
        log.info(
            "step %d, %.1f min, %.0f %%, %d px: loss %.3f, %d pictures seen",
            self.steps,
            self.seconds / 60,
            100 * self.progress,
            size,
            sum(losses) / len(losses),
            self.steps * self.settings.batch,
        )


def _line(marks: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in marks.items())


def main(arguments: list[str] | None = None) -> None:
    """Read the options, train, leave checkpoint.pt and tokenizer.json in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m tools.drawings.train", description=__doc__)
    parser.add_argument("--photos", help="CIFAR-10 as <split>/<label>/*.jpg in a tar.gz; none if absent")
    parser.add_argument("--out", default="runs/mini", help="folder for checkpoint and tokenizer")
    parser.add_argument("--minutes", type=float, default=75, help="how long to train")
    parser.add_argument("--steps", type=int, default=0, help="how many steps, instead of minutes")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256, help="pictures in a step")
    parser.add_argument("--photo-share", type=float, default=0.28, help="of a batch")
    parser.add_argument("--small-share", type=float, default=0.55, help="of the time, on small pictures")
    parser.add_argument("--exam-every", type=float, default=5, help="minutes between exams")
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    photos, held_out = read_photos(settings.photos) if settings.photos else (NO_PHOTOS, NO_PHOTOS)
    training = Training(settings)
    training.resume()
    training.run(photos, held_out)


if __name__ == "__main__":
    main()
