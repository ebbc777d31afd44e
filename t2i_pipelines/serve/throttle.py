"""Inserts work for a share of the time while searches come, so that searches do not wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET = 0.25
"""Seconds after a search in which another is expected."""

LONGEST = 1.0
"""Seconds that a step of an insert waits, at most."""

POLL = 0.02
"""Seconds between two looks whether searches still come."""


class Throttle:
    """Lets inserts work for a share of the time only, while searches come. Thread-safe.

    Then the steps of inserts work one at a time, and after each there is a pause in proportion. Without
    searches they do not wait.

    :param share: of the time that inserts work while searches come; above 0, 1 is all of it.
    :param now: the time in seconds, from any start.
    :param sleep: waits for so many seconds.
    """

    def __init__(
        self,
        share: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._share, self._now, self._sleep = share, now, sleep
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._searches = 0
        self._searched = self._rests_until = float("-inf")

    @property
    def is_searched(self) -> bool:
        """Whether a search runs, or another is expected."""
        return self._searches > 0 or self._now() < self._searched + QUIET

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search within the block."""
        with self._lock:
            self._searches += 1
        try:
            yield
        finally:
            with self._lock:
                self._searches -= 1
                self._searched = self._now()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Do a step of an insert within the block, which begins when it may."""
        if self._share == 1 or not self.is_searched:
            yield
            return
        with self._turn:
            while self.is_searched and (left := self._rests_until - self._now()) > 0:
                self._sleep(min(left, POLL))
            began = self._now()
            try:
                yield
            finally:
                ended = self._now()
                self._rests_until = ended + min(LONGEST, (ended - began) * (1 / self._share - 1))
