"""Quick marks while training, on scenes and photographs that are never trained on."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image as PilImage
from tokenizers import Tokenizer
from torch.nn import functional as F

from tools.drawings.backgrounds import paint
from tools.drawings.captions import describe
from tools.drawings.emoji_names import LANGUAGES, concepts
from tools.drawings.network import encode_image, encode_text, to_tensor
from tools.drawings.photos import LABELS, Photos
from tools.drawings.scenes import draw, invent
from tools.t2i_mini.quality import precision, recall

SEED = 424_242
SCENES = 300
BATCH = 250


class Exam(NamedTuple):
    """Pictures, large, with their captions; photographs with their labels."""

    pictures: list[np.ndarray]
    captions: dict[str, list[str]]
    names: list[str]
    shows: np.ndarray
    """(names, pictures) bool: whether the picture shows what the name says."""
    photos: Photos


def make_exam(held_out: Photos) -> Exam:
    """Draw the scenes; take every fifth of the held-out photographs."""
    rng = np.random.default_rng(SEED)
    things = list(concepts())
    evenly = np.linspace(0, 1, len(things) + 1)[1:]
    scenes = [invent(things, evenly, rng) for _ in range(SCENES)]
    pictures = []
    for scene in scenes:
        height = round(360 / scene.aspect**0.5)
        ground = paint(scene.background, height, round(height * scene.aspect), rng)
        pictures.append(draw(scene, ground))
    captions = {language: [describe(s, language) for s in scenes] for language in LANGUAGES}
    contents = [{thing.concept.key for thing in scene.objects} for scene in scenes]
    names = sorted(frozenset().union(*contents))
    shows = np.array([[name in content for content in contents] for name in names])
    return Exam(pictures, captions, names, shows, Photos(held_out.pixels[::5], held_out.labels[::5]))


def _squash(picture: np.ndarray, size: int) -> np.ndarray:
    resized = PilImage.fromarray(picture).resize((size, size), PilImage.Resampling.BICUBIC)
    return np.asarray(resized)


@torch.no_grad()
def mark(model: Any, tokenizer: Tokenizer, exam: Exam, size: int) -> dict[str, float]:
    """Marks by name: recall at 1 and 10 in every language, precision at 10 of photographs if any."""
    model.eval()
    cv2.setNumThreads(1)

    def see(pictures: list[np.ndarray]) -> torch.Tensor:
        images = torch.from_numpy(np.stack([_squash(picture, size) for picture in pictures]))
        parts = [
            encode_image(model, to_tensor(images[at : at + BATCH])) for at in range(0, len(images), BATCH)
        ]
        return F.normalize(torch.cat(parts), dim=-1)

    def read(texts: list[str]) -> torch.Tensor:
        ids = torch.tensor([found.ids for found in tokenizer.encode_batch(texts)])
        return F.normalize(encode_text(model, ids), dim=-1)

    shown = see(exam.pictures)
    marks = {}
    for language, captions in exam.captions.items():
        scores = (read(captions) @ shown.T).numpy()
        marks[f"{language} R@1"], marks[f"{language} R@10"] = recall(scores, 1), recall(scores, 10)
    found = (read(exam.names) @ shown.T).numpy().argmax(axis=1)
    marks["name P@1"] = float(exam.shows[np.arange(len(found)), found].mean())
    if len(exam.photos.labels):
        asked = read([f"a photo of a {label}" for label in LABELS])
        photos = see(list(exam.photos.pixels))
        marks["photo P@10"] = precision(
            (asked @ photos.T).numpy(), exam.photos.labels == np.arange(len(asked))[:, None], 10
        )
    model.train()
    return marks
