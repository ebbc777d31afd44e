"""Measure t2i_mini on images that it was not trained on: ``python -m tools.t2i_mini.quality``.

The shipped model is measured through the library's own decoder and encoder: how often a caption of the
gallery finds its image, how many of the first ten photographs for a name are right, and how often relevance
is wrong about what matches. Photographs of Tiny ImageNet are held out here, but EfficientNet-Lite0 was
trained on all of ImageNet, from which they come: what is printed of them is better than on photographs from
elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.twofold import SIDE
from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import decode, read
from t2i_pipelines.types import Encoder, Image, Matrix
from tools.drawings.photos import LABELS, read_photos
from tools.t2i_mini.features import read_labelled
from tools.t2i_mini.figures import Figure, table_of
from tools.t2i_mini.matches import (
    measure_gallery_matches,
    measure_matches,
    measure_photos_matches,
    shown_in,
)
from tools.t2i_mini.nouns import Nouns

HYPERNYMS = (
    *("dog", "bird", "cat", "insect", "fish", "snake", "monkey", "bear", "spider", "fruit", "vehicle", "car"),
    *("boat", "building", "furniture", "clothing", "food", "instrument", "container", "animal", "plant"),
    *("tool", "weapon", "machine", "structure", "bridge", "bottle", "ship", "truck", "footwear", "vegetable"),
    *("beverage", "garment", "timepiece", "computer", "ball", "bag", "reptile", "amphibian", "crustacean"),
)
"""Words for several labels of Tiny ImageNet, chosen before anything was measured."""

BATCH = 64
LANGUAGES = {"en": "English", "es": "Spanish", "zh": "Chinese", "de": "German", "it": "Italian"}


def recall(scores: np.ndarray, at: int) -> float:
    """Share of captions whose own picture is among the best ``at``.

    :param scores: (N captions, N pictures), own pairs on the diagonal.
    """
    better = (scores >= np.diag(scores)[:, None]).sum(axis=1) - 1
    return float((better < at).mean())


def precision(scores: np.ndarray, right: np.ndarray, at: int) -> float:
    """Share of right ones among the best ``at`` of every query, averaged over the queries.

    :param scores: (queries, N images).
    :param right: the same shape, bool.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :at]
    return float(np.take_along_axis(right, best, axis=1).mean())


def _unit(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _see(encoder: Encoder, pictures: Sequence[Image]) -> Matrix:
    parts = [pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH)]
    return _unit(np.concatenate([encoder.encode_images(part) for part in parts]))


def _texts(encoder: Encoder, texts: Sequence[str]) -> Matrix:
    return _unit(
        np.concatenate([encoder.encode_texts(texts[at : at + 64]) for at in range(0, len(texts), 64)])
    )


def measure_gallery(encoder: Encoder, table: Path) -> list[Figure]:
    """Measure each language's captions on the gallery: recall, and errors of relevance."""
    if not table.is_file():
        raise SourceError(f"no gallery at {table}; run: python -m tools.drawings.gallery")
    captions, seen = _read_table(encoder, table)
    demands = {"en": {1: 0.95, 10: 0.99}}
    figures = _recalls(encoder, "gallery", captions, seen, demands, known=0.93)
    shown = shown_in(captions)
    for language, spoken in LANGUAGES.items():
        names = [one.concept.names[language][0] for one in shown]
        best = np.argsort(-_texts(encoder, names) @ seen.T, axis=1, kind="stable")[:, :10].tolist()
        found = [not one.pictures.isdisjoint(few) for one, few in zip(shown, best, strict=True)]
        name = f"gallery, {len(shown)} bare names, {spoken}, in first 10"
        figures.append(Figure(name, float(np.mean(found)), 0.92, known=0.69))
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
    known: float | None = None,
) -> list[Figure]:
    figures = []
    for language, spoken in LANGUAGES.items():
        scores = _texts(encoder, [one[language] for one in captions]) @ seen.T
        for at, least in demands.get(language, {1: 0.0, 10: 0.98}).items():
            figures.append(Figure(f"{name}, {spoken}, R@{at}", recall(scores, at), least, known=known))
    return figures


def measure_photos(encoder: Encoder, path: Path) -> list[Figure]:
    """Precision of "a photo of a {label}" among the held-out photographs, and the errors of relevance."""
    _, held_out = read_photos(path)
    seen = _see(encoder, list(held_out.pixels))
    scores = _texts(encoder, [f"a photo of a {label}" for label in LABELS]) @ seen.T
    right = held_out.labels == np.arange(len(LABELS))[:, None]
    return [
        Figure("CIFAR-10, P@10", precision(scores, right, 10), 0.95, known=0.75),
        *measure_photos_matches(encoder, seen),
    ]


