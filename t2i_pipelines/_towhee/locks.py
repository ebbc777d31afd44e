"""Locks that survive a fork, and what a forked child must renew."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

_ALL: weakref.WeakSet[Lock | ReadWriteLock] = weakref.WeakSet()


class Lock:
    """Re-entrant lock, unlocked in a forked child."""

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


class ReadWriteLock:
    """Fair readers-writer lock, re-entrant for the writer, reset in forked children.

    A waiting writer goes before new readers, and the readers that wait when a writer leaves go before the
    next writer, so that neither starves. Writers of ``fasteners.ReaderWriterLock`` starve its readers.
    """

    def __init__(self) -> None:
        self.renew()
        _ALL.add(self)

    def renew(self) -> None:
        """Reset, with no holder."""
        self._changed = threading.Condition()
        self._owner: int | None = None
        self._depth = self._sharing = 0
        self._waiting_to_share = self._waiting_alone = 0
        self._go_first = 0  # readers that were waiting when the last writer left
        self._turn = 0  # how many writers have left

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Hold it with other readers within the block; yield False to the writer."""
        if self._owner == threading.get_ident():
            yield False
            return
        with self._changed:
            self._wait_to_share()
        try:
            yield True
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold it alone within the block; yield False where this thread holds it already."""
        with self._changed:
            if self._owner != threading.get_ident():
                self._wait_alone()
            self._depth += 1
            is_first = self._depth == 1
        try:
            yield is_first
        finally:
            with self._changed:
                self._depth -= 1
                if not self._depth:
                    self._owner = None
                    self._turn += 1
                    self._go_first = self._waiting_to_share
                    self._changed.notify_all()

    def _wait_to_share(self) -> None:
        turn = self._turn
        self._waiting_to_share += 1
        try:
            while self._owner is not None or (self._waiting_alone and turn == self._turn):
                self._changed.wait()
            self._sharing += 1
        finally:
            self._waiting_to_share -= 1
            if turn != self._turn:
                self._go_first -= 1
                self._changed.notify_all()

    def _wait_alone(self) -> None:
        self._waiting_alone += 1
        try:
            while self._owner is not None or self._sharing or self._go_first:
                self._changed.wait()
            self._owner = threading.get_ident()
        finally:
            self._waiting_alone -= 1
            self._changed.notify_all()


def in_forked_child(renew: Callable[[], object]) -> None:
    """Call ``renew`` in each child that is forked from now on, where the system forks.

    Only the thread that forks lives on in the child: pools wait there for threads that are gone, and a lock
    that another thread held is never released.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def _renew_all() -> None:
    for lock in list(_ALL):
        lock.renew()


in_forked_child(_renew_all)
