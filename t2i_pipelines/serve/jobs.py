"""Inserts as jobs: accepted at once, done one after another, kept over a restart, and looked at meanwhile."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.serve.images import Images
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.problems import Refusal, refusal_of
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.serve.schemas import JobError, JobReport, JobStatus, JobSummary, SkippedFiles
from t2i_pipelines.serve.uploads import Upload
from t2i_pipelines.types import Outcome, Pace, Record, Skipped

KEPT = 1000
"""Jobs that are remembered after their end, and failures that each remembers."""

KEY_SECONDS = 24 * 3600
"""For so long an idempotency key is remembered, and the job that it began."""

KEYS = 100_000
"""Idempotency keys that are remembered."""

AGAIN_SECONDS = 10

SAVE_SECONDS = 1.0
"""Between two times that the counts of a running job are written down."""

INTERRUPTED = JobError(
    code="interrupted",
    detail="the service ended before this insert did; send it again, with a new Idempotency-Key if it had "
    "one: what is stored already counts as unchanged",
)

log = logging.getLogger("t2i_pipelines.serve")


class Key(NamedTuple):
    """What tells that a request is sent again.

    :ivar name: ``Idempotency-Key``.
    :ivar request: digest of the request.
    :ivar client: name of the API key it came with: two clients may choose the same ``name``.
    """

    name: str
    request: str
    client: str = ""

    @property
    def stored(self) -> str:
        """Client and name, neither of which has a space in it."""
        return f"{self.client} {self.name}".lstrip()


@dataclass
class Job:
    """One insert.

    :ivar records: what to insert; made when the job begins. Counts what the source skips.
    :ivar upload: the files, if they came with the request.
    :ivar skipped: files and folders of the source that are not inserted.
    :ivar report: what became of it so far; of the failures the first ``KEPT``.
    :ivar error: what broke it off.
    :ivar stop: set to end it after the batches that are under way.
    :ivar was_cut: whether inputs were left out because of ``stop``.
    """

    records: Callable[[Skipped], Iterator[Record]]
    source: str | None
    refresh: bool
    upload: Upload | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: JobStatus = "waiting"
    report: InsertReport = field(default_factory=InsertReport)
    skipped: Skipped = field(default_factory=Skipped)
    error: JobError | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    finished: datetime | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    was_cut: bool = False

    def take(self, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.report.add(outcome)
        del self.report.failed[KEPT:]
        if self.upload is not None:
            self.upload.take(outcome)

    def until_stopped(self, records: Iterator[Record]) -> Iterator[Record]:
        """Return records until ``stop`` is set."""
        return takewhile(self._goes_on, records)

    def _goes_on(self, _: Record) -> bool:
        self.was_cut = self.was_cut or self.stop.is_set()
        return not self.was_cut


class Store:
    """Reports of jobs in a SQLite file, which one process has at a time, or in memory.

    :raises ConfigError: If the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, timeout=2.0
            )
            self._database.executescript(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; BEGIN IMMEDIATE;"
                "CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, "
                "created REAL NOT NULL, status TEXT NOT NULL, key TEXT UNIQUE, request TEXT, "
                "report TEXT NOT NULL);"
                "CREATE INDEX IF NOT EXISTS by_status ON jobs (status);"
                "CREATE INDEX IF NOT EXISTS keyed ON jobs (created) WHERE key IS NOT NULL; COMMIT"
            )
        except (OSError, sqlite3.Error) as err:
            locked = "locked" in str(err)
            raise ConfigError(
                f"jobs cannot be kept in {path}: "
                + ("another service uses it" if locked else str(getattr(err, "strerror", None) or err))
                + "; choose a folder of its own by --state"
            ) from err

    def add(self, report: JobReport, key: Key | None) -> None:
        """Write a new job down.

        :raises Refusal: If there is no room for it.
        """
        name, request = (None, None) if key is None else (key.stored, key.request)
        row = (report.id, time.time(), report.status, name, request, report.model_dump_json())
        self._write(
            "INSERT INTO jobs (id, created, status, key, request, report) VALUES (?, ?, ?, ?, ?, ?)", *row
        )

    def save(self, report: JobReport) -> bool:
        """Write down how a job is doing; False, and a line in the log, if that cannot be done."""
        try:
            self._ask(
                "UPDATE jobs SET status = ?, report = ? WHERE id = ?",
                *(report.status, report.model_dump_json(), report.id),
            )
        except sqlite3.Error as err:
            log.error("job %s cannot be written down: %s", report.id, err)
            return False
        return True

    def find(self, id: str) -> JobReport | None:
        """Return a job that is not forgotten yet."""
        return next(iter(self._reports("WHERE id = ?", id)), None)

    def latest(self, status: JobStatus | None, limit: int) -> list[JobSummary]:
        """Return jobs, newest first, without the inputs that failed: there may be 1,000 of each."""
        which, values = ("", ()) if status is None else ("WHERE status = ?", (status,))
        rows = self._ask(f"SELECT report FROM jobs {which} ORDER BY number DESC LIMIT ?", *values, limit)
        return [JobSummary.model_validate_json(report) for (report,) in rows]

    def unended(self) -> list[JobReport]:
        """Return the jobs that an earlier process has not finished."""
        return self._reports("WHERE status IN ('waiting', 'running')")

    def known(self, key: Key) -> JobReport | None:
        """Return the job that a key began.

        :raises Refusal: If that was by another request.
        """
        found = self._ask("SELECT id, request FROM jobs WHERE key = ?", key.stored)
        if not found:
            return None
        ((id, request),) = found
        if request != key.request:
            raise Refusal(
                422,
                f"the Idempotency-Key {key.name!r:.80} was sent before with another request; make a new one",
                code="idempotency_mismatch",
            )
        return self.find(id)

    def count_keys(self) -> int:
        """Return how many keys are remembered."""
        ((count,),) = self._ask("SELECT count(*) FROM jobs WHERE key IS NOT NULL")
        return int(count)

    def forget(self) -> None:
        """Forget keys after their time, and ended jobs beyond the latest ``KEPT`` that have none.

        :raises Refusal: If there is no room to do so.
        """
        self._write(
            "UPDATE jobs SET key = NULL WHERE key IS NOT NULL AND created < ?", time.time() - KEY_SECONDS
        )
        ended = "status NOT IN ('waiting', 'running')"
        self._write(
            f"DELETE FROM jobs WHERE key IS NULL AND {ended} AND number <= "
            f"(SELECT number FROM jobs WHERE {ended} ORDER BY number DESC LIMIT 1 OFFSET ?)",
            KEPT,
        )

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def _reports(self, which: str, *values: Any) -> list[JobReport]:
        rows = self._ask(f"SELECT report FROM jobs {which}", *values)
        return [JobReport.model_validate_json(report) for (report,) in rows]

    def _write(self, statement: str, *values: Any) -> None:
        try:
            self._ask(statement, *values)
        except sqlite3.OperationalError as err:
            raise Refusal(507, f"the job cannot be written down: {err}", code="storage_full") from err

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        return self._database.execute(statement, values).fetchall()