def measure_tiny(encoder: Encoder, archive: Path, words: Path) -> list[Figure]:
    """Measure the names of Tiny ImageNet's labels, hypernyms, and the errors of relevance.

    The first ten photographs of each name are looked at, of 50 a label that were kept out.
    """
    nouns = Nouns(words)
    labels, images = zip(*read_labelled(archive, None, held_out=True), strict=True)
    seen = _see(encoder, [encoder.fit(image) for image in images])
    shown = [nouns.all[nouns.number[label]] for label in sorted(set(labels))]
    figures, there = [], []
    for language, spoken in LANGUAGES.items():
        named = [one for one in shown if one.names[language]]
        if not named:
            continue
        names = [one.names[language][0] for one in named]
        right = np.array([np.array(labels) == one.synset for one in named])
        value = precision(_texts(encoder, names) @ seen.T, right, 10)
        name = f"Tiny ImageNet, {len(named)} names, {spoken}, P@10"
        figures.append(Figure(name, value, 0.60 if language == "en" else 0.45))
        there += names
    above = {one.synset: nouns.above(one) for one in shown}
    asked = {}
    for name in HYPERNYMS:
        meant = [one.synset for one in nouns.all if name in one.names["en"]]
        right = np.array([not above[label].isdisjoint(meant) for label in labels])
        if right.sum() >= 10:
            asked[name] = right
    value = precision(_texts(encoder, list(asked)) @ seen.T, np.array(list(asked.values())), 10)
    related = set().union(*above.values())
    absent = [one for one in nouns.all if nouns.above(one).isdisjoint(above) and one.synset not in related]
    others = [one.names[language][0] for one in absent for language in LANGUAGES if one.names[language]]
    return [
        *figures,
        Figure(f"Tiny ImageNet, {len(asked)} hypernyms, P@10", value, 0.85, known=0.60),
        *measure_matches(encoder, seen, "Tiny ImageNet", there, others),
    ]


def measure_speed(encoder: Encoder) -> list[Figure]:
    """Measure images a second in batches of :data:`BATCH`, and milliseconds of one text, of a few words."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    texts = [f"{number} dogs on the grass" for number in range(200)]
    encoder.encode_images([image] * BATCH)
    encoder.encode_texts(texts[:1])
    began = perf_counter()
    for _ in range(20):
        encoder.encode_images([image] * BATCH)
    images = 20 * BATCH / (perf_counter() - began)
    began = perf_counter()
    for text in texts:
        encoder.encode_texts([text])
    a_text = 1000 * (perf_counter() - began) / len(texts)
    return [
        Figure("images a second, encoding alone", images, 200),
        Figure("one text, ms", a_text, 6, less_is_better=True),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code, 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.quality", description=__doc__)
    parser.add_argument("--gallery", type=Path, default=Path("data/gallery.csv"))
    parser.add_argument("--photographs", type=Path, default=Path("data/photographs.csv"))
    parser.add_argument("--photos", type=Path, help="CIFAR-10 as <split>/<label>/*.jpg in a tar.gz")
    parser.add_argument("--tiny", type=Path, help="Tiny ImageNet as <synset>/*.jpg in a tar.gz")
    parser.add_argument("--words", type=Path, help="table of nouns of WordNet, which --tiny needs")
    parser.add_argument("--speed", action="store_true", help="measure that, too")
    parser.add_argument("--checkpoint", help="a model folder to measure in place of the shipped one")
    options = parser.parse_args(arguments)
    encoder = load_encoder("t2i_mini", options.checkpoint)
    figures = measure_gallery(encoder, options.gallery)
    figures += measure_photographs(encoder, options.photographs)
    if options.photos:
        figures += measure_photos(encoder, options.photos)
    if options.tiny and options.words:
        figures += measure_tiny(encoder, options.tiny, options.words)
    if options.speed:
        figures += measure_speed(encoder)
    sys.stdout.write(table_of(figures) + "\n")
    if not options.photos:
        sys.stdout.write("CIFAR-10: not measured, for want of --photos\n")
    if not (options.tiny and options.words):
        sys.stdout.write("Tiny ImageNet: not measured, for want of --tiny and --words\n")
    return 1 if any(figure.is_bad for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
