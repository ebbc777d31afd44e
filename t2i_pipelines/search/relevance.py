"""How much a score means: relevance in [0, 1], for one model on one collection.

A cosine says little by itself. CLIP's are low even where words and image agree, there is a best hit for
nonsense too, and both depend on the model, on the collection and on the kind of query. So a background of
queries (``background.txt``) is searched for in the collection, and the score of each one's best hit kept.
Those tell what the best hit of a query scores that nothing in the collection answers; relevance tells how
far a hit is above that.

- The more is said, the lower such scores: ``a lion`` comes closer to some image than ``a lion with an
  accordion on a ferry``. How general a query is, is its mean cosine to the background's texts; level and
  spread of the background's best scores are fitted as straight lines over it.
- The background may name what the collection shows. What cannot be there, because it is nonsense, cannot be
  seen, or is hardly ever seen together, is fitted first; of the everyday concepts those count that do not
  stand out against these.
- A hit ``z`` spreads above the level has the relevance whose odds are ``(1 - p) / p`` times those of one
  unrelated query in twenty, ``p`` being the normal tail beyond ``z``. At 0.5 it is as good as the best hit
  of that one in twenty. When the best hit is below 0.1, as two thirds of those of unrelated queries are,
  nothing matches.

It is a heuristic. It knows nothing but scores, so what the model takes for something else is relevant to it,
and what the model does not recognise is not. The idea of judging a score by those of a bank of other queries
is that of QB-Norm (Bogolin et al. 2022, arXiv:2112.12777) and CSLS (Conneau et al. 2018, arXiv:1710.04087);
they correct each image by it, where here the query is judged, so that the order of hits stays that of
their scores.

The score of a best hit that answers nothing, fitted to the background; and relevance from it.

Where the calibration of a collection comes from: memory, the collection itself, or a search.

Relevance on hits.

The queries that relevance is calibrated against, and their vectors.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from math import erfc, pi, sqrt
from pathlib import Path
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import StoreError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Q, Query
from t2i_pipelines.types import Encoder, Matrix, Vector

Numbers = NDArray[np.float64]

MATCH = 0.5
"""The relevance from which on a hit matches: 5 % of the best hits of unanswered queries reach it."""

NO_MATCH = 0.1
"""The relevance below which the best hit says that nothing matches, as two thirds of unanswered queries do.

Between the two, the scores of a small model do not decide, and nothing is claimed.
"""

STANDS_OUT = 1.645
"""Spreads above the level at which a hit's relevance is :data:`MATCH`. A normal tail has 1/20 beyond."""

SUSPECT = 2.5
"""Spreads above what nothing answers at which an everyday concept is taken to be in the collection."""

HUBER = 1.345
"""Residuals beyond count less; 95 % efficient on normal data (Huber, "Robust Statistics", 1981)."""

MAD = 1.4826
"""A normal standard deviation in median absolute deviations."""

LEAST_SPREAD = 1e-4
"""Of cosines. Where the background's scores differ less, a model does not tell queries apart."""

VERSION = 1
"""Version of the stored form and of the numbers' meaning."""


