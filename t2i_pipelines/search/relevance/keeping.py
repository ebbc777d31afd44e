"""Where the calibration of a collection comes from: memory, the collection itself, or a search."""

from __future__ import annotations

import logging
import time
from weakref import WeakKeyDictionary

from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.notes import is_same, read_note, state, write_note
from t2i_pipelines.errors import StoreError
from t2i_pipelines.locks import Lock
from t2i_pipelines.search.relevance.background import background, embedded
from t2i_pipelines.search.relevance.calibration import Calibration, calibrate
from t2i_pipelines.types import Encoder

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
        self.state: object = None
        self.until = 0.0
        self.calibration: Calibration | None = None
        self.is_stored = False
        self.warned = False

    def holds(self, collection: Collection, now_there: object) -> bool:
        return time.monotonic() < self.until and is_same(collection, self.state, now_there)


_lock = Lock()
_kept: WeakKeyDictionary[Collection, _Kept] = WeakKeyDictionary()


def calibration_of(collection: Collection, encoder: Encoder) -> Calibration | None:
    """The calibration of a collection for its model, made if there is none or it has grown out of it.

    The first search of a collection makes it, and stores it with the collection; where that is refused, it
    stays in memory. It takes one search for the background, a few hundred queries, and for the first
    collection of a model their embedding. Others who search meanwhile wait for it.

    :return: None where there are too few images, or where it failed; the log then has one warning.
    """
    with _lock:
        kept = _kept.setdefault(collection, _Kept())
    now_there = None
    try:
        now_there = state(collection)
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


def _look(kept: _Kept, now_there: object, collection: Collection, encoder: Encoder) -> None:
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
    """What the collection holds, if it is of this model and this background."""
    text = read_note(collection, NOTE)
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
        write_note(collection, NOTE, calibration.to_json())
    except StoreError as err:
        log.info("the calibration of %r stays in memory: %s", collection, err)
        return False
    return True
