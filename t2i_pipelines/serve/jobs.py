"""Inserts as jobs: accepted at once, done one after another, and looked at meanwhile."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal

from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.types import Outcome, Pace, Record, Skipped

KEPT = 1000
"""Jobs that are remembered after their end, and failures that each remembers."""

AGAIN_SECONDS = 10


@dataclass
class Job:
    """One insert.

    :ivar records: what to insert; made when the job begins. Counts what the source skips.
    :ivar skipped: files and folders of the source that are not inserted.
    :ivar report: what became of it so far; of the failures the first ``KEPT``.
    :ivar error: what broke it off.
    """

    records: Callable[[Skipped], Iterator[Record]]
    source: str | None
    refresh: bool
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    report: InsertReport = field(default_factory=InsertReport)
    skipped: Skipped = field(default_factory=Skipped)
    error: Exception | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    finished: datetime | None = None

    def take(self, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.report.add(outcome)
        del self.report.failed[KEPT:]


class Jobs:
    """Runs inserts in a thread. Thread-safe.

    :param settings: of the insert pipeline.
    :param limit: jobs that wait or run.
    :param pace: lets the steps of an insert wait.
    """

    def __init__(
        self, settings: dict[str, Any], metrics: Metrics, *, limit: int, pace: Pace = nullcontext
    ) -> None:
        self._pace = pace
        self._settings, self._metrics, self._limit = settings, metrics, limit
        self._jobs: dict[str, Job] = {}
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="t2i-jobs", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def accept(self, job: Job) -> Job:
        """Put a job at the end of the queue.

        :raises Refusal: If too many wait.
        """
        with self._lock:
            unfinished = self._unfinished()
            if unfinished >= self._limit or self._closing:
                raise Refusal(
                    429,
                    f"{unfinished} inserts are waiting or running, of at most {self._limit}; try again later",
                    retry_after=AGAIN_SECONDS,
                )
            self._jobs[job.id] = job
            self._forget()
            self._metrics.jobs.set(unfinished + 1)
            self._queue.put(job)
        return job

    def find(self, id: str) -> Job | None:
        """Return a job that is not forgotten yet."""
        return self._jobs.get(id)

    def drain(self, seconds: float) -> int:
        """Accept no more, and wait for what was accepted; how many jobs are unfinished after ``seconds``."""
        with self._lock:
            self._closing = True
            self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)
        return self._unfinished()

    def _unfinished(self) -> int:
        return sum(job.finished is None for job in self._jobs.values())

    def _forget(self) -> None:
        ended = [id for id, job in self._jobs.items() if job.finished is not None]
        for id in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[id]

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.started, job.status = datetime.now(UTC), "running"
            try:
                self._insert(job)
                job.status = "done"
            except Exception as err:  # whatever it is, it is this job's, and others follow
                job.error, job.status = err, "failed"
            job.finished = datetime.now(UTC)
            with self._lock:
                self._metrics.jobs.set(self._unfinished())
            for stage, seconds in job.report.stages.items():
                self._metrics.insert_seconds.labels(stage).inc(seconds)

    def _insert(self, job: Job) -> None:
        given = insert_arguments(*checked({**self._settings, "refresh": job.refresh}))
        run_insert(job.records(job.skipped), given, partial(self._take, job), self._pace)

    def _take(self, job: Job, outcome: Outcome) -> None:
        job.take(outcome)
        self._metrics.images.labels(outcome.status).inc()
