"""Locks that survive a fork."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

_ALL: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A re-entrant lock that a forked child gets anew.

    A plain lock that another thread holds at the moment of the fork stays locked in the child for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _ALL.add(self)

    def renew(self) -> None:
        """Start over, unlocked."""
        self._lock = threading.RLock()

    def __enter__(self) -> Lock:
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def _renew_all() -> None:
    for lock in list(_ALL):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
