"""What the requests of one application share."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from anyio import CapacityLimiter, to_thread

from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.config.args import SearchArgs
from t2i_pipelines.encoders.registry import load
from t2i_pipelines.errors import StoreError
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.pipelines.build import checked
from t2i_pipelines.pipelines.searcher import Searcher
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.serve.batches import Batches
from t2i_pipelines.serve.images import Images
from t2i_pipelines.serve.jobs import Jobs
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.requests import FETCH_SECONDS, FETCHES, Reader, Web
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.serve.schemas import SearchRequest
from t2i_pipelines.serve.throttle import Throttle
from t2i_pipelines.serve.uploads import Uploads
from t2i_pipelines.types import Encoder, Vector

_T = TypeVar("_T")

WARM = "an image"
"""Searched for before the service is ready: that loads the model and calibrates relevance."""

LOOK_AGAIN = 2.0
"""Seconds for which a look at the database is believed, and between two tries to become ready."""

ANSWERS_WITHIN = 5.0
"""Seconds in which a database that is ready says so."""

THREADS = 16
"""For what waits for the database or the disk."""

SCANS = 2
"""Requests at a time that read many rows."""

NOT_SEARCHED: Any = None
"""Options of queries that are only embedded."""

log = logging.getLogger("t2i_pipelines.serve")


class Service:
    """The pipelines, the limits, and what is counted.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :param roots: in place of those of the options.
    :raises ConfigError: If one is wrong.
    """

    def __init__(self, options: ServeOptions, settings: dict[str, Any], roots: Roots | None = None) -> None:
        settings = {"max_pixels": options.max_pixels, **settings}
        target, chosen = checked(settings)
        self.options = options
        folder = options.uploads_folder
        self.uploads = None if folder is None else Uploads(folder, options.max_pixels)
        self.roots = roots or Roots(options.named_roots)
        self.metrics = Metrics()
        web = Web()
        self.reader = Reader(options, self.roots, ImageDecode(model=target, decoding=chosen.decoding), web)
        self._searcher = Searcher(**settings)
        self.images = Images(self.roots, lambda: self._searcher.collection, chosen.decoding, options, web)
        self.throttle = Throttle(options.insert_share)
        self.jobs = Jobs(
            settings,
            self.metrics,
            self.images,
            self.roots,
            limit=options.max_jobs,
            path=_jobs_path(options, target.uri),
            pace=self.throttle.turn,
        )
        self.model_name = target.model_name
        self._loaded = load(*target.lookup)
        self._readers = CapacityLimiter(FETCHES + (os.cpu_count() or 1))
        self._threads = CapacityLimiter(THREADS)
        self._scanners = CapacityLimiter(SCANS)
        self.batches = Batches(
            self._search,
            self.metrics,
            size=options.batch_size,
            wait=options.batch_wait,
            limit=options.max_queue,
        )
        texts = self._loaded.texts
        self.metrics.watch_cache("texts", lambda: (texts.hits, texts.misses))
        self.metrics.watch_cache("thumbnails", lambda: (self.images.hits, self.images.misses))
        self._warming: asyncio.Task[None] | None = None
        self.is_warm = False
        self._look: asyncio.Task[bool] | None = None
        self._looked = self._believed_until = float("-inf")
        self._ends = float("inf")
        self.unfinished = 0

    def begin_end(self) -> None:
        """Let the seconds run that the end may take."""
        self._ends = time.monotonic() + self.options.drain

    def open_jobs(self) -> None:
        """Open the file of jobs, and remove what the uploads of interrupted ones have left.

        :raises ConfigError: If it cannot be used.
        """
        interrupted = self.jobs.open()
        if self.uploads is not None:
            self.uploads.clear(interrupted)

    async def start(self) -> None:
        """Begin to work; it is ready some time later."""
        self.open_jobs()
        self.batches.start()
        self.jobs.start()
        self._warming = asyncio.create_task(self._warm_up())

    async def stop(self) -> None:
        """Finish what was accepted."""
        for task in filter(None, (self._warming, self._look)):
            task.cancel()
        await self.batches.drain()
        left = min(self.options.drain, max(0.0, self._ends - time.monotonic()))
        self.unfinished = await self.run(self.jobs.drain, left)
        if self.unfinished:
            log.error("%d inserts were not finished within %g s", self.unfinished, self.options.drain)

    async def _warm_up(self) -> None:
        while not self.is_warm:
            try:
                await self.batches.find([WARM], SearchArgs())
                self.is_warm = True
            except Exception as err:  # it is asked again, and /readyz says no meanwhile
                log.warning("not ready: %s", err)
                await asyncio.sleep(LOOK_AGAIN)

    async def is_ready(self) -> bool:
        """Return whether the model is loaded and the database answers.

        It is asked by one call at a time, whose answer is everybody's for a while: who asks needs no key.
        """
        if not self.is_warm:
            return False
        now = time.monotonic()
        if (self._look is None or self._look.done()) and now >= self._believed_until:
            self._looked, self._look = now, asyncio.create_task(self._answers())
        if self._look is not None and not self._look.done():
            left = max(0.0, self._looked + ANSWERS_WITHIN - now)
            await asyncio.wait([self._look], timeout=left)
        return self._look is not None and self._look.done() and self._look.result()

    async def _answers(self) -> bool:
        try:
            await to_thread.run_sync(self._count, abandon_on_cancel=True, limiter=self._threads)
        except StoreError as err:
            log.warning("not ready: %s", err)
            return False
        finally:
            self._believed_until = time.monotonic() + LOOK_AGAIN
        return True

    async def find(self, request: SearchRequest) -> list[Hits]:
        """Return the hits of each query of a request.

        :raises T2IError: As searching does.
        :raises Refusal: If a limit is passed.
        """
        options = self.reader.search_options(request)
        self.batches.check_room(len(request.asked))
        queries, until = [], time.monotonic() + FETCH_SECONDS
        for asked in request.asked:
            if asked.expression is None and asked.image is None:
                queries.append(self.reader.query(asked, until))
                continue
            with self.metrics.stage("decode"):
                queries.append(await self.read(self.reader.query, asked, until))
        return await self.batches.find(queries, options)

    async def run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what waits for the database or the disk in a thread."""
        return await to_thread.run_sync(work, *arguments, limiter=self._threads)

    async def read(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what decodes or fetches images in a thread."""
        return await to_thread.run_sync(work, *arguments, limiter=self._readers)

    async def scan(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what reads many rows in a thread. It takes its time, so that all else has threads of its own."""
        return await to_thread.run_sync(work, *arguments, limiter=self._scanners)

    async def embed(self, queries: list[Any]) -> list[Vector]:
        """Return the vector of each query, as it would be searched for.

        :raises T2IError: As searching does.
        :raises Refusal: If too many wait.
        """
        return cast("list[Vector]", await self.batches.find(queries, NOT_SEARCHED))

    def _count(self) -> int:
        return self._searcher.collection.count()

    def _search(self, queries: list[Any], options: SearchArgs) -> Sequence[Any]:
        with self.throttle.searching():
            with self.metrics.stage("encode"):
                vectors = self._searcher.embed(queries)
            if options is NOT_SEARCHED:
                return vectors
            with self.metrics.stage("search"):
                return self._searcher.find(vectors, queries, **options)

    @property
    def encoder(self) -> Encoder:
        """The model."""
        return self._loaded.encoder

    def load(self) -> None:
        """Open the file of jobs, and load the model.

        :raises T2IError: If that cannot be done.
        """
        self.open_jobs()
        self._loaded.encoder.space  # noqa: B018 - loads


def _jobs_path(options: ServeOptions, uri: str | Path) -> Path | None:
    """Return the file in which jobs are kept over a restart; None where they are in memory only."""
    if options.read_only:
        return None
    if options.state is not None:
        return Path(options.state).expanduser().absolute() / "jobs.db"
    if (database := parse_uri(uri).path) is not None:
        return database.with_name(f"{database.name}.jobs")
    log.warning("jobs are kept in memory only: name a folder by --state to keep them over a restart")
    return None
