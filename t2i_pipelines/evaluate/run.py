"""Evaluate a model on pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from t2i_pipelines.config.checks import check_whole_number, filled, templates_of
from t2i_pipelines.config.settings import DEFAULT_MODEL, MAX_BATCH_SIZE, Settings
from t2i_pipelines.config.storage import AUTO
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ConfigError, SourceError, VectorError
from t2i_pipelines.evaluate.index import (
    ALONE,
    OnProgress,
    Place,
    Texts,
    embed_images,
    embed_texts,
    through_index,
)
from t2i_pipelines.evaluate.metrics import DEPTH, Bootstrap, rank_units, require_library, units
from t2i_pipelines.evaluate.pairs import AnyPairs, Pairs
from t2i_pipelines.evaluate.reading import (
    DEFAULT,
    TEXT_TO_IMAGE,
    Direction,
    Embedded,
    check_ways,
    measure,
)
from t2i_pipelines.evaluate.report import Evaluation, Speed
from t2i_pipelines.types import Backend, Device, Encoder, Matrix, Precision


def evaluate(
    pairs: AnyPairs,
    *,
    model_name: str = DEFAULT_MODEL,
    checkpoint_path: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
    directions: Sequence[str] = DEFAULT,
    templates: str | Sequence[str] = (),
    uri: str | os.PathLike[str] | None = None,
    token: str = "",
    collection_name: str | None = None,
    index_type: str = AUTO,
    batch_size: int = Settings.batch_size,
    confidence: float = Bootstrap.confidence,
    resamples: int = Bootstrap.resamples,
    seed: int = Bootstrap.seed,
    label: str = "",
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure how well a model finds the right images: ``print(evaluate("data/gallery.csv"))``.

    Images and texts are embedded as by the pipelines, and every query is compared with every image: that
    tells what the model knows. With a ``uri`` the same queries go through Milvus too: that tells what
    the index loses. What cannot be embedded counts as not found, and is named in ``failed``.

    :param pairs: what :meth:`Pairs.of` takes, such as a list of (image, caption), a table, a file of
        captions as Flickr30k and COCO have it, or a folder of class folders.
    :param model_name: with ``checkpoint_path``, ``device``, ``precision``, ``backend``, ``templates`` and
        ``batch_size``, see :class:`~t2i_pipelines.config.Settings`.
    :param directions: some of ``text->image``, ``image->text`` and ``image->image``, the last by class.
    :param uri: of a Milvus Lite file or server; None leaves Milvus out.
    :param collection_name: None makes a collection of these images, and drops it at the end. A name takes
        that one as it is: nothing is written, and its other images are found too.
    :param index_type: of the collection that is made.
    :param confidence: of the bootstrap intervals, between 0 and 1.
    :param resamples: of the bootstrap, 10 to 100,000.
    :param seed: the same seed, the same intervals.
    :param label: what it is called in tables; made of model and precision, if left out.
    :param on_progress: called with ``images`` or ``texts``, how many are done, and how many there are.
    :raises ConfigError: If a setting is wrong.
    :raises SourceError: If there are no pairs, or no image at all can be embedded; names the first failure.
    :raises MissingExtraError: If ``ir_measures`` is not installed.
    """
    asked, bootstrap = Pairs.of(pairs), Bootstrap(confidence, resamples, seed)
    ways = check_ways(directions, asked)
    if uri is None and (collection_name is not None or token):
        raise ConfigError(f"collection_name={collection_name!r} needs a uri, such as uri='milvus.db'")
    if uri is not None and TEXT_TO_IMAGE not in ways:
        raise ConfigError(
            f"through Milvus goes {TEXT_TO_IMAGE}, which is not among directions={directions!r}"
        )
    check_whole_number("batch_size", batch_size, MAX_BATCH_SIZE)
    templates_of(templates)
    require_library()
    model: dict[str, Any] = {
        "model_name": model_name,
        "checkpoint_path": None if checkpoint_path is None else os.fspath(checkpoint_path),
        "device": device,
        "precision": precision,
        "backend": backend,
    }
    Settings.of(**model)
    encoder = load_encoder(**model)
    images, failed = embed_images(asked, model, batch_size, on_progress)
    if not len(images.vectors):
        raise SourceError(f"none of {len(failed):,} images could be embedded; the first: {failed[0].reason}")
    texts = embed_texts(asked, encoder, templates, on_progress)
    found: dict[str, Direction] = {
        way: measure(way, asked, texts.embedded, images, bootstrap) for way in ways
    }
    place = None if uri is None else Place(uri, token, collection_name, index_type)
    running = getattr(encoder, "running", None)
    return Evaluation(
        label=label or _label(model_name, precision, backend),
        model_name=str(model_name),
        running=str(running) if running else "",
        space=encoder.space,
        pairs=asked,
        directions=found,
        failed=(*asked.failed, *failed, *texts.failed),
        cut=_cut(encoder, asked, templates),
        speed=_speed(texts, images),
        index=None
        if place is None
        else through_index(
            place,
            asked,
            found[TEXT_TO_IMAGE],
            texts.embedded,
            images,
            encoder.space,
            bootstrap,
            texts.seconds,
        ),
        confidence=confidence,
    )


