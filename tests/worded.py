"""A model whose vectors can be thought out, and images for it: every word is a direction of its own."""

import re
from hashlib import blake2b

import numpy as np

from t2i_pipelines import build_search_pipeline
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.search import relevance
from t2i_pipelines.search.relevance import Calibration
from t2i_pipelines.types import Space

DIM = 96
THINGS = [
    "anchor",
    "badger",
    "candle",
    "drum",
    "easel",
    "falcon",
    "goblet",
    "hammock",
    "inkwell",
    "javelin",
    "kettle",
    "lantern",
    "mitten",
    "napkin",
    "orchid",
    "paddle",
    "quilt",
    "radish",
    "saddle",
    "tractor",
    "urchin",
    "velvet",
    "walnut",
    "yacht",
    "zither",
    "button",
    "cabbage",
    "dagger",
    "emerald",
    "feather",
]


class WordedEncoder:
    """A text is the sum of its words, each a random direction of its own, and of what all texts share."""

    space = Space("worded", "random directions, version 1", "none", DIM)

    def __init__(self) -> None:
        self.passes = 0

    def fit(self, image):
        return image

    def encode_images(self, images):
        return np.stack([direction(str(image.sum())) for image in images])

    def encode_texts(self, texts):
        self.passes += 1
        return np.stack([embedded(text) for text in texts])


def direction(word: str) -> np.ndarray:
    seed = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def embedded(text: str) -> np.ndarray:
    words = [word for word in re.findall(r"\w+", text.lower()) if len(word) > 1] or [text]
    return (sum(map(direction, words)) + 0.7 * direction("(any text)")).astype(np.float32)


register_encoder("worded", lambda checkpoint_path, compute: WordedEncoder())


def rows_of(words, copies=1):
    """A row for each word: its direction, and something of its own."""
    for word in words:
        for copy in range(copies):
            name = f"{word}-{copy}"
            vector = direction(word) + 0.4 * direction(name)
            yield {
                "id": name,
                "vector": vector / np.linalg.norm(vector),
                "path": f"/photos/{name}.jpg",
                "size": 1,
                "mtime": 1,
                "digest": "",
            }


def finder(settings, **options):
    pipeline = build_search_pipeline(**settings, **options)
    return lambda query: pipeline(query).get()[1]


def stored(collection) -> Calibration | None:
    text = collection.read_note(relevance.NOTE)
    return None if text is None else Calibration.from_json(text)
