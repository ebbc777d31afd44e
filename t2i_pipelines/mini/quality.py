"""How good t2i_mini is on pictures that it was not trained on: ``python -m t2i_pipelines.mini.quality``.

It measures the shipped model, through the library's own decoder and encoder: how often a caption of
the gallery finds its picture, and how many of the ten photographs found for a label are right.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import decode, read
from t2i_pipelines.mini.photos import LABELS, read_photos
from t2i_pipelines.types import Encoder, Image, Matrix

BATCH = 64
LANGUAGES = {"en": "English", "es": "Spanish", "zh": "Chinese", "de": "German", "it": "Italian"}


class Figure(NamedTuple):
    """One measured number, from 0 to 1, and the least that it must be (0: no demand)."""

    name: str
    value: float
    target: float

    @property
    def is_met(self) -> bool:
        """Whether the number is at least its target."""
        return self.value >= self.target


def recall(scores: np.ndarray, at: int) -> float:
    """Share of captions whose own picture is among the best ``at``.

    :param scores: (N captions, N pictures), own pairs on the diagonal.
    """
    better = (scores >= np.diag(scores)[:, None]).sum(axis=1) - 1
    return float((better < at).mean())


def precision(scores: np.ndarray, labels: np.ndarray, at: int) -> float:
    """Share of right ones among the best ``at`` of every label, averaged over the labels.

    :param scores: (labels, N pictures).
    :param labels: (N,) which row each picture belongs to.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :at]
    return float((labels[best] == np.arange(len(scores))[:, None]).mean())


def _unit(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _see(encoder: Encoder, pictures: Sequence[Image]) -> Matrix:
    parts = [pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH)]
    return _unit(np.concatenate([encoder.encode_images(part) for part in parts]))


def measure_gallery(encoder: Encoder, table: Path) -> list[Figure]:
    """Recall of every language's captions among the gallery's pictures."""
    if not table.is_file():
        raise SourceError(f"no gallery at {table}; run: python -m t2i_pipelines.mini.gallery")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [table.parent / row["path"] for row in rows]
    seen = _see(encoder, [encoder.fit(decode(read(path), str(path))) for path in paths])
    figures = []
    for language, name in LANGUAGES.items():
        captions = [row[f"caption_{language}"] for row in rows]
        scores = _unit(encoder.encode_texts(captions)) @ seen.T
        demands = {1: 0.75, 10: 0.97} if language == "en" else {1: 0.0, 10: 0.90}
        figures += [
            Figure(f"gallery, {name}, R@{at}", recall(scores, at), least) for at, least in demands.items()
        ]
    return figures


def measure_photos(encoder: Encoder, path: Path) -> list[Figure]:
    """Precision of "a photo of a {label}" among the held-out photographs."""
    _, held_out = read_photos(path)
    seen = _see(encoder, list(held_out.pixels))
    asked = _unit(encoder.encode_texts([f"a photo of a {label}" for label in LABELS]))
    scores = asked @ seen.T
    return [Figure("photographs, P@10", precision(scores, held_out.labels, 10), 0.80)]


def table_of(figures: Sequence[Figure]) -> str:
    """The figures as lines of text."""
    lines = [f"{'':<24}{'value':>8}{'target':>8}"]
    for figure in figures:
        target = f"{figure.target:8.2f}" if figure.target else " " * 8
        missed = "" if figure.is_met else "  missed"
        lines.append(f"{figure.name:<24}{figure.value:8.3f}{target}{missed}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code, 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m t2i_pipelines.mini.quality", description=__doc__)
    parser.add_argument("--gallery", type=Path, default=Path("data/gallery.csv"))
    parser.add_argument("--photos", type=Path, help="CIFAR-10 as <split>/<label>/*.jpg in a tar.gz")
    parser.add_argument("--checkpoint", help="a model folder to measure in place of the shipped one")
    options = parser.parse_args(arguments)
    encoder = load_encoder("t2i_mini", options.checkpoint)
    figures = measure_gallery(encoder, options.gallery)
    if options.photos:
        figures += measure_photos(encoder, options.photos)
    sys.stdout.write(table_of(figures) + "\n")
    if not options.photos:
        sys.stdout.write("photographs: not measured, for want of --photos\n")
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
