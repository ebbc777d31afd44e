"""The queries that relevance is calibrated against, and their vectors."""

from __future__ import annotations

import logging
import tempfile
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2i_pipelines.types import Encoder, Matrix

BATCH = 64

log = logging.getLogger("t2i_pipelines.search.relevance")


class Background(NamedTuple):
    """Queries of all kinds.

    :ivar everyday: what may well be in a collection.
    :ivar elsewhere: what hardly any image shows: nonsense, what cannot be seen, what does not go together.
    """

    everyday: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Changes with the queries."""
        return blake2b(repr(tuple(self)).encode(), digest_size=8).hexdigest()


class Embedded(NamedTuple):
    """The same queries as unit vectors: two (N, D) float32."""

    everyday: Matrix
    elsewhere: Matrix


@cache
def background() -> Background:
    """The queries of ``background.txt``."""
    text = resources.files(__package__).joinpath("background.txt").read_text(encoding="utf-8")
    parts: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            lines = parts.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    everyday = tuple(parts.pop("everyday"))
    return Background(everyday, tuple(query for lines in parts.values() for query in lines))


def embedded(encoder: Encoder) -> Embedded:
    """The background in a model's space: embedded once, then read from the disk.

    It is kept in the assets cache of ``huggingface_hub``; where that cannot be written, it is embedded by
    each process that calibrates.
    """
    asked = background()
    file = _file(encoder)
    vectors = _read(file, sum(map(len, asked)), encoder.space.dim)
    if vectors is None:
        texts = [*asked.everyday, *asked.elsewhere]
        parts = [encoder.encode_texts(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        vectors = np.concatenate(parts).astype(np.float32)
        _write(file, vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    there = lengths[:, 0] > 0
    ends = len(asked.everyday)
    return Embedded(units[:ends][there[:ends]], units[ends:][there[ends:]])


def _file(encoder: Encoder) -> Path:
    from huggingface_hub import cached_assets_path

    folder = cached_assets_path("t2i_pipelines", "background", encoder.space.weights)
    return folder / f"{background().digest}.npy"


def _read(file: Path, count: int, dim: int) -> Matrix | None:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or cut off
        return None
    sound = vectors.shape == (count, dim) and vectors.dtype == np.float32 and bool(np.isfinite(vectors).all())
    return vectors if sound else None


def _write(file: Path, vectors: Matrix) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            np.save(part, vectors)
        Path(part.name).replace(file)
    except OSError as err:
        log.info("the background of relevance is not kept: cannot write %s (%s)", file, err)
