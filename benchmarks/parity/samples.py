"""The images and texts that families are compared on, and how.

A family is a function ``(folder, size) -> Library``: it writes what is published of it into the folder
(config, weights, tokenizer, preprocessing settings) and gives what the family's own library computes.
``size`` is ``small``, for tests, or ``true``, the shape of a published model. Weights are random. Tokenizers
have few tokens, the embeddings of true models the full number, or 60,000.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import gc
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.images import decode

DATA = Path(__file__).parents[2] / "data"
LANGUAGES = ("en", "es", "zh", "de", "it")
Size: TypeAlias = Literal["small", "true"]


class Library(NamedTuple):
    """A family's own library.

    :ivar name: of the library, for the table.
    :ivar images: N images as Pillow opens them -> (N, D).
    :ivar texts: N texts -> (N, D).
    :ivar open: opens what was written by this package; None is by the folder.
    """

    name: str
    images: Callable[[list[Any]], Any]
    texts: Callable[[list[str]], Any]
    open: Callable[[], Any] | None = None


Family: TypeAlias = Callable[[Path, Size], Library]


class Figures(NamedTuple):
    """Least cosines of a family's vectors with its library's.

    :ivar library: its own.
    """

    library: str
    images: float
    texts: float


def free() -> None:
    """Return the memory of models that nothing refers to but themselves."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def write_json(path: Path, content: Any) -> None:
    """Write settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def sample_images(count: int = 20) -> list[bytes]:
    """PNG files: landscape, portrait, square, of odd sides, thin, grey, with a palette, transparent."""
    paths = [*sorted((DATA / "photographs").iterdir())[::5], *sorted((DATA / "gallery").iterdir())[::7]]
    files = []
    for number, path in enumerate(paths[:count]):
        image = Pillow.open(path).convert("RGB")
        width, height = image.size
        image = image.crop((0, 0, width - number % 3, height - number % 5))
        if number % 4 == 1:
            image = image.transpose(Pillow.Transpose.ROTATE_90)
        if number % 6 == 2:
            image = image.resize((image.width * 2 // 3, image.height))
        if number == 3:
            image = ImageOps.fit(image, (301, 301))
        if number == 4:
            image = ImageOps.grayscale(image)
        if number == 7:
            image = image.convert("P")
        if number in (6, 11):
            image.putalpha(Pillow.linear_gradient("L").resize(image.size))
        if number == 9:
            image = image.crop((0, 0, image.width, 53))
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append(file.getvalue())
    return files


def sample_texts(count: int = 20) -> list[str]:
    """Captions in five languages, by turns."""
    with (DATA / "gallery.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [rows[n][f"caption_{LANGUAGES[n % len(LANGUAGES)]}"] for n in range(count)]


def least_cosines(family: Family, folder: Path, size: Size, count: int = 20) -> Figures:
    """Write a family, and compare its library's vectors of ``count`` images and texts with ours."""
    files, texts = sample_images(count), sample_texts(count)
    library = family(folder, size)
    with torch.inference_mode():
        images = np.asarray(library.images([Pillow.open(io.BytesIO(one)) for one in files]))
        wanted = np.asarray(library.texts(texts))
    if max(_spread(images), _spread(wanted)) > 0.9999:
        raise ValueError(f"two vectors of {library.name} are one, so that a cosine proves nothing")
    name, opened = library.name, library.open
    del library
    free()
    encoder = opened() if opened else load_encoder(str(folder), device="cpu", precision="fp32")
    found = np.concatenate([encoder.encode_images([decode(one)]) for one in files])
    return Figures(name, _least(found, images), _least(encoder.encode_texts(texts), wanted))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _least(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float((_unit(ours) * _unit(theirs)).sum(1).min())


def _spread(vectors: np.ndarray) -> float:
    """Return the highest cosine of two different rows: parity means nothing if all rows are one."""
    return float((_unit(vectors) @ _unit(vectors).T - 2 * np.eye(len(vectors))).max())
