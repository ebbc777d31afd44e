"""Vectors that ``t2i_mini`` gives real images and captions, for measuring search on; made once and kept.

Random vectors would mislead: an index finds them harder, or with clusters drawn by hand easier, than
those of a model.
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.types import Image, Matrix

MODEL = "t2i_mini"
GALLERY = Path(__file__).parent.parent / "data" / "gallery.csv"
LANGUAGES = ("en", "es", "zh", "de", "it")
A_BATCH = 256


def own_vectors(count: int, photos: Path | None, workdir: Path) -> tuple[Matrix, Matrix, str]:
    """``count`` images and the gallery's captions as unit vectors, and where the images are from.

    The images are the gallery's and, where there is an archive, its photographs, as they are; then random
    parts of them, at least 0.6 wide and high, half of them mirrored, each a little lighter or darker.

    :param photos: tar.gz of images, such as CIFAR-10's training files.
    :param workdir: keeps the vectors for the next time.
    :return: (count, D) float32, (Q, D) float32, a line for the reader.
    """
    encoder = load_encoder(MODEL)
    source = "gallery" if photos is None else photos.parent.name
    file = workdir / f"{MODEL}-{encoder.space.weights[:8]}-{source}-{count}.npz"
    if not file.exists():
        chosen, parts = islice(_pictures(photos), count), []
        while some := list(islice(chosen, A_BATCH)):
            parts.append(encoder.encode_images(some))
        vectors = np.concatenate(parts)
        workdir.mkdir(parents=True, exist_ok=True)
        np.savez(file, vectors=_unit(vectors), queries=_unit(encoder.encode_texts(captions())))
    with np.load(file) as kept:
        vectors, queries = kept["vectors"], kept["queries"]
    note = f"the gallery{' and ' + str(photos) if photos else ''}, as they are and random parts of them"
    return vectors, queries, f"{count:,} images ({note}), {len(queries):,} captions, by {MODEL}"


def captions() -> list[str]:
    """What the gallery's images show, in five languages."""
    with GALLERY.open(encoding="utf-8", newline="") as file:
        return [row[f"caption_{language}"] for row in csv.DictReader(file) for language in LANGUAGES]


def _unit(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _pictures(photos: Path | None) -> Iterator[Image]:
    yield from _originals(photos)
    random = np.random.default_rng(0)
    while True:
        for picture in _originals(photos):
            yield _part(picture, random)


def _originals(photos: Path | None) -> Iterator[Image]:
    for path in sorted(GALLERY.with_suffix("").iterdir()):
        yield _decoded(path.read_bytes())
    if photos is not None:
        with tarfile.open(photos) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    yield _decoded(file.read())


def _decoded(content: bytes) -> Image:
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _part(picture: Image, random: np.random.Generator) -> Image:
    size = np.asarray(picture.shape[:2])
    kept = np.maximum(1, (size * random.uniform(0.6, 1, 2)).astype(int))
    top, left = random.integers(0, size - kept + 1)
    part = picture[top : top + kept[0], left : left + kept[1]]
    if random.random() < 0.5:
        part = part[:, ::-1]
    return np.clip(part * random.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