def evaluate_vectors(
    pairs: AnyPairs,
    texts: Matrix,
    images: Matrix,
    *,
    directions: Sequence[str] = DEFAULT,
    confidence: float = Bootstrap.confidence,
    resamples: int = Bootstrap.resamples,
    seed: int = Bootstrap.seed,
    label: str = "vectors",
) -> Evaluation:
    """As :func:`evaluate`, of vectors that you have, such as those of a model in training.

    :param texts: (len(pairs.texts), D) float32, of any length.
    :param images: (images, D) float32, one a row of the pairs, of any length.
    :raises VectorError: If there are more or fewer, or one is zero or not finite.
    """
    asked, bootstrap = Pairs.of(pairs), Bootstrap(confidence, resamples, seed)
    ways = check_ways(directions, asked)
    if (len(texts), len(images)) != (len(asked.texts), len(asked.images)):
        raise VectorError(
            f"the pairs have {len(asked.texts):,} texts and {len(asked.images):,} images; "
            f"got {len(texts):,} and {len(images):,} vectors"
        )
    require_library()
    words, seen = Embedded.whole(units(texts, "text")), Embedded.whole(units(images, "image"))
    found: dict[str, Direction] = {way: measure(way, asked, words, seen, bootstrap) for way in ways}
    return Evaluation(label, "", "", None, asked, found, asked.failed, confidence=confidence)


def _label(model_name: object, precision: str, backend: str) -> str:
    chosen = [one for one in (precision, backend) if one != "auto"]
    return " ".join([str(model_name), *chosen])


def _cut(encoder: Encoder, pairs: Pairs, templates: str | Sequence[str]) -> int | None:
    cut = getattr(encoder, "cut", None)
    if cut is None:
        return None
    longest = [max(filled(templates_of(templates), text), key=len) for text in pairs.texts]
    return int(cut(longest))


def _speed(texts: Texts, images: Embedded) -> Speed:
    """Times of the exact search; those of embedding were taken already."""
    queries = texts.embedded.vectors
    if not len(queries):
        return Speed(float("nan"), float("nan"), float("nan"))
    began = perf_counter()
    rank_units(queries, images.vectors, [[0]] * len(queries), DEPTH)
    together = perf_counter() - began
    alone = []
    for query in queries[:ALONE]:
        began = perf_counter()
        rank_units(query[None], images.vectors, [[0]], DEPTH)
        alone.append(perf_counter() - began)
    return Speed(len(queries) / (texts.seconds + together), texts.ms, 1000 * float(np.median(alone)))
