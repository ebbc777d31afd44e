"""Ctrl-C ends a command at once, whatever its threads are doing, and says what is in.

Nothing is awaited, because a batch under way may take longer than anybody waits. Nothing is lost either:
what was acknowledged outlives the end of the process at any moment, and the next run does the rest.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from threading import Lock, Thread, Timer

EXIT_CODE = 130
"""128 + SIGINT, as a shell reports it."""

AT_MOST = 2.0
"""Seconds that saying so may take: another thread may hold a lock that the output needs."""

_SIGINT = int(signal.SIGINT)


class _Watch:
    """A thread that ends the process at SIGINT.

    A handler of Python's own runs in the main thread, and there only between two steps of Python: not while
    a model is loaded, for example.

    :ivar say: called before the end.
    """

    def __init__(self, say: Callable[[], object]) -> None:
        self.say = say
        self._ending = Lock()
        atexit.register(self._let_exit)
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        Thread(target=self._listen, name="t2i-interrupt", daemon=True).start()

    def _listen(self) -> None:
        while number := os.read(self._heard, 1):
            if number[0] == _SIGINT:
                self._end()
        os.close(self._heard)

    def _end(self) -> None:
        if not self._ending.acquire(blocking=False):
            return
        try:
            late = Timer(AT_MOST, os._exit, [EXIT_CODE])
            late.daemon = True
            late.start()
            self.say()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(EXIT_CODE)

    def _let_exit(self) -> None:
        """Where the process exits by itself, let an interruption come to its end, and let no other begin."""
        self._ending.acquire()
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def stop(self) -> None:
        """Leave Ctrl-C to Python again."""
        atexit.unregister(self._let_exit)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._told)


_watch: _Watch | None = None


def end_at_once(say: Callable[[], object]) -> None:
    """From now on, let Ctrl-C end the process with exit code 130 after calling ``say``.

    To be called from the main thread.
    """
    global _watch
    _watch = _Watch(say)


def now_say(say: Callable[[], object]) -> None:
    """Replace what is called; without effect where Ctrl-C is not ours."""
    if _watch is not None:
        _watch.say = say


def leave_to_python() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` again, for a command that cleans up after itself."""
    global _watch
    if _watch is not None:
        _watch.stop()
        _watch = None
