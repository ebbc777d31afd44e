"""How often relevance is wrong: no match for what is there, a match for what is not, and for nonsense."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t2i_pipelines.search.relevance import (
    MATCH,
    NO_MATCH,
    Calibration,
    background,
    calibrate,
    embedded,
)
from t2i_pipelines.types import Encoder, Matrix
from tools.drawings.captions import describe
from tools.drawings.emoji_names import LANGUAGES, Concept, concepts
from tools.drawings.gallery import choose
from tools.drawings.photos import CONCEPTS, LABELS
from tools.t2i_mini.figures import Figure

FALSE_MATCH, MISSED_CAPTION, MISSED_NAME, MISSED_PHOTOGRAPH = 0.10, 0.10, 0.20, 0.15
"""The most that is asked of relevance: a match for what is not there, and none for what is."""

SEED, NONSENSE, INVENTED = 8, 300, 700

ROWS_OF_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")

IN_PHOTOGRAPHS = re.compile(
    r"\b(air|plane|jet|automobile|auto|car|bird|cat|deer|dog|frog|horse|pony|ship|boat|truck|van|vehicle|taxi"
    r"|bus|minibus|speedboat|canoe|ferry|sailboat|ambulance|engine|tractor|racing|wheel|carousel|departure"
    r"|arrival|duck|eagle|parrot|chicken|swan|dove|rooster|chick|turkey|dodo|flamingo|peacock|goose|owl"
    r"|penguin|stag)\b"
)
"""Of the model's concepts, those that photographs of the ten labels may show."""

Captions = Sequence[Mapping[str, str]]
"""For each picture, language -> caption."""


def measure_gallery_matches(encoder: Encoder, pictures: Matrix, captions: Captions) -> list[Figure]:
    """The errors on the gallery, for captions and for bare names, in all languages.

    :param pictures: (N, D) unit vectors.
    """
    judge = _Judge(encoder, pictures)
    shown, absent = shown_in(captions), absent_from(captions)
    told = [text for caption in captions for text in caption.values()]
    invented = invented_captions(absent)
    return [
        judge.no_match("gallery, captions", told, MISSED_CAPTION),
        judge.no_match("gallery, names of things", _names([one.concept for one in shown]), MISSED_NAME),
        judge.match("gallery, captions of others", invented, known=0.45),
        judge.match("gallery, names of others", _names(absent), known=0.35),
        judge.match("gallery, random letters", nonsense()),
    ]


def measure_photos_matches(encoder: Encoder, photographs: Matrix) -> list[Figure]:
    """The errors on the photographs, for labels in all languages and other names.

    :param photographs: (N, D) unit vectors.
    """
    judge = _Judge(encoder, photographs)
    by_key = {concept.key: concept for concept in concepts()}
    labels = [by_key[CONCEPTS.get(label, label)] for label in LABELS]
    phrases = [f"{start} {label}" for label in LABELS for start in ("a", "a photo of a", "a picture of a")]
    absent = [one for one in concepts() if not any(map(IN_PHOTOGRAPHS.search, one.names["en"]))]
    return [
        judge.no_match("CIFAR-10, labels", [*_names(labels), *phrases], MISSED_PHOTOGRAPH),
        judge.match("CIFAR-10, other names", _names(absent), known=0.15),
        judge.match("CIFAR-10, random letters", nonsense()),
    ]


def measure_matches(
    encoder: Encoder, images: Matrix, name: str, there: Sequence[str], absent: Sequence[str]
) -> list[Figure]:
    """Measure the errors for names of what images show, and of what they do not.

    :param images: (N, D) unit vectors.
    """
    judge = _Judge(encoder, images)
    return [
        judge.no_match(f"{name}, labels", there, MISSED_PHOTOGRAPH, known=0.45),
        judge.match(f"{name}, other names", absent, known=0.30),
    ]


class Shown(NamedTuple):
    """A concept, and the pictures that show it."""

    concept: Concept
    pictures: set[int]


