"""From what pymilvus and gRPC raise to the errors of this library, without their log output."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.errors import (
    CollectionNotFoundError,
    ConfigError,
    StoreAuthError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    T2IError,
)

COLLECTION_NOT_FOUND, NOT_LOADED, DATABASE_NOT_FOUND, CANNOT_CONNECT = 100, 101, 800, 2
TIMEOUT = "FutureTimeoutError"  # of gRPC, and no TimeoutError
REFUSED = 1100
NOT_UNDERSTOOD = (
    "cannot parse expression",
    "predicate is not a boolean expression",
    # Milvus Lite, of deep parentheses, and of numbers that need more than 64 bits
    "maximum recursion depth exceeded",
    "too large to convert to c long",
)
"""What is said about a filter that cannot be meant."""

BAD_ARGUMENT = {6, REFUSED}  # of Milvus Lite, of a server
NO_ROOM = ("no space left on device", "file too large", "disk quota exceeded")  # ENOSPC, EFBIG, EDQUOT

TIMED_OUT = (
    *("retry timeout", "wait for loading collection timeout", "wait for flush timeout"),
    "deadline exceeded",
)
"""As pymilvus says it, and as a server that itself waited in vain for a part of it."""


class NotLoadedError(StoreError):
    """The collection is released. Never leaves this package: it is loaded, and the call made again."""


class TooLargeError(StoreError):
    """One message was over the server's limit. Leaves this package only for a single row."""


class RefusedError(StoreError):
    """Milvus finds an argument bad."""


_AS_TOLD = {"missing": CollectionNotFoundError, "not loaded": NotLoadedError, "refused": RefusedError}


def translate(err: BaseException, *, doing: str, where: str, timeout: float) -> T2IError:
    """Return the error of ours for ``err``. Raise it ``from err``.

    :param doing: the call, for example ``search in collection 'cats'``.
    :param where: the database, as a reader of the message should see it.
    :param timeout: seconds that were allowed.
    """
    if isinstance(err, T2IError):
        return err
    text = _text(err)
    failed = f"{doing} at {where} failed"
    match _kind(err, text.lower()):
        case "auth":
            return StoreAuthError(f"{where} refuses the token ({doing}): {text}; check token=")
        case "timeout":
            return StoreTimeoutError(
                f"{where} did not answer within {timeout:g} s ({doing}); is it overloaded or "
                f"frozen? timeout= allows more"
            )
        case "too large":
            return TooLargeError(f"{failed}: one message is over the server's limit: {text}")
        case "unavailable":
            return StoreUnavailableError(
                f"no Milvus server answers at {where} ({doing}): {text}; is it running, and is the uri right?"
            )
        case "no database":
            return ConfigError(f"{failed}: {text}; the last part of the uri names the database")
        case "missing" | "not loaded" | "refused" as kind:
            return _AS_TOLD[kind](f"{failed}: {text}")
        case "full":
            return StoreError(
                f"{failed}: the disk is full, or a file there may not grow: {text}; make room and run it "
                f"again, what was stored before is kept"
            )
    return StoreError(f"{failed}: {text}")


def _kind(err: BaseException, text: str) -> str:
    statuses, code = _statuses(err), getattr(err, "code", None)
    rules = (
        ("auth", statuses & {"UNAUTHENTICATED", "PERMISSION_DENIED"} or "permission deny" in text),
        ("timeout", "DEADLINE_EXCEEDED" in statuses or _gave_up(err)),
        ("too large", "RESOURCE_EXHAUSTED" in statuses),
        ("unavailable", "UNAVAILABLE" in statuses or code == CANNOT_CONNECT),
        ("timeout", any(words in text for words in TIMED_OUT)),
        ("missing", code == COLLECTION_NOT_FOUND),
        ("not loaded", code == NOT_LOADED),
        ("no database", code == DATABASE_NOT_FOUND),
        ("full", any(words in text for words in NO_ROOM)),
        ("refused", code in BAD_ARGUMENT or any(words in text for words in NOT_UNDERSTOOD)),
    )
    return next((kind for kind, found in rules if found), "")


def _chain(err: BaseException) -> Iterator[BaseException]:
    """``err`` and its causes. pymilvus raises ``e from e``, so the chain may bite its tail."""
    seen: set[int] = set()
    link: BaseException | None = err
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ if link.__cause__ not in (None, link) else link.__context__


def _statuses(err: BaseException) -> set[str]:
    """Names of the gRPC status codes in ``err`` and its causes."""
    codes = [getattr(link, "code", None) for link in _chain(err)]
    values = [code() if callable(code) else code for code in codes]
    return {str(getattr(v, "name", "")) for v in values if type(v).__name__ == "StatusCode"}


def _gave_up(err: BaseException) -> bool:
    """Return whether gRPC's wait for a channel ended, of which pymilvus makes an ``AttributeError``."""
    return any(isinstance(link, TimeoutError) or type(link).__name__ == TIMEOUT for link in _chain(err))


def _text(err: BaseException) -> str:
    message, details = getattr(err, "message", None), getattr(err, "details", None)
    deepest = [link for link in _chain(err) if callable(getattr(link, "details", None))]
    if message and deepest:
        return f"{message} ({deepest[-1].details()})"  # type: ignore[attr-defined]
    if message:
        return str(message)
    return str(details()) if callable(details) else f"{type(err).__name__}: {err}"


class _Hush(logging.Filter):
    """Drop the log lines of the layers below about an error that this library is about to raise.

    pymilvus logs in the calling thread, Milvus Lite's server in threads of its own.
    """

    LOGGERS = (
        "pymilvus.decorators",
        "pymilvus.client.connection_manager",
        "milvus_lite.server_manager",
        "milvus_lite.adapter.grpc.servicer",
        "grpc._server",
    )

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._calls: Counter[int] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record unless it is a warning or worse, made by one of our calls."""
        if record.name == "grpc._server":  # maybe the user's own server
            return not _is_of_milvus(record)
        ours = record.thread in self._calls or record.name == "milvus_lite.adapter.grpc.servicer"
        return record.levelno < logging.WARNING or not ours

    def enter(self, thread: int) -> None:
        """A call starts."""
        with self._lock:
            if not self._calls:
                for name in self.LOGGERS:
                    logging.getLogger(name).addFilter(self)
            self._calls[thread] += 1

    def leave(self, thread: int) -> None:
        """A call ends."""
        with self._lock:
            self._calls[thread] -= 1
            self._calls += Counter()  # drops the zeros
            if not self._calls:
                for name in self.LOGGERS:
                    logging.getLogger(name).removeFilter(self)


def _is_of_milvus(record: logging.LogRecord) -> bool:
    """Return whether it reports a call that Milvus Lite lacks and pymilvus does without."""
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__package__") == "pymilvus.grpc_gen"


_HUSH = _Hush()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the layers below from logging the errors that happen inside; they are raised instead."""
    thread = threading.get_ident()
    _HUSH.enter(thread)
    try:
        yield
    finally:
        _HUSH.leave(thread)
