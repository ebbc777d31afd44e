"""Print the figures of a trained t2i_mini 2 on images that it never learned from.

``python -m tools.t2i_mini.measure --words W --out runs/mini2``: photographs of Tiny ImageNet by label and by
hypernym, CIFAR-10, the gallery's drawings and the free photographs of ``data/``. Tiny ImageNet's photographs
are held out here, but EfficientNet-Lite0 was trained on all of ImageNet, from which they come: what is
printed of them is better than on photographs from elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from t2i_pipelines.encoders.openai_clip import Details, build_clip, encode_text
from t2i_pipelines.images import decode, read
from tools.t2i_mini.features import to_input
from tools.t2i_mini.figures import Figure, table_of
from tools.t2i_mini.matches import shown_in
from tools.t2i_mini.nouns import Nouns
from tools.t2i_mini.quality import LANGUAGES, recall
from tools.t2i_mini.space import unit
from tools.t2i_mini.text_tower import SIZES

HYPERNYMS = (
    *("dog", "bird", "cat", "insect", "fish", "snake", "monkey", "bear", "spider", "fruit", "vehicle", "car"),
    *("boat", "building", "furniture", "clothing", "food", "instrument", "container", "animal", "plant"),
    *("tool", "weapon", "machine", "structure", "bridge", "bottle", "ship", "truck", "footwear", "vegetable"),
    *("beverage", "garment", "timepiece", "computer", "ball", "bag", "reptile", "amphibian", "crustacean"),
)
"""Words for several labels of Tiny ImageNet, chosen before anything was measured."""


DETAILS = Details(quick_gelu=(True, True), heads=(None, SIZES["transformer_heads"]))


class Trained:
    """A finished training: images and texts to unit vectors."""

    def __init__(self, out: Path) -> None:
        weights = torch.load(out / "model.pt", weights_only=True)
        clip, self.sizes = build_clip(weights, DETAILS, str(out / "model.pt"))
        self.clip: Any = clip
        self.tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D)."""
        ids = torch.tensor([one.ids for one in self.tokenizer.encode_batch(list(texts))])
        return unit(encode_text(self.clip, ids).numpy())

    @torch.no_grad()
    def images(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """(N, D)."""
        return unit(
            np.concatenate([self.clip.visual(to_input([decode(read(path))])).numpy() for path in paths])
        )

    @torch.no_grad()
    def seen(self, arrays: Any, name: str) -> NDArray[np.float32]:
        """(N, D) of images whose features are kept."""
        parts = (
            torch.from_numpy(arrays[f"{name}.{part}"]).float() for part in ("features", "scores", "drawn")
        )
        return unit(self.clip.visual.join(*parts).numpy())


def precision(scores: NDArray[Any], right: NDArray[np.bool_], at: int = 10) -> float:
    """Share of right ones among the best ``at`` of each row."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :at]
    return float(np.take_along_axis(right, best, axis=1).mean())


def of_tiny(model: Trained, arrays: Any, labels: list[str], nouns: Nouns) -> list[Figure]:
    """Measure label names in each language that has them, and hypernyms in English."""
    images, found = model.seen(arrays, "tiny_held_out"), []
    synsets, shown = sorted(set(labels)), np.array(labels)
    for language in LANGUAGES:
        named = [one for one in synsets if nouns.all[nouns.number[one]].names[language]]
        texts = [nouns.all[nouns.number[one]].names[language][0] for one in named]
        right = np.array([shown == one for one in named])
        value = precision(model.texts(texts) @ images.T, right)
        target = 0.60 if language == "en" else 0.45
        found.append(Figure(f"Tiny ImageNet, {len(named)} names, {language}: P@10", value, target))
    above = {one: nouns.above(nouns.all[nouns.number[one]]) for one in synsets}
    rows, asked = [], []
    for name in HYPERNYMS:
        meant = [one.synset for one in nouns.all if name in one.names["en"]]
        row = np.array([not above[label].isdisjoint(meant) for label in labels])
        if row.sum() >= 10:
            rows.append(row)
            asked.append(name)
    value = precision(model.texts(asked) @ images.T, np.array(rows))
    return [*found, Figure(f"Tiny ImageNet, {len(asked)} hypernyms: P@10", value, 0.85)]


def of_cifar(model: Trained, arrays: Any, labels: list[str]) -> Figure:
    """Measure the ten labels."""
    names = sorted(set(labels))
    right = np.array([np.array(labels) == name for name in names])
    texts = model.texts([f"a photo of a {name}" for name in names])
    return Figure("CIFAR-10: P@10", precision(texts @ model.seen(arrays, "cifar_held_out").T, right), 0.95)


def of_table(model: Trained, table: Path, name: str, targets: tuple[float, float]) -> list[Figure]:
    """Measure captions of a table of images: columns ``path`` and ``caption_<language>``."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images, found = model.images([table.parent / row["path"] for row in rows]), []
    captions = [{language: row[f"caption_{language}"] for language in LANGUAGES} for row in rows]
    for language in LANGUAGES:
        scores = model.texts([caption[language] for caption in captions]) @ images.T
        found.append(Figure(f"{name}, {language}: R@1", recall(scores, 1), targets[0] * (language == "en")))
        found.append(Figure(f"{name}, {language}: R@10", recall(scores, 10), targets[1]))
    if name == "gallery":
        shown = shown_in(captions)
        for language in LANGUAGES:
            scores = model.texts([one.concept.names[language][0] for one in shown]) @ images.T
            best = np.argsort(-scores, axis=1)[:, :10].tolist()
            value = np.mean([not one.pictures.isdisjoint(few) for one, few in zip(shown, best, strict=True)])
            found.append(
                Figure(f"gallery, {len(shown)} bare names, {language}: in first 10", float(value), 0.92)
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.measure", description=__doc__)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/mini2"))
    settings = parser.parse_args(arguments)
    model, nouns = Trained(settings.out), Nouns(settings.words)
    arrays = np.load(settings.out / "features.npz")
    labels = json.loads((settings.out / "features.json").read_text(encoding="utf-8"))
    figures = [
        *of_table(model, Path("data/gallery.csv"), "gallery", (0.95, 0.98)),
        *of_table(model, Path("data/photographs.csv"), "photographs of data/", (0, 0)),
        of_cifar(model, arrays, labels["cifar_held_out"]),
        *of_tiny(model, arrays, labels["tiny_held_out"], nouns),
    ]
    sys.stdout.write(table_of(figures) + "\n")


if __name__ == "__main__":
    main()
