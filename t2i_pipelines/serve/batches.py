"""Queries that come at the same time are embedded and searched at once.

One thread does all searches. While it works, queries wait; then it takes as many of them as share their
options, up to a limit. Queries whose hits are compared with each other take up to a second each: they are
searched one by one, and after each of them other queries come first. Who was just answered is likely to ask
again: it waits some milliseconds for as many queries as there were before. A single client does not wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from t2i_pipelines.config.args import SearchArgs
from t2i_pipelines.errors import EncodeError, ImageDecodeError, QueryError, VectorError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.requests import compared_by

log = logging.getLogger("t2i_pipelines.serve")

Search = Callable[[list[Any], SearchArgs], Sequence[Hits]]

OF_ONE = (QueryError, ImageDecodeError, EncodeError, VectorError)
"""Errors that one query of several may be to blame for."""

FIRST_GUESS = 0.02
"""Seconds that a query takes, until some have been measured."""


@dataclass
class _Waiting:
    query: Any
    options: SearchArgs
    key: str
    answer: asyncio.Future[Hits]
    since: float

    @property
    def is_costly(self) -> bool:
        """Whether its hits are compared with each other; of what is only embedded there are none."""
        return bool(compared_by(self.options or {}))


class Batches:
    """Searches for many clients. All methods are for the event loop's thread.

    :param search: finds the hits of a list of queries; called in a thread of its own.
    :param size: queries at once, at most.
    :param wait: seconds that a query waits for others while no search runs, at most.
    :param limit: queries that may wait.
    """

    def __init__(self, search: Search, metrics: Metrics, *, size: int, wait: float, limit: int) -> None:
        self._search, self._metrics = search, metrics
        self._size, self._wait, self._limit = size, wait, limit
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "t2i-search")
        self._come = asyncio.Event()
        self._expected = 1
        self._was_costly = False
        self._idle_since = 0.0
        self._closing = False
        self._seconds = FIRST_GUESS
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._worker = asyncio.create_task(self._work())

    async def drain(self) -> None:
        """Answer what waits, and end."""
        self._closing = True
        self._come.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def find(self, queries: Sequence[Any], options: SearchArgs) -> list[Hits]:
        """Return the hits of each query.

        :raises Refusal: If too many wait.
        :raises T2IError: What a search raises; of several queries that of the first that has any.
        """
        self.check_room(len(queries))
        loop, key, now = asyncio.get_running_loop(), json.dumps(options, sort_keys=True), time.perf_counter()
        mine = [_Waiting(query, options, key, loop.create_future(), now) for query in queries]
        self._waiting.extend(mine)
        self._metrics.queue.set(len(self._waiting))
        self._come.set()
        try:
            found = await asyncio.gather(*(one.answer for one in mine), return_exceptions=True)
        except asyncio.CancelledError:  # the client has gone, and makes room
            self._waiting = deque(one for one in self._waiting if not one.answer.done())
            self._metrics.queue.set(len(self._waiting))
            raise
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if not isinstance(one, BaseException)]

    def check_room(self, count: int) -> None:
        """Pass if so many more queries may wait.

        :raises Refusal: If not.
        """
        if len(self._waiting) + count > self._limit or self._closing:
            seconds = max(1, round((len(self._waiting) + self._size) * self._seconds + 0.5))
            raise Refusal(
                429,
                f"{len(self._waiting)} queries are waiting already, of at most {self._limit}; try again in "
                f"{seconds} s",
                retry_after=seconds,
            )

    async def _work(self) -> None:
        while not self._closing or self._waiting:
            try:
                await self._work_once()
            except Exception as err:  # a fault of ours ends those that wait, and not those that come
                log.exception("searches were given up")
                waiting, self._waiting = self._waiting, deque()
                self._settle(waiting, [err] * len(waiting))

    async def _work_once(self) -> None:
        """Answer one batch, or wait for a query."""
        if not self._waiting:
            self._come.clear()
            await self._come.wait()
            return
        await self._others()
        batch = self._take()
        if batch:
            loop, began = asyncio.get_running_loop(), time.perf_counter()
            found = await loop.run_in_executor(self._thread, self._answer, batch)
            self._settle(batch, found)
            self._idle_since = time.perf_counter()
            self._expected = len(batch) + len(self._waiting)
            self._seconds += 0.1 * ((self._idle_since - began) / len(batch) - self._seconds)

    async def _others(self) -> None:
        """Wait until there are as many queries as there were before, or the first has waited long enough."""
        latest = max(self._waiting[0].since, self._idle_since) + self._wait
        wanted = min(self._expected, self._size)
        with suppress(TimeoutError):
            while len(self._waiting) < wanted and not self._closing:
                self._come.clear()
                async with asyncio.timeout(max(0.0, latest - time.perf_counter())):
                    await self._come.wait()

    def _take(self) -> list[_Waiting]:
        """Return the first that waits, and what can go with it. Whose client has gone is not searched for."""
        waiting = [one for one in self._waiting if not one.answer.done()]
        first = min(waiting, key=lambda one: self._was_costly and one.is_costly, default=None)
        size = 1 if first is None or first.is_costly else self._size
        self._was_costly = first is not None and first.is_costly
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        for one in waiting:
            fits = first is not None and one.key == first.key and len(taken) < size
            (taken if fits else left).append(one)
        self._waiting = left
        self._metrics.queue.set(len(left))
        now = time.perf_counter()
        for one in taken:
            self._metrics.stage_seconds.labels("queue").observe(now - one.since)
        if taken:
            self._metrics.batch_size.observe(len(taken))
        return taken

    def _answer(self, batch: Sequence[_Waiting]) -> list[Hits | Exception]:
        """Hits or an error for each. A query that cannot be answered does not spoil the others."""
        try:
            return list(self._search([one.query for one in batch], batch[0].options))
        except OF_ONE as err:
            if len(batch) == 1:
                return [err]
            middle = len(batch) // 2
            return [*self._answer(batch[:middle]), *self._answer(batch[middle:])]
        except Exception as err:  # each of them gets the error
            return [err] * len(batch)

    @staticmethod
    def _settle(batch: Sequence[_Waiting], found: Sequence[Hits | Exception]) -> None:
        for one, hits in zip(batch, found, strict=True):
            if one.answer.done():
                continue
            if isinstance(hits, Exception):
                one.answer.set_exception(hits)
            else:
                one.answer.set_result(hits)