class Jobs:
    """Runs inserts in a thread. Thread-safe.

    :param settings: of the insert pipeline.
    :param images: tells what clients see of a failure; ``roots``: of a path.
    :param limit: jobs that wait or run.
    :param path: file in which jobs are kept; None is in memory.
    :param pace: lets the steps of an insert wait.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        metrics: Metrics,
        images: Images,
        roots: Roots,
        *,
        limit: int,
        path: Path | None,
        pace: Pace = nullcontext,
    ) -> None:
        self._settings, self._metrics, self._limit, self._path = settings, metrics, limit, path
        self._images, self._roots, self._pace = images, roots, pace
        self._jobs: dict[str, Job] = {}  # those that wait or run, or whose end could not be written down
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._opened: Store | None = None
        self._saved = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="t2i-jobs", daemon=True)

    def open(self) -> list[str]:
        """Open the file of jobs; return the ids of those that an earlier process has not finished.

        :raises ConfigError: If it cannot be used.
        """
        if self._opened is not None:
            return []
        self._opened = Store(self._path)
        unended = self._opened.unended()
        for one in unended:
            one.status, one.error, one.finished = "interrupted", INTERRUPTED, datetime.now(UTC)
            self._opened.save(one)
        if unended:
            log.warning("%d inserts were interrupted by the end of an earlier service", len(unended))
        return [one.id for one in unended]

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise RuntimeError("jobs are not open yet: the service has not been started")
        return self._opened

    def accept(self, job: Job, key: Key | None = None) -> JobReport:
        """Put a job at the end of the queue; return it, or the earlier one that its key began.

        :raises Refusal: If too many wait, or the key was used for another request.
        """
        with self._lock:
            self._store.forget()
            if key is not None and (known := self._store.known(key)) is not None:
                return self._current(known)
            self.check_room()
            if key is not None and self._store.count_keys() >= KEYS:
                raise Refusal(
                    429,
                    f"{KEYS:,} idempotency keys are remembered, each for 24 hours; send it without a key",
                    retry_after=AGAIN_SECONDS,
                    code="too_many_keys",
                )
            self._store.add(self._report(job), key)
            self._jobs[job.id] = job
            self._metrics.jobs.set(self._unfinished())
            self._queue.put(job)
            return self._report(job)

    def check_room(self) -> None:
        """Pass if one more may wait.

        :raises Refusal: If not.
        """
        unfinished = self._unfinished()
        if unfinished >= self._limit or self._closing:
            raise Refusal(
                429,
                f"{unfinished} inserts are waiting or running, of at most {self._limit}; try again later",
                retry_after=AGAIN_SECONDS,
            )

    def find(self, id: str) -> JobReport:
        """Return how a job is doing that is not forgotten yet.

        :raises Refusal: If there is none.
        """
        with self._lock:
            if (found := self._store.find(id)) is not None:
                return self._current(found)
        raise Refusal(
            404, f"no job has the id {id!r:.80}; ended ones are forgotten in time", code="job_not_found"
        )

    def latest(self, status: JobStatus | None, limit: int) -> list[JobSummary]:
        """Return jobs, newest first."""
        with self._lock:
            found = self._store.latest(status, limit)
            now = {one.id: self._report(job) for one in found if (job := self._jobs.get(one.id))}
        shown = set(JobSummary.model_fields)
        return [
            JobSummary(**now[one.id].model_dump(include=shown)) if one.id in now else one for one in found
        ]

    def cancel(self, id: str) -> JobReport:
        """End a job: at once if it waits, else after the batches that are under way.

        :raises Refusal: If there is none, or it has ended.
        """
        with self._lock:
            job = self._jobs.get(id)
            if job is None or job.finished is not None:
                status = self.find(id).status
                raise Refusal(409, f"job {id} has ended: it is {status}", code="job_ended")
            job.stop.set()
            if job.status == "waiting":
                self._end(job, "cancelled")
            return self._report(job)

    def drain(self, seconds: float) -> int:
        """Accept no more, and wait for what was accepted; how many jobs are unfinished after ``seconds``."""
        with self._lock:
            self._closing = True
            self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)
        if not self._thread.is_alive() and self._opened is not None:
            self._opened.close()
        return self._unfinished()

    def _unfinished(self) -> int:
        return sum(job.finished is None for job in list(self._jobs.values()))

    def _current(self, known: JobReport) -> JobReport:
        """Return the report of now where an earlier one was written down."""
        job = self._jobs.get(known.id)
        return known if job is None else self._report(job)

    def _report(self, job: Job) -> JobReport:
        finished = job.finished  # first: once it is set, all else is
        return JobReport(
            id=job.id,
            status=job.status,
            source=job.source,
            counts={status: count for status, count in job.report.counts.items() if count},
            skipped=[SkippedFiles(**one) for one in job.skipped.as_list()],
            failed=[self._images.failed(one) for one in list(job.report.failed)],
            seconds_by_stage=job.report.stages,
            error=job.error,
            created=job.created,
            started=job.started,
            finished=finished,
        )

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                if job.finished is not None:  # cancelled while it waited
                    continue
                job.started, job.status = datetime.now(UTC), "running"
                self._store.save(self._report(job))
            status: JobStatus = "done"
            try:
                self._insert(job)
                if job.was_cut:
                    status = "cancelled"
            except Exception as err:  # whatever it is, it is this job's, and others follow
                status = "cancelled" if job.was_cut else "failed"
                if not (job.was_cut and isinstance(err, SourceError)):  # an empty source is none then
                    refusal = refusal_of(err, self._roots)
                    job.error = JobError(code=refusal.code, detail=refusal.detail)
            with self._lock:
                self._end(job, status)
            for stage, seconds in job.report.stages.items():
                self._metrics.insert_seconds.labels(stage).inc(seconds)

    def _end(self, job: Job, status: JobStatus) -> None:
        if job.upload is not None:
            job.upload.discard()
        job.status, job.finished = status, datetime.now(UTC)
        if self._store.save(self._report(job)):
            del self._jobs[job.id]
        self._metrics.jobs.set(self._unfinished())

    def _insert(self, job: Job) -> None:
        given = insert_arguments(*checked({**self._settings, "refresh": job.refresh}))
        run_insert(job.until_stopped(job.records(job.skipped)), given, partial(self._take, job), self._pace)

    def _take(self, job: Job, outcome: Outcome) -> None:
        job.take(outcome)
        self._metrics.images.labels(outcome.status).inc()
        if (now := time.monotonic()) - self._saved >= SAVE_SECONDS:
            self._saved = now
            with self._lock:
                self._store.save(self._report(job))
