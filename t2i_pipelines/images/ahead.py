"""Remote images on their way before they are needed, as many as wait in the pipeline and fit in memory.

Without this, each batch would wait for its slowest host before the next batch is asked for.
A reader whose image is not being fetched yet fetches it itself.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from t2i_pipelines._towhee.locks import Lock, in_forked_child
from t2i_pipelines.images.read import read

THREADS = 64
"""Images that are fetched ahead at the same time, of all hosts together."""

BYTES = 512 << 20
"""Of images that have come and are not decoded yet. When they are as many, no further one is begun."""


class _Content:
    """The bytes of an image, counted for as long as anybody holds them."""

    held = 0
    _lock = Lock()  # re-entrant: a collection of garbage may come in between

    def __init__(self, content: bytes) -> None:
        self.content = content
        with _Content._lock:
            _Content.held += len(content)

    def __del__(self) -> None:
        with _Content._lock:
            _Content.held -= len(self.content)


class Ahead:
    """One image on its way. Nothing is fetched any more once this object is gone."""

    def __init__(self, address: str) -> None:
        self._future: Future[_Content | None] = _threads().submit(_fetch, weakref.ref(self), address)

    def take(self) -> bytes | None:
        """The bytes, waited for if they are on their way; None if they are not being fetched.

        :raises ImageDecodeError: If they cannot be had.
        """
        if self._future.cancel():
            return None
        found = self._future.result()
        return found.content if found is not None else None


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "t2i-ahead")


in_forked_child(_threads.cache_clear)


def _fetch(asked_by: weakref.ref[Ahead], address: str) -> _Content | None:
    if asked_by() is None or _Content.held >= BYTES:
        return None
    return _Content(read(address))
