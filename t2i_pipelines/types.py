"""What flows through the pipelines, what a model must offer, and the time and skipped files of a run."""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Compute", "Encoder", "Hit", "Outcome", "Reason", "Record", "Skipped", "Space"]

STAGES = ("scan", "compare", "preview", "load", "read", "look up", "decode", "encode", "insert", "delete")
"""In the order of a run: ``scan`` and ``compare`` the collection with the source, ``preview`` the outcomes of
a dry run, ``load`` the model, ``read`` source and files, ``look up`` what is stored."""

log = logging.getLogger("t2i_pipelines.ingest")
log.addHandler(logging.NullHandler())


class Skipped:
    """Count the files and folders that a source leaves out, by kind and reason. Thread-safe.

    :ivar counts: (kind, reason) -> how many; the kind is a suffix such as ``.mp4``, a folder such as
        ``@eaDir/``, or a glob that excludes it.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Skipped], tuple[()]]:
        return Skipped, ()

    def add(self, kind: str, reason: str, count: int = 1) -> None:
        """Count files or folders of one kind."""
        with self._lock:
            self.counts[kind, reason] += count

    def update(self, other: Skipped) -> None:
        """Add the counts of another part of the same run."""
        for (kind, reason), count in other.snapshot():
            self.add(kind, reason, count)

    def snapshot(self) -> list[tuple[tuple[str, str], int]]:
        """Return ((kind, reason), count) in the order of first sight."""
        with self._lock:
            return list(self.counts.items())

    @property
    def total(self) -> int:
        """How many files and folders were skipped."""
        return sum(count for _, count in self.snapshot())

    def summary(self) -> str:
        """Return one line, such as ``12 skipped: 7 .cr2 (camera RAW, ...), 5 .mp4 (video)``, or nothing."""
        found = self.snapshot()
        parts = [f"{count:,} {kind} ({reason})" for (kind, reason), count in found]
        return f"{self.total:,} skipped: {', '.join(parts)}" if found else ""

    def as_list(self) -> list[dict[str, Any]]:
        """Return the counts as JSON types."""
        return [{"kind": kind, "reason": reason, "count": count} for (kind, reason), count in self.snapshot()]


class Stopwatch:
    """The busy seconds of each stage of one run. Thread-safe. A copy starts empty.

    :param now: the time in seconds, from any start.
    :ivar counts: how many records ended with each status so far.
    :ivar hints: stage -> the setting, with its value, that would make this stage faster.
    :ivar skipped: files and folders that the source left out.
    :ivar pace: what each step works within that computes; may make it wait before it begins.
    """

    def __init__(self, now: Callable[[], float] = perf_counter, pace: Pace = nullcontext) -> None:
        self.counts: Counter[str] = Counter()
        self.hints: dict[str, str] = {}
        self.skipped = Skipped()
        self._now, self.pace = now, pace
        self.began = self.ended = now()
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._threads: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Stopwatch], tuple[()]]:
        return Stopwatch, ()

    @contextmanager
    def busy(self, stage: str, records: Sequence[Any] = (), *, is_paced: bool = True) -> Iterator[None]:
        """Count the wall time of the block for a stage. Steps of one run work at the same time.

        :param records: what is worked on; its length is logged.
        :param is_paced: work within ``pace``; not for what mostly waits, as others would wait with it.
        """
        with self.pace() if is_paced else nullcontext():
            began = self._now()
            try:
                yield
            finally:
                self.ended, seconds = (now := self._now()), now - began
                with self._lock:
                    self._busy[stage] += seconds
            fields = {"stage": stage, "records": len(records), "seconds": seconds}
            log.debug("%s: %d records in %.3f s", stage, len(records), seconds, extra=fields)

    @contextmanager
    def thread(self, stage: str) -> Iterator[None]:
        """Count the time of the block, one of several threads' within ``busy("decode")``, for a stage."""
        began = self._now()
        try:
            yield
        finally:
            seconds = self._now() - began
            with self._lock:
                self._threads[stage] += seconds

    def add(self, stages: Mapping[str, float]) -> None:
        """Count seconds that another process was busy."""
        self.ended = self._now()
        with self._lock:
            for stage, seconds in stages.items():
                self._busy[stage] += seconds

    @property
    def seconds(self) -> float:
        """Wall seconds from the first step to the last."""
        return self.ended - self.began

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> busy wall seconds, in the order of :data:`STAGES`.

        Files are read by the threads that decode them: the wall time of that step is divided between
        ``read`` and ``decode`` as the time of its threads is.
        """
        with self._lock:
            busy, threads = self._busy.copy(), self._threads.copy()
        if total := sum(threads.values()):
            reading = busy["decode"] * threads["read"] / total
            busy["read"] += reading
            busy["decode"] -= reading
        return in_order(busy)

    def log_end(self) -> None:
        """Log how the run went."""
        fields = {"counts": dict(self.counts), "seconds": self.seconds, "stages": self.stages}
        log.info("%s", budget(self.counts.total(), self.seconds, self.stages, self.hints), extra=fields)


def log_failure(path: str, id: str, stage: str, reason: str) -> None:
    """Log an input that failed."""
    log.warning("%s: %s", stage, reason, extra={"path": path, "id": id, "stage": stage, "reason": reason})


def in_order(stages: Mapping[str, float]) -> dict[str, float]:
    """Return those that took time, in the order of :data:`STAGES`."""
    return {stage: stages[stage] for stage in STAGES if stages.get(stage, 0) > 0}


def budget(
    images: int, seconds: float, stages: Mapping[str, float], hints: Mapping[str, str] | None = None
) -> str:
    """Return one line: ``300 images in 6.0 s (50/s): decode 71 %, encode 29 %, encoder idle 73 %``.

    The stages work at the same time. Their percentages are shares of the sum of their busy wall seconds,
    those below 0.5 left out; idle is the part of the run, in wall seconds, in which nothing was embedded.

    :param seconds: wall seconds of the run.
    :param stages: stage -> busy wall seconds.
    :param hints: stage -> a setting; named where that stage has more than half of the sum.
    """
    rate = f" ({images / seconds:,.{images / seconds < 9.95:d}f}/s)" if seconds > 0 else ""
    line = f"{images:,} {'image' if images == 1 else 'images'} in {seconds:,.{seconds < 9.95:d}f} s{rate}"
    total = sum(stages.values())
    if not total:
        return line
    shares = [
        f"{stage} {100 * busy / total:.0f} %" for stage, busy in stages.items() if busy >= 0.005 * total
    ]
    if stages.get("encode") and seconds > 0:
        shares.append(f"encoder idle {100 * max(0.0, 1 - stages['encode'] / seconds):.0f} %")
    busiest = max(stages, key=lambda stage: stages[stage])
    hint = (hints or {}).get(busiest, "") if stages[busiest] > total / 2 else ""
    return f"{line}: {', '.join(shares)}" + (f"; {hint} would help" if hint else "")


Image: TypeAlias = NDArray[np.uint8]
"""One image: (H, W, 3) uint8, RGB."""

Vector: TypeAlias = NDArray[np.float32]
"""One embedding: (D,) float32."""

Matrix: TypeAlias = NDArray[np.float32]
"""N embeddings: (N, D) float32."""

Modality: TypeAlias = Literal["image", "text"]
Status: TypeAlias = Literal["inserted", "updated", "reused", "unchanged", "deleted", "skipped", "failed"]
Stage: TypeAlias = Literal["read", "decode", "encode", "insert"]

CONTENT_BYTES = 32 << 20
"""Of the files that come with the records of one batch, as from a tar. Such a batch ends early."""

KEPT = "; what was stored of it before is kept"
"""Ends the reason of an input that failed now and did not at another time."""

Pace: TypeAlias = Callable[[], AbstractContextManager[object]]
OnError: TypeAlias = Literal["record", "raise"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Backend: TypeAlias = Literal["auto", "onnxruntime", "openvino", "torch"]


@dataclass(frozen=True)
class Compute:
    """Where, with which numbers and by whom a model is run. ``auto`` takes the best that is installed.

    It does not change what vectors mean: one collection may be filled in bf16 and searched in fp32.

    :ivar device: ``auto``, ``cpu`` or ``cuda``.
    :ivar precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` (GPUs) or ``int8``; ``auto`` is fp32 or bf16.
    :ivar backend: ``auto``, ``onnxruntime``, ``openvino`` or ``torch``.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    backend: Backend = "auto"

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}, {self.precision}"


AUTO = Compute()
"""The best that is installed."""

EXACT = Compute(device="cpu", precision="fp32")
"""As the reference computes."""


@dataclass(frozen=True)
class Space:
    """What makes two vectors comparable. Stored with every collection and checked when it is opened.

    Two CLIP models may share a dimension, so ``dim`` alone cannot catch a swap; the digests can.

    :ivar model_name: the name that the collection was made with.
    :ivar weights: hex digest of the weights, over every file that decides a vector.
    :ivar preprocessing: how an image becomes a tensor, in one line, for example
        ``squash 64 bicubic mean=(0.48, 0.46, 0.41) std=(0.27, 0.26, 0.28)``.
    :ivar dim: length of a vector.
    :ivar metric: always ``COSINE``; vectors are stored with unit length.
    :ivar checkpoint: absolute path of the model's files where it was given by path, so that they are found
        again; it makes no difference to what vectors mean.
    """

    model_name: str
    weights: str
    preprocessing: str
    dim: int
    metric: Literal["COSINE"] = "COSINE"
    checkpoint: str = field(default="", compare=False)


@dataclass(slots=True)
class Record:
    """One input on its way into the collection: each operator fills in its part.

    ``status`` is None while the record is under way; an operator passes a record by once it is set.

    :ivar path: absolute path, URL, or ``tar://member::tar``; what the source gave where it is none of these.
    :ivar id: primary key, the same at every run.
    :ivar metadata: further columns of the source, stored with the vector.
    :ivar size: bytes; -1 where the source does not tell without opening the image, as with a URL.
    :ivar mtime: ns since 1970; -1 where the source does not tell.
    :ivar content: the file's bytes where they come with the record, as from a tar; until it is decoded.
    :ivar ahead: gives the file's bytes where they are fetched ahead, None if that has not begun.
    :ivar digest: ``content:metadata``, two hex digests. With size and mtime it tells whether the image
        is the one that is stored; the content's part is there once the file has been read.
    :ivar stored_digest: of the row that the collection already has under this id; None without one.
    :ivar image: there from decoding to encoding only.
    :ivar vector: (D,) float32, from encoding on.
    :ivar twins: finds images with the same content, where the run keeps account of them.
    :ivar twin: an image with the same content, stored or under way, whose vector is taken over. The
        record itself where its own stored row is meant.
    :ivar stage: where the record is, or where it failed.
    :ivar reason: why the record failed; names file and cause.
    """

    path: str
    id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    size: int = -1
    mtime: int = -1
    digest: str = ""
    stored_digest: str | None = None
    content: bytes | None = None
    ahead: Callable[[], bytes | None] | None = None
    image: Image | None = None
    vector: Vector | None = None
    twins: Twins | None = None
    twin: Record | None = None
    stage: Stage = "read"
    status: Status | None = None
    reason: str = ""

    def has_twin(self, content: str) -> bool:
        """Take the digest of the file's bytes; tell whether their vector is there without decoding them."""
        self.digest = content + self.digest
        if self.stored_digest is not None and content_of(self.stored_digest) == content:
            self.twin = self
        elif self.twins is not None:
            self.twin = self.twins.claim(content, self)
        return self.twin is not None

    def finish(self) -> None:
        """End as what storing it meant."""
        if self.stored_digest is not None:
            self.status = "unchanged" if self.stored_digest == self.digest else "updated"
        else:
            self.status = "reused" if self.twin is not None else "inserted"
        self.content = self.ahead = self.twin = None

    def skip(self, reason: str) -> None:
        """End as ``skipped``: an earlier row of the source counts."""
        self.status, self.reason = "skipped", reason
        self.content = self.ahead = None

    def fail(self, err: Exception | str) -> None:
        """End as ``failed``. Only a vector that could not be inserted is kept: it may do for a twin."""
        self.status, self.reason = "failed", str(err)
        if self.stored_digest is not None:
            self.reason += KEPT
        self.content = self.ahead = self.image = None
        if self.stage != "insert":
            self.vector = None

    @property
    def outcome(self) -> Outcome:
        """The record's row in the result; it must have ended."""
        assert self.status is not None
        reason = Reason(self.reason, self.stage, self.metadata) if self.reason else ""
        return Outcome(self.path, self.id, self.status, reason)


def content_of(digest: str) -> str:
    """Return the content's part of ``content:metadata``; empty where the content is not known."""
    return digest.partition(":")[0]


class Twins(Protocol):
    """Finds images with the same content, so that each is decoded and embedded once. Thread-safe."""

    def claim(self, content: str, record: Record) -> Record | None:
        """Return an image with this content, stored or under way; None if ``record`` is the first."""

    def settle(self, record: Record) -> None:
        """Take note that ``record`` has ended."""


class Reason(str):
    """Why an input failed: a text that also knows what it takes to try again.

    :ivar stage: where it failed.
    :ivar metadata: further columns of the input.
    :ivar clock: of the run, where known; a pipeline's empty reasons have it too.
    """

    __slots__ = ("clock", "metadata", "stage")

    stage: Stage
    metadata: Mapping[str, Any]
    clock: Stopwatch | None

    def __new__(cls, text: str, stage: Stage, metadata: Mapping[str, Any] | None = None) -> Self:
        """Build from the text and what belongs to it."""
        reason = super().__new__(cls, text)
        reason.stage, reason.metadata, reason.clock = stage, metadata or {}, None
        return reason

    def __getnewargs__(self) -> tuple[str, Stage, Mapping[str, Any]]:  # type: ignore[override]
        """Let reasons be pickled and copied."""
        return str(self), self.stage, self.metadata


class Outcome(NamedTuple):
    """What became of one input, or of a row that was deleted.

    :ivar reason: why the input was skipped or failed, as a :class:`Reason`; else empty.
    """

    path: str
    id: str
    status: Status
    reason: str

    @property
    def clock(self) -> Stopwatch | None:
        """The clock of the run, where known."""
        return getattr(self.reason, "clock", None)


class Batch(list[Record]):
    """Records that travel together. A list of its own type, so that an operator can tell it from data.

    :ivar last: no batch of this run follows.
    :ivar clock: shared by all batches of the run.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        super().__init__(records)
        self.last = False
        self.clock = Stopwatch()

    @classmethod
    def take(cls, records: Iterator[Record], size: int) -> Self:
        """Return the next ``size`` records, fewer at the end, or as soon as they hold ``CONTENT_BYTES``."""
        batch, held = cls(), 0
        for record in islice(records, size):
            batch.append(record)
            held += len(record.content or b"")
            if held >= CONTENT_BYTES:
                break
        return batch

    @property
    def pending(self) -> list[Record]:
        """The records that still need their vector, in order."""
        return [record for record in self if record.status is None and record.twin is None]

    @property
    def unfinished(self) -> list[Record]:
        """The records that have not ended yet, in order."""
        return [record for record in self if record.status is None]


class Encoder(Protocol):
    """A model with one vector space for images and words. Thread-safe.

    Vectors are *not* normalised: that is the pipeline's own, visible step.
    """

    @property
    def space(self) -> Space:
        """What the vectors mean. Costs no inference."""

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the (R, R, 3) uint8 that the model sees. ``fit(fit(x))`` is ``fit(x)``."""

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images of any size, or fitted ones -> (N, D) float32, one forward pass."""

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, one forward pass. Longer texts than the model reads are cut."""


class Hit(tuple[Any, ...]):
    """One search result. Unpacks and indexes as ``(id, score, path, *fields.values())``.

    :ivar id: primary key.
    :ivar score: cosine similarity in [-1, 1], higher is better.
    :ivar path: where the image is.
    :ivar fields: the further ``output_fields`` that were asked for, in that order.
    :ivar relevance: in [0, 1], calibrated for the model on the collection; None where nothing was calibrated.
    """

    id: str
    score: float
    path: str
    fields: Mapping[str, Any]
    relevance: float | None

    def __new__(
        cls,
        id: str,
        score: float,
        path: str,
        fields: Mapping[str, Any] | None = None,
        relevance: float | None = None,
    ) -> Self:
        """Build from its parts; ``fields`` and ``relevance`` may be left out."""
        fields = dict(fields or {})
        hit = super().__new__(cls, (id, score, path, *fields.values()))
        hit.id, hit.score, hit.path, hit.fields, hit.relevance = id, score, path, fields, relevance
        return hit

    def __getnewargs__(self) -> tuple[str, float, str, Mapping[str, Any], float | None]:
        """Let hits be pickled and copied."""
        return self.id, self.score, self.path, self.fields, self.relevance

    def __repr__(self) -> str:
        relevance = "" if self.relevance is None else f", relevance={self.relevance:.2f}"
        fields = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        return f"Hit(id={self.id!r}, score={self.score:.3f}{relevance}, path={self.path!r}{fields})"