@dataclass(frozen=True)
class Calibration:
    """The score of the best hit where nothing in the collection answers the query.

    With the generality ``g`` of a query, its mean cosine to the background, cut to what the background has:
    ``level[0] + level[1] * g``, give or take ``max(spread[0] + spread[1] * g, floor)``.

    :ivar rows: how many images the collection had.
    :ivar background: digest of the queries.
    :ivar weights: digest of the model, as in its :class:`~t2i_pipelines.types.Space`.
    :ivar centre: (D,) float32, mean of the background's unit vectors.
    :ivar general: least and greatest generality in the background.
    :ivar level: of the scores, in cosines.
    :ivar spread: a standard deviation, in cosines.
    :ivar floor: the spread is not less.
    """

    rows: int
    background: str
    weights: str
    centre: Vector
    general: tuple[float, float]
    level: tuple[float, float]
    spread: tuple[float, float]
    floor: float

    def standing_out(self, generality: Any, scores: Any) -> Numbers:
        """Spreads above the level, of scores of queries of this generality. Shapes broadcast."""
        at = np.clip(np.asarray(generality, np.float64), *self.general)
        spread = np.maximum(self.spread[0] + self.spread[1] * at, self.floor)
        out: Numbers = (np.asarray(scores, np.float64) - self.level[0] - self.level[1] * at) / spread
        return out

    def relevance(self, query: Vector, scores: Sequence[float]) -> list[float]:
        """Relevance of hits, in [0, 1]; a higher score is never less relevant.

        :param query: (D,), unit length.
        :param scores: of its hits, cosines.
        """
        return [_relevance(z) for z in self.standing_out(float(query @ self.centre), scores).tolist()]

    def to_json(self) -> str:
        """As it is stored."""
        plain = asdict(self) | {"centre": b64encode(self.centre.astype("<f4").tobytes()).decode()}
        return json.dumps({"version": VERSION, **plain})

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Read the stored form; None if it is of another version, or cannot be read."""
        try:
            plain = json.loads(text)
            if plain.pop("version") != VERSION:
                return None
            pairs = {name: tuple(map(float, plain[name])) for name in ("general", "level", "spread")}
            centre = np.frombuffer(b64decode(plain["centre"]), "<f4").astype(np.float32)
            return cls(**plain | pairs | {"centre": centre})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def calibrate(
    everyday: Matrix, elsewhere: Matrix, tops: Sequence[float], *, rows: int, background: str, weights: str
) -> Calibration | None:
    """Fit level and spread to the best scores of the background.

    :param everyday: (N, D) unit vectors of queries that the collection may answer.
    :param elsewhere: (M, D) unit vectors of queries that it hardly does.
    :param tops: the score of the best hit of each, N + M cosines.
    :return: None where the model does not tell the queries apart.
    """
    texts = np.concatenate([everyday, elsewhere]).astype(np.float64)
    scores = np.asarray(tops, np.float64)
    centre = texts.mean(axis=0).astype(np.float32)
    generality = texts @ centre
    sure = np.arange(len(texts)) >= len(everyday)

    def fit(chosen: NDArray[np.bool_]) -> Calibration | None:
        lines = _lines(generality[chosen], scores[chosen])
        if lines is None:
            return None
        level, spread, floor = lines
        ends = float(generality.min()), float(generality.max())
        return Calibration(rows, background, weights, centre, ends, level, spread, floor)

    first = fit(sure)
    if first is None:
        return None
    return fit(sure | (first.standing_out(generality, scores) < SUSPECT))


def _lines(at: Numbers, scores: Numbers) -> tuple[tuple[float, float], tuple[float, float], float] | None:
    """Straight lines over ``at``: the level of the scores, their spread, and the least spread."""
    design = np.stack([np.ones_like(at), at], axis=1)
    trust = np.ones_like(scores)
    for _ in range(20):  # iteratively reweighted least squares; a handful would do
        root = np.sqrt(trust)
        level = np.linalg.lstsq(design * root[:, None], scores * root, rcond=None)[0]
        off = np.abs(scores - design @ level)
        usual = MAD * float(np.median(off))
        if usual < LEAST_SPREAD:
            return None
        trust = np.minimum(1.0, HUBER * usual / np.maximum(off, LEAST_SPREAD * usual))
    # the mean absolute deviation of normal data is sqrt(2 / pi) standard deviations
    spread = np.linalg.lstsq(design, np.minimum(off, 3 * usual), rcond=None)[0] * sqrt(pi / 2)
    return (float(level[0]), float(level[1])), (float(spread[0]), float(spread[1])), usual / 3


def _tail(z: float) -> float:
    """Return the part of a normal distribution beyond ``z`` standard deviations."""
    return erfc(z / sqrt(2)) / 2


def _relevance(z: float) -> float:
    """The number in [0, 1] whose odds are ``(1 - p) / p`` times those of the tail at :data:`STANDS_OUT`."""
    beyond, rare = _tail(z), _tail(STANDS_OUT)
    return rare * (1 - beyond) / (rare * (1 - beyond) + beyond * (1 - rare))


BATCH = 64


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
    """Return the queries of ``background.txt``."""
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
    """Return the background in a model's space: embedded once, then read from the disk.

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


NOTE = "t2i_relevance"
"""The property of a collection that holds its calibration."""

LEAST_ROWS = 10
"""Fewer images are not calibrated for: one look shows all of them."""

GROWN = 1.5
"""Factor by which the number of images must change before the calibration is repeated."""

RECHECK = 5.0
"""Seconds after which a collection is looked at again; more where looking takes more than 1/200 of it."""

log = logging.getLogger("t2i_pipelines.search.relevance")