def shown_in(captions: Captions) -> list[Shown]:
    """Concepts whose usual names stand in all captions of a picture."""
    told = [{language: text.lower() for language, text in caption.items()} for caption in captions]

    def is_told(one: Concept, caption: Mapping[str, str]) -> bool:
        return all(one.names[language][0] in text for language, text in caption.items())

    everything = (
        Shown(one, {number for number, caption in enumerate(told) if is_told(one, caption)})
        for one in concepts()
    )
    return [one for one in everything if one.pictures]


def absent_from(captions: Captions) -> list[Concept]:
    """Concepts of which no caption has any name, and that are no kind of one that is there."""
    told = {language: "\n".join(caption[language].lower() for caption in captions) for language in LANGUAGES}
    kinds = re.compile(rf"\b({'|'.join(re.escape(one.concept.key) for one in shown_in(captions)) or '$^'})\b")
    return [
        one
        for one in concepts()
        if not any(name in told[language] for language in LANGUAGES for name in one.names[language])
        and not any(map(kinds.search, one.names["en"]))
    ]


def invented_captions(absent: Sequence[Concept]) -> list[str]:
    """Captions of scenes of which nothing but the background is in the gallery."""
    keys = {one.key for one in absent}
    scenes = [shot.scene for shot in choose(INVENTED, SEED)]
    chosen = [scene for scene in scenes if keys.issuperset(thing.concept.key for thing in scene.objects)]
    return [describe(scene, language) for scene in chosen for language in LANGUAGES]


def nonsense() -> list[str]:
    """Random letters, and what hands leave that walk over a keyboard."""
    rng = np.random.default_rng(SEED)
    texts = []
    for number in range(NONSENSE):
        keys = ROWS_OF_KEYS[rng.integers(len(ROWS_OF_KEYS))] if number % 2 else "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(rng.choice(list(keys), rng.integers(3, 10))) for _ in range(rng.integers(1, 4))]
        texts.append(" ".join(words))
    return texts


class _Judge:
    """Tells for which queries the best of some pictures counts as a match."""

    def __init__(self, encoder: Encoder, pictures: Matrix) -> None:
        self._encoder, self._pictures = encoder, pictures
        texts = embedded(encoder)
        tops = self._best(np.concatenate(texts))
        made = calibrate(
            *texts,
            tops,
            rows=len(pictures),
            background=background().digest,
            weights=encoder.space.weights,
        )
        assert made is not None
        self._calibration: Calibration = made

    def match(self, name: str, texts: Sequence[str], known: float | None = None) -> Figure:
        """The share of queries that something matches; nothing should."""
        share = self._reaching(MATCH, texts)
        return Figure(f"{name}: match", share, FALSE_MATCH, less_is_better=True, known=known)

    def no_match(self, name: str, texts: Sequence[str], most: float, known: float | None = None) -> Figure:
        """The share of queries that nothing matches; something should."""
        share = 1 - self._reaching(NO_MATCH, texts)
        return Figure(f"{name}: no match", share, most, less_is_better=True, known=known)

    def _reaching(self, least: float, texts: Sequence[str]) -> float:
        vectors = self._embed(texts)
        pairs = zip(vectors, self._best(vectors), strict=True)
        relevance = [self._calibration.relevance(vector, [best])[0] for vector, best in pairs]
        return float(np.mean([one >= least for one in relevance]))

    def _embed(self, texts: Sequence[str]) -> Matrix:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a text of .* tokens is cut", UserWarning)
            parts = [self._encoder.encode_texts(texts[at : at + 64]) for at in range(0, len(texts), 64)]
        vectors = np.concatenate(parts)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def _best(self, vectors: Matrix) -> list[float]:
        best: list[float] = (vectors @ self._pictures.T).max(axis=1).tolist()
        return best


def _names(things: Sequence[Concept]) -> list[str]:
    return [one.names[language][0] for one in things for language in LANGUAGES]
