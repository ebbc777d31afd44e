"""How good t2i_mini is on pictures that it was not trained on: ``python -m tools.t2i_mini.quality``.

It measures the shipped model, through the library's own decoder and encoder: how often a caption of
the gallery finds its picture, how many of the ten photographs found for a label are right, and how often
relevance is wrong about what matches.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import decode, read
from t2i_pipelines.types import Encoder, Image, Matrix
from tools.drawings.photos import LABELS, read_photos
from tools.t2i_mini.figures import Figure, table_of
from tools.t2i_mini.matches import measure_gallery_matches, measure_photos_matches

BATCH = 64
LANGUAGES = {"en": "English", "es": "Spanish", "zh": "Chinese", "de": "German", "it": "Italian"}


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
    """Measure each language's captions on the gallery: recall, and errors of relevance."""
    if not table.is_file():
        raise SourceError(f"no gallery at {table}; run: python -m tools.drawings.gallery")
    demands = {"en": {1: 0.75, 10: 0.97}}
    captions, seen = _read_table(encoder, table)
    figures = _recalls(encoder, "gallery", captions, seen, demands)
    return [*figures, *measure_gallery_matches(encoder, seen, captions)]


def measure_photographs(encoder: Encoder, table: Path) -> list[Figure]:
    """Measure each language's captions on sharp photographs, which the model has not learned from."""
    captions, seen = _read_table(encoder, table)
    name = f"{len(captions)} sharp photographs"
    return _recalls(encoder, name, captions, seen, {one: {10: 0.0} for one in LANGUAGES})


def _read_table(encoder: Encoder, table: Path) -> tuple[list[dict[str, str]], Matrix]:
    """Return language -> caption of each image, and the unit vectors of the images."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [table.parent / row["path"] for row in rows]
    seen = _see(encoder, [encoder.fit(decode(read(path), str(path))) for path in paths])
    return [{language: row[f"caption_{language}"] for language in LANGUAGES} for row in rows], seen


def _recalls(
    encoder: Encoder,
    name: str,
    captions: Sequence[dict[str, str]],
    seen: Matrix,
    demands: dict[str, dict[int, float]],
) -> list[Figure]:
    figures = []
    for language, spoken in LANGUAGES.items():
        scores = _unit(encoder.encode_texts([one[language] for one in captions])) @ seen.T
        for at, least in demands.get(language, {1: 0.0, 10: 0.90}).items():
            figures.append(Figure(f"{name}, {spoken}, R@{at}", recall(scores, at), least))
    return figures


def measure_photos(encoder: Encoder, path: Path) -> list[Figure]:
    """Precision of "a photo of a {label}" among the held-out photographs, and the errors of relevance."""
    _, held_out = read_photos(path)
    seen = _see(encoder, list(held_out.pixels))
    asked = _unit(encoder.encode_texts([f"a photo of a {label}" for label in LABELS]))
    scores = asked @ seen.T
    found = Figure("CIFAR-10, P@10", precision(scores, held_out.labels, 10), 0.80)
    return [found, *measure_photos_matches(encoder, seen)]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code, 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.quality", description=__doc__)
    parser.add_argument("--gallery", type=Path, default=Path("data/gallery.csv"))
    parser.add_argument("--photographs", type=Path, default=Path("data/photographs.csv"))
    parser.add_argument("--photos", type=Path, help="CIFAR-10 as <split>/<label>/*.jpg in a tar.gz")
    parser.add_argument("--checkpoint", help="a model folder to measure in place of the shipped one")
    options = parser.parse_args(arguments)
    encoder = load_encoder("t2i_mini", options.checkpoint)
    figures = measure_gallery(encoder, options.gallery)
    figures += measure_photographs(encoder, options.photographs)
    if options.photos:
        figures += measure_photos(encoder, options.photos)
    sys.stdout.write(table_of(figures) + "\n")
    if not options.photos:
        sys.stdout.write("photographs: not measured, for want of --photos\n")
    return 1 if any(figure.is_bad for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
