"""What people write of photographs and drawings, in five languages, and what each text names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import NamedTuple

import numpy as np

from tools.drawings.captions import FRAMES, english_article, tell
from tools.drawings.emoji_names import LANGUAGES, Concept, concepts
from tools.t2i_mini.nouns import Nouns

MOST_ITEMS = 3

WITH = {
    "en": " with | on | next to | in front of | near | under | and | holding | in | behind ",
    "es": " con | en | junto a | y | delante de | bajo ",
    "zh": "和|在|与|旁边的|前的",
    "de": " mit | auf | neben | und | vor | unter ",
    "it": " con | su | accanto a | e | davanti a | sotto ",
}
EXTRA = {
    "en": "small|big|old|young|red|white|black|brown|green|blue|wooden|beautiful|two|some|three|several|wild"
    "|cute|sitting|standing|running|playing|lying|flying|walking|eating|close up of|view of|group of|at night"
    "|outside|inside|on the ground|in the air|in the background|looking at the camera|during the day",
    "es": "pequeño|grande|viejo|rojo|blanco|negro|verde|azul|dos|tres|sentado|de pie|corriendo|bonito",
    "zh": "小的|大的|红色的|白色的|黑色的|绿色的|蓝色的|两只|三个|漂亮的|坐着的|跑着的|可爱的|夜晚的",
    "de": "kleiner|großer|alter|roter|weißer|schwarzer|grüner|blaue|zwei|drei|sitzt|steht|läuft|schöne",
    "it": "piccolo|grande|vecchio|rosso|bianco|nero|verde|blu|due|tre|seduto|in piedi|che corre|bello",
}
"""Words that change nothing about what a photograph of it shows."""


class Item(NamedTuple):
    """One name in one language.

    :ivar nouns: what a photograph of it shows; numbers of nouns, none where that is unknown.
    :ivar key: of the concept that a drawing of it shows; empty where there is none.
    """

    name: str
    language: str
    nouns: tuple[int, ...]
    key: str


def items(nouns: Nouns, kept: dict[str, int]) -> list[Item]:
    """List every name of nouns, everyday concepts and drawn concepts, each once a language.

    :param kept: synset -> its number in the space of photographs.
    """
    shows = _photographed(nouns, kept)
    english = {name: numbers for (language, name), numbers in shows.items() if language == "en"}
    drawn: dict[tuple[str, str], str] = {}
    for concept in concepts():
        for language, names in concept.names.items():
            for name in names:
                drawn.setdefault((language, name), concept.key)
                shows.setdefault((language, name), english.get(concept.key, set()))
    return [
        Item(name, language, tuple(sorted(numbers)), drawn.get((language, name), ""))
        for (language, name), numbers in sorted(shows.items())
    ]


def _photographed(nouns: Nouns, kept: dict[str, int]) -> dict[tuple[str, str], set[int]]:
    """Map (language, name) to the numbers of nouns that a photograph of it shows."""
    shows: dict[tuple[str, str], set[int]] = defaultdict(set)
    for noun in nouns.all:
        for language, names in noun.names.items():
            for name in names:
                if noun.synset in kept:
                    shows[language, name].add(kept[noun.synset])
    by_english = {name: set(numbers) for (language, name), numbers in shows.items() if language == "en"}
    for everyday_names, english in everyday():
        numbers = set().union(*(by_english[name] for name in english))
        for language, some in everyday_names.items():
            for name in some:
                shows[language, name] = numbers  # these were chosen; WordNet has rare senses, too
    return dict(shows)


def everyday() -> Iterator[tuple[dict[str, list[str]], list[str]]]:
    """Read ``everyday.txt``: (language -> names, English names of nouns)."""
    text = resources.files(__package__).joinpath("everyday.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            *cells, english = ([name.strip() for name in cell.split(",")] for cell in line.split("|"))
            yield dict(zip(LANGUAGES, cells, strict=True)), english


def corpus(everything: Iterable[Item]) -> Iterator[str]:
    """Every word that texts can hold, to make a tokenizer from."""
    for item in everything:
        yield item.name
        yield f" {item.name}"
    for language in LANGUAGES:
        yield from FRAMES[language] * 5
        yield from EXTRA[language].split("|") * 5
        yield from WITH[language].split("|") * 5


class Writer:
    """Texts at random: bare names, phrases and captions of one to three things."""

    def __init__(self, everything: list[Item], rng: np.random.Generator) -> None:
        self._rng = rng
        self._by_language = {one: [item for item in everything if item.language == one] for one in LANGUAGES}
        self._common = {
            one: [item for item in some if item.nouns and (item.key or len(item.nouns) > 1)]
            for one, some in self._by_language.items()
        }
        self._concepts = {concept.key: concept for concept in concepts()}

    def of_photograph(self) -> tuple[str, list[Item]]:
        """Write of things that a photograph might show."""
        rng = self._rng
        language = LANGUAGES[rng.choice(5, p=[0.4, 0.15, 0.15, 0.15, 0.15])]
        many = int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))
        chosen = [self._item(language) for _ in range(many)]
        if many == 1 and rng.random() < 0.45:
            return chosen[0].name, chosen
        names = [self._dressed(item.name, language) for item in chosen]
        text = names[0]
        for name in names[1:]:
            text += self._pick(WITH[language].split("|")) + name
        if rng.random() < 0.4:
            text = self._pick(FRAMES[language]).format(text)
        return text, chosen

    def of_drawing(self, keys: list[str]) -> tuple[str, frozenset[str]]:
        """Write of a scene, by its concepts and background."""
        things: list[Concept] = [self._concepts[key] for key in keys if key in self._concepts]
        grounds = [key.removeprefix("on ") for key in keys if key not in self._concepts]
        language = LANGUAGES[self._rng.choice(5, p=[0.36, 0.16, 0.16, 0.16, 0.16])]
        if self._rng.random() < 0.25:
            thing = things[int(self._rng.integers(len(things)))]
            return self._pick(thing.names[language]), frozenset({thing.key})
        text, named = tell(things, grounds[0] if grounds else None, language, self._rng)
        return text, named

    def _item(self, language: str) -> Item:
        some = self._common if self._rng.random() < 0.35 else self._by_language
        return some[language][int(self._rng.integers(len(some[language])))]

    def _dressed(self, name: str, language: str) -> str:
        rng = self._rng
        if language == "en" and rng.random() < 0.5:
            name = english_article(name)
        elif rng.random() < 0.3:
            name = ("the " if language == "en" else "") + name
        if rng.random() < 0.35:
            extra = self._pick(EXTRA[language].split("|"))
            before = rng.random() < 0.6
            space = "" if language == "zh" else " "
            name = extra + space + name if before else name + space + extra
        return name

    def _pick(self, some: tuple[str, ...] | list[str]) -> str:
        return some[int(self._rng.integers(len(some)))]
