"""Nouns of WordNet in five languages, and which of ImageNet's classes each stands for."""

from __future__ import annotations

import csv
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2i_pipelines.encoders.twofold import CLASSES
from tools.drawings.emoji_names import LANGUAGES


class Noun(NamedTuple):
    """One synset.

    :ivar synset: its WordNet id, such as ``n02084071``.
    :ivar imagenet: position among ImageNet's sorted classes; None for a mere hypernym.
    :ivar hypernyms: synsets directly above it.
    :ivar names: language -> names in lower case.
    """

    synset: str
    imagenet: int | None
    hypernyms: tuple[str, ...]
    names: dict[str, tuple[str, ...]]


class Nouns:
    """All of a table, with the classes below each."""

    def __init__(self, path: Path) -> None:
        with path.open(encoding="utf-8", newline="") as file:
            self.all = [_noun(row) for row in csv.DictReader(file)]
        self.number = {noun.synset: number for number, noun in enumerate(self.all)}

    @cached_property
    def below(self) -> np.ndarray:
        """(nouns, 1000) bool: whether the class is the noun, or a kind of it."""
        marks = np.zeros((len(self.all), CLASSES), bool)
        for noun in self.all:
            if noun.imagenet is not None:
                for synset in self.above(noun):
                    marks[self.number[synset], noun.imagenet] = True
        return marks

    def above(self, noun: Noun) -> set[str]:
        """Return the noun's synset and all of its hypernyms'."""
        found, waiting = set(), [noun.synset]
        while waiting:
            if (synset := waiting.pop()) in self.number and synset not in found:
                found.add(synset)
                waiting += self.all[self.number[synset]].hypernyms
        return found


def _noun(row: dict[str, str]) -> Noun:
    names = {
        language: tuple(
            dict.fromkeys(name.strip().lower() for name in row[language].split("|") if name.strip())
        )
        for language in LANGUAGES
    }
    index = row["imagenet_index"]
    return Noun(row["synset"], int(index) if index else None, tuple(row["hypernyms"].split()), names)