class _Kept:
    """What this process knows of one collection."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.state: Entry | None = None
        self.until = 0.0
        self.calibration: Calibration | None = None
        self.is_stored = False
        self.warned = False

    def holds(self, collection: Collection, now_there: Entry | None) -> bool:
        return time.monotonic() < self.until and collection.is_unchanged(self.state, now_there)


_lock = Lock()
_kept: WeakKeyDictionary[Collection, _Kept] = WeakKeyDictionary()


def calibration_of(collection: Collection, encoder: Encoder) -> Calibration | None:
    """Return the calibration of a collection for its model, made if there is none or it has grown out of it.

    The first search of a collection makes it, and stores it with the collection; where that is refused, it
    stays in memory. It takes one search for the background, a few hundred queries, and for the first
    collection of a model their embedding. Others who search meanwhile wait for it.

    :return: None where there are too few images, or where it failed; the log then has one warning.
    """
    with _lock:
        kept = _kept.setdefault(collection, _Kept())
    now_there: Entry | None = None
    try:
        now_there = collection.entry()
        if now_there is None:
            return None
        if not kept.holds(collection, now_there):
            with kept.lock:
                if not kept.holds(collection, now_there):
                    _look(kept, now_there, collection, encoder)
    except Exception as err:  # relevance is an extra; the hits are there without it
        if kept.state != now_there:
            kept.calibration = None
        kept.state, kept.until = now_there, time.monotonic() + 60 * RECHECK
        if not kept.warned:
            kept.warned = True
            log.warning("no relevance for %r: %s: %s", collection, type(err).__name__, err)
    return kept.calibration


def _look(kept: _Kept, now_there: Entry | None, collection: Collection, encoder: Encoder) -> None:
    began = time.monotonic()
    rows = collection.count()
    found = _stored(collection, encoder)
    is_stored = found is not None
    if not is_stored and not kept.is_stored and kept.state == now_there:
        found = kept.calibration  # which could not be stored; what was and is not there belongs to another
    took = time.monotonic() - began
    if rows < LEAST_ROWS:
        found = None
    elif found is None or not found.rows / GROWN < rows < found.rows * GROWN:
        found = _made(collection, encoder, rows)
        is_stored = found is not None and _store(collection, found)
    kept.calibration, kept.is_stored = found, is_stored
    kept.state, kept.until = now_there, time.monotonic() + max(RECHECK, 200 * took)


def _stored(collection: Collection, encoder: Encoder) -> Calibration | None:
    """Return the stored calibration, if it is of this model and this background."""
    text = collection.read_note(NOTE)
    found = Calibration.from_json(text) if text else None
    if found is None or (found.weights, found.background) != (encoder.space.weights, background().digest):
        return None
    return found


def _made(collection: Collection, encoder: Encoder, rows: int) -> Calibration | None:
    texts = embedded(encoder)
    best = [collection.search(part, limit=1) for part in texts]
    # an index may find nothing for one of them
    parts = [part[[bool(hits) for hits in found]] for part, found in zip(texts, best, strict=True)]
    made = calibrate(
        parts[0],
        parts[1],
        [hits[0].score for found in best for hits in found if hits],
        rows=rows,
        background=background().digest,
        weights=encoder.space.weights,
    )
    log.info("calibrated relevance for %r on %d images", collection, rows)
    return made


def _store(collection: Collection, calibration: Calibration) -> bool:
    try:
        collection.write_note(NOTE, calibration.to_json())
    except StoreError as err:
        log.info("the calibration of %r stays in memory: %s", collection, err)
        return False
    return True


def rate(
    found: Sequence[Hits],
    vectors: Matrix,
    options: SearchOptions,
    collection: Collection,
    encoder: Callable[[], Encoder],
) -> None:
    """Give hits their relevance, leave out those below ``min_relevance``, and tell if nothing matches.

    Words are calibrated, and sums of words. Where an image or a stored vector has a part, or a minus, the
    cosines are of another kind: such hits have no relevance, and none of them is left out.

    :param found: the hits of each query, which know it; changed in place.
    :param vectors: (N, D) float32.
    :param encoder: gives the model.
    """
    words = [(hits, vector) for hits, vector in zip(found, vectors, strict=True) if is_words(hits.query)]
    calibration = calibration_of(collection, encoder()) if words else None
    if calibration is not None:
        for hits, vector in words:
            _rate(hits, vector, options, calibration)


def is_words(query: object) -> bool:
    """Return whether nothing but words was asked for, and nothing was taken away.

    A vector alone does not tell.
    """
    if isinstance(query, Query):
        return all(isinstance(operand, Q) and weight > 0 for weight, operand in query.terms)
    return isinstance(query, str)


def _rate(hits: Hits, vector: Vector, options: SearchOptions, calibration: Calibration) -> None:
    direction = vector / np.linalg.norm(vector)
    relevances = calibration.relevance(direction, [hit.score for hit in hits])
    for hit, relevance in zip(hits, relevances, strict=True):
        hit.relevance = relevance
    may_match = any(hit.relevance is not None and hit.relevance >= NO_MATCH for hit in hits)
    # of a later page the best hit may be on the first
    hits.no_match = None if options.offset and not may_match else not may_match
    hits[:] = [hit for hit in hits if hit.relevance is None or hit.relevance >= options.min_relevance]
