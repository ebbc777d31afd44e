"""Words for pictures, in five languages, from a bare name to a full sentence.

The emoji package tells no gender, so Spanish, German and Italian articles are drawn by chance while
training: the model learns to read past them. :func:`describe` leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np

from tools.drawings.emoji_names import LANGUAGES, Concept
from tools.drawings.scenes import Scene

Told = tuple[str, frozenset[str]]
"""A caption, and all it names: keys of concepts, and of a background."""

ARTICLES = {
    "en": ("the", "one", "my"),
    "es": ("un", "una", "el", "la"),
    "zh": ("一个", "一只", "一张", "这个"),
    "de": ("ein", "eine", "einen", "der", "die", "das"),
    "it": ("un", "una", "uno", "il", "la", "lo"),
}
AND = {"en": " and ", "es": " y ", "zh": "和", "de": " und ", "it": " e "}
COMMA = {"en": ", ", "es": ", ", "zh": "、", "de": ", ", "it": ", "}
FRAMES = {
    "en": (
        "a photo of {}",
        "a picture of {}",
        "an image of {}",
        "photo of {}",
        "picture of {}",
        "a drawing of {}",
        "a close-up of {}",
        "there is {}",
        "this is {}",
        "I see {}",
        "show me {}",
        "find {}",
    ),
    "es": ("una foto de {}", "foto de {}", "una imagen de {}", "imagen de {}", "hay {}", "busca {}"),
    "zh": ("{}的照片", "一张{}的照片", "{}的图片", "一幅{}的图", "这是{}", "有{}", "找{}"),
    "de": ("ein Foto von {}", "Foto von {}", "ein Bild von {}", "Bild mit {}", "das ist {}", "zeig {}"),
    "it": ("una foto di {}", "foto di {}", "un'immagine di {}", "immagine di {}", "c'è {}", "cerca {}"),
}
SMALL_GERMAN = re.compile(r"mit|und|in|im|von|vom|der|die|das|den|dem|auf|am|aus|ohne|für|zum|zur")
UNCOUNTED = re.compile(
    r"bread|butter|cheese|coffee|cooked rice|fire|garlic|ice|popcorn|salt|sake|spaghetti|sushi|wine|bacon"
    r"|ice hockey|curry rice|wood|soap|lacrosse|bowling|nest with eggs|american football"
)
VOWEL = re.compile(r"(?!uni|uk|use|ufo|euro|one)[aeiou]|hour|x-ray")
SIMPLE_ADJECTIVE = ("er", "es", "e", "en", "em")


@cache
def _backgrounds() -> dict[str, dict[str, tuple[str, ...]]]:
    """Background -> language -> phrases, the usual one first."""
    text = resources.files(__package__).joinpath("backgrounds.txt").read_text(encoding="utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, *cells = (cell.strip() for cell in line.split("|"))
            phrases = (tuple(phrase.strip() for phrase in cell.split(",")) for cell in cells)
            found[name] = dict(zip(LANGUAGES, phrases, strict=True))
    return found


def ground_key(background: str) -> str:
    """The key of a background, told apart from a thing of the same name: the colour and the fruit."""
    return f"on {background}"


def german_case(name: str) -> str:
    """Write nouns with a capital: ``roter apfel`` -> ``roter Apfel``."""
    words = name.split()
    for at, word in enumerate(words):
        last = at + 1 == len(words) or SMALL_GERMAN.fullmatch(words[at + 1])
        if not SMALL_GERMAN.fullmatch(word) and (last or not word.endswith(SIMPLE_ADJECTIVE)):
            words[at] = word[0].upper() + word[1:]
    return " ".join(words)


def english_article(name: str) -> str:
    """``apple`` -> ``an apple``; plurals and ``bread`` stay as they are."""
    plural = name.endswith("s") and not name.endswith(("ss", "us"))
    return name if plural or UNCOUNTED.fullmatch(name) else f"{'an' if VOWEL.match(name) else 'a'} {name}"


def _some_article(name: str, language: str, rng: np.random.Generator) -> str:
    chance = rng.random()
    if language == "en" and chance < 0.5:
        return english_article(name)
    if chance < (0.75 if language == "en" else 0.5):
        return name
    article = ARTICLES[language][int(rng.integers(len(ARTICLES[language])))]
    return article + ("" if language == "zh" else " ") + name


def _pick(names: Sequence[str], rng: np.random.Generator) -> str:
    usual = len(names) == 1 or rng.random() < 0.5
    return names[0] if usual else names[int(rng.integers(1, len(names)))]


def _list(names: Sequence[str], language: str) -> str:
    if len(names) == 1:
        return names[0]
    return COMMA[language].join(names[:-1]) + AND[language] + names[-1]


def _join(things: str, place: str, language: str) -> str:
    if language != "zh":
        return f"{things} {place}".strip()
    return f"{place}的{things}" if things else place


def tell(
    concepts: Sequence[Concept], background: str | None, language: str, rng: np.random.Generator
) -> Told:
    """Say something true of a picture: some or all of what it shows, in one of many wordings.

    :param background: leave it ``None`` where it has no name, or its colour does not show.
    """
    order = rng.permutation(len(concepts))
    if len(order) > 1 and rng.random() < 0.4:
        order = order[:1]
    chosen = [concepts[i] for i in order]
    bare = len(chosen) == 1 and rng.random() < 0.3
    names = [_pick(concept.names[language], rng) for concept in chosen]
    if not bare:
        names = [_some_article(name, language, rng) for name in names]
    text, keys = _list(names, language), {concept.key for concept in chosen}
    if background is not None and rng.random() < (0.1 if bare else 0.45):
        if rng.random() < 0.04:
            text, keys = "", set()
        text = _join(text, _pick(_backgrounds()[background][language], rng), language)
        keys.add(ground_key(background))
    if not bare and rng.random() < 0.35:
        text = FRAMES[language][int(rng.integers(len(FRAMES[language])))].format(text)
    return text, frozenset(keys)


def describe(scene: Scene, language: str, *, with_background: bool = True) -> str:
    """Name everything in the scene, from left to right, each by its usual name."""
    things = sorted(scene.objects, key=lambda thing: thing.x)
    names = [thing.concept.names[language][0] for thing in things]
    if language == "en":
        names = [english_article(name) for name in names]
    if language == "de":
        names = [german_case(name) for name in names]
    place = _backgrounds()[scene.background][language][0] if with_background else ""
    text = _list(names, language)
    return _join(text, place, language) if place else text


def corpus() -> list[str]:
    """Every word that captions can hold, to make a tokenizer from."""
    from tools.drawings.emoji_names import concepts

    names = [n for c in concepts() for all_names in c.names.values() for n in all_names]
    places = [p for told in _backgrounds().values() for all_p in told.values() for p in all_p]
    frames = [frame for language in LANGUAGES for frame in FRAMES[language]]
    small = [word for words in ARTICLES.values() for word in words] + list(AND.values())
    return names * 2 + [f" {name}" for name in names] + (places + frames + small) * 5
