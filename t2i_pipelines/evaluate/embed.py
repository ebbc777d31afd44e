"""Images and texts of pairs to vectors, by the steps of the insert and search pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.cached_texts import CachedTexts
from t2i_pipelines.encoders.vectors import unit
from t2i_pipelines.errors import QueryError, VectorError
from t2i_pipelines.evaluate.directions import Embedded
from t2i_pipelines.evaluate.pairs import Pairs, refused
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.operators.normalize import Normalize
from t2i_pipelines.operators.read_source import ReadSource
from t2i_pipelines.search.query import check_text, templates_of
from t2i_pipelines.types import Encoder, Outcome, Vector

TEXTS_A_PASS = 64
ALONE = 32
"""Texts that are embedded one at a time, to see how long one takes."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


class Texts(NamedTuple):
    """Texts as vectors, and how long that took.

    :ivar seconds: for all, in passes of 64.
    :ivar ms: median of one alone.
    """

    embedded: Embedded
    failed: list[Outcome]
    seconds: float
    ms: float


def embed_pictures(
    pairs: Pairs, model: dict[str, Any], batch_size: int, on_progress: OnProgress | None
) -> tuple[Embedded, list[Outcome]]:
    """Read, decode, embed and normalise every image; the outcomes of those that failed."""
    steps = (ImageDecode(**model), Clip(**model, modality="image"), Normalize())
    numbers: list[int] = []
    vectors: list[Vector] = []
    failed: list[Outcome] = []
    done = 0
    for batch in ReadSource(batch_size)([{"path": path} for path in pairs.pictures]):
        for step in steps:
            step(batch)
        for record in batch:
            if record.vector is not None:
                numbers.append(done)
                vectors.append(record.vector)
            else:
                failed.append(record.outcome)
            done += 1
        if on_progress is not None:
            on_progress("images", done, len(pairs.pictures))
    return _together(numbers, vectors, len(pairs.pictures), load_encoder(**model)), failed


def embed_texts(
    pairs: Pairs, encoder: Encoder, templates: str | Sequence[str], on_progress: OnProgress | None
) -> Texts:
    """Embed and normalise every text, as a search does but without what it remembers of earlier ones."""
    filled_into = templates_of(templates)
    sound, failed = _checked(pairs)
    embed = CachedTexts(encoder)
    vectors: list[Vector] = []
    numbers: list[int] = []
    if sound:
        embed([pairs.texts[sound[0]]], filled_into)  # loads the model
        embed = CachedTexts(encoder)
    seconds = 0.0
    for at in range(0, len(sound), TEXTS_A_PASS):
        some = sound[at : at + TEXTS_A_PASS]
        began = perf_counter()
        passed = embed([pairs.texts[number] for number in some], filled_into)
        seconds += perf_counter() - began
        for number, vector in zip(some, passed, strict=True):
            try:
                vectors.append(unit(vector))
                numbers.append(number)
            except VectorError as err:
                failed.append(_refused(pairs, number, f"cannot embed {pairs.texts[number]!r:.80}: {err}"))
        if on_progress is not None:
            on_progress("texts", at + len(some), len(sound))
    embedded = _together(numbers, vectors, len(pairs.texts), encoder)
    return Texts(
        embedded, failed, seconds, _alone([pairs.texts[n] for n in sound[:ALONE]], encoder, filled_into)
    )


def _checked(pairs: Pairs) -> tuple[list[int], list[Outcome]]:
    sound, failed = [], []
    for number, text in enumerate(pairs.texts):
        try:
            check_text(text)
            sound.append(number)
        except QueryError as err:
            failed.append(_refused(pairs, number, f"cannot ask {text!r:.80}: {err}"))
    return sound, failed


def _refused(pairs: Pairs, number: int, reason: str) -> Outcome:
    return refused(pairs.pictures[pairs.shown[number][0]], reason)


def _alone(texts: list[str], encoder: Encoder, templates: Sequence[str]) -> float:
    times = []
    for text in texts:
        began = perf_counter()
        CachedTexts(encoder)([text], templates)
        times.append(perf_counter() - began)
    return 1000 * float(np.median(times)) if times else float("nan")


def _together(numbers: list[int], vectors: list[Vector], total: int, encoder: Encoder) -> Embedded:
    matrix = np.stack(vectors) if vectors else np.empty((0, encoder.space.dim), np.float32)
    return Embedded(matrix, np.array(numbers, np.int64), total)
