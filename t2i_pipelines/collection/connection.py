"""One client of one database, made at the first call; and the address of a database, local or remote."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from t2i_pipelines._towhee.locks import Lock, ReadWriteLock
from t2i_pipelines.collection import lite
from t2i_pipelines.collection.failures import quiet, translate
from t2i_pipelines.collection.lite import bound_filters, one_writer, quieten, reading
from t2i_pipelines.errors import ConfigError, StoreError, T2IError

SCHEMES = ("http", "https", "tcp", "unix")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9_.-]+:\d+(/.*)?")

MEMORY = "memory"
"""The scheme that importing :mod:`t2i_pipelines.testing` registers."""

_clients: dict[str, Callable[[str], Any]] = {}


def register_client(scheme: str, make: Callable[[str], Any]) -> None:
    """Open databases of this scheme by ``make``, in this process and without a network.

    :param scheme: what stands before ``://`` in their uri, in small letters.
    :param make: gives, for a uri, an object with the methods of ``MilvusClient`` that this package calls.
    """
    _clients[scheme] = make


@dataclass(frozen=True)
class Address:
    """A checked ``uri``. Two spellings of one place are equal.

    :ivar uri: what pymilvus is given: an absolute path, links resolved, or a server's uri.
    :ivar path: the same as a path for Milvus Lite, None for a server.
    """

    uri: str
    path: Path | None

    @property
    def scheme(self) -> str:
        """What stands before ``://``; empty of a file."""
        return "" if self.path is not None else self.uri.partition("://")[0]

    @property
    def is_shared(self) -> bool:
        """Whether other processes may use the database at the same time."""
        return self.path is None and self.scheme not in _clients

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.uri).hostname or ""
        return self.path is not None or host in ("localhost", "::1") or host.startswith("127.")

    def __str__(self) -> str:
        """The uri for messages, without user and password."""
        if self.path is not None or "@" not in self.uri:
            return self.uri
        parts = urlsplit(self.uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def parse_uri(uri: str | os.PathLike[str]) -> Address:
    """Tell a file from a server, and settle on one spelling. Touches nothing.

    :raises ConfigError: If ``uri`` is neither a path that ends in ``.db`` nor a server's uri.
    """
    text = os.fspath(uri)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"uri must be a file that ends in .db or a server such as http://localhost:19530, got {uri!r}"
        )
    scheme, found, rest = text.partition("://")
    if found or text.startswith("unix:"):
        return _parse_server(text, scheme.lower() if found else "unix", rest)
    if _HOST_AND_PORT.fullmatch(text):
        raise ConfigError(f"uri {text!r} has no scheme; write http://{text}")
    return _parse_path(text)


def _parse_server(text: str, scheme: str, rest: str) -> Address:
    if scheme in _clients:
        return Address(f"{scheme}://{rest}", None)
    if scheme == MEMORY:
        raise ConfigError(f"uri {text!r} is for tests: import t2i_pipelines.testing before it is used")
    if scheme not in SCHEMES:
        raise ConfigError(
            f"uri {text!r} has the scheme {scheme!r}; a server's is one of {', '.join(SCHEMES)}, "
            f"and a file is written as its path"
        )
    if scheme == "unix":
        return Address(text, None)
    if not rest.strip("/"):
        raise ConfigError(f"uri {text!r} names no host; write for example {scheme}://localhost:19530")
    parts = urlsplit(text)
    try:
        parts.port  # noqa: B018 - read for its check
    except ValueError as err:
        raise ConfigError(f"uri {text!r} has no valid port: {err}") from err
    credentials, at, host = parts.netloc.rpartition("@")
    plain = parts._replace(scheme=scheme, netloc=credentials + at + host.lower())
    return Address(urlunsplit(plain).rstrip("/"), None)


def _parse_path(text: str) -> Address:
    path = Path(os.path.realpath(os.path.expanduser(text)))  # noqa: PTH111 - never raises
    if path.suffix != ".db":
        raise ConfigError(
            f"uri {text!r} must end in .db to be a Milvus Lite file (for example {text}.db), "
            f"or be a server such as http://localhost:19530"
        )
    return Address(str(path), path)


SLOW = 900.0
"""Seconds that loading, flushing, scans and local writes may take. They may build an index over all rows;
and a local write that is given up goes on in the background, next to the one that is made instead."""

FLUSH_AGAIN = 60.0
"""Seconds after which a server is asked again to flush: a flush that its restart interrupted never ends."""

FLUSH_BYTES = 8 << 20
"""Of vectors that wait in an embedded Milvus Lite. Writing them out takes ten times as much memory."""

READS = frozenset({"search", "query"})
"""What reads rows, of the methods of ``MilvusClient`` that are called here."""

CHANNEL = {"grpc.use_local_subchannel_pool": 1, "grpc.max_reconnect_backoff_ms": 1000}
"""gRPC's channels to one address share how long to wait after a failure, up to two minutes. With its own
count, the channel that pymilvus makes after a failure finds a server that is back at once."""

NO_PROXY = {"grpc.enable_http_proxy": 0}
"""For this machine: no proxy leads to it, whatever ``http_proxy`` and its like say."""

INSIDE = NO_PROXY | {"grpc.keepalive_time_ms": 2**31 - 1}
"""For an embedded Milvus Lite: never ask whether it is still there. pymilvus asks every 10 seconds, which
Lite's server takes for an attack: it hangs up after some, and gRPC says so on the screen."""


def channel_options(address: Address) -> dict[str, int]:
    """Return gRPC's options for a channel to ``address``."""
    if address.path is not None:
        return CHANNEL | INSIDE
    return CHANNEL | NO_PROXY if address.is_here else CHANNEL


class Connection:
    """A ``MilvusClient`` that opens by itself, also after :meth:`close` and in a forked child."""

    def __init__(self, address: Address, token: str) -> None:
        self.address = address
        self.loading, self.mending = Lock(), Lock()
        self._lock = Lock()
        self._calls = ReadWriteLock()  # shared by calls, had alone by close
        self._updates = ReadWriteLock()  # of a server: shared by writes, had alone by updates
        self._held = threading.local()
        self._users: set[object] = set()
        self.deletions: dict[str, float] = {}  # when rows of a collection were last deleted
        self.unflushed: Counter[str] = Counter()  # bytes of vectors; collections that a run has not finished
        self.entries: dict[str, tuple[float, Any]] = {}  # kept here by each collection's catalog
        self.generations: dict[str, str] = {}  # name -> what its collection is called once it is an alias
        self.renamed: dict[str, str] = {}  # name -> the collection's other one, while it becomes an alias
        self._token = token
        self._client: Any = None
        self._is_lite = address.path is not None
        self._version = (0, 0)
        self._process = 0
        self._before_fork: list[Any] = []

    def wrote(self, method: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note a write: when rows were deleted, and how many bytes wait for a flush."""
        if method == "delete":
            self.deletions[name] = time.monotonic()
        elif method == "upsert":
            self.deletions.pop(name, None)
        elif method == "flush" and name in self.unflushed:
            self.unflushed[name] = 0
        if rows:
            self.unflushed[name] += sum(row["vector"].nbytes for row in rows)

    def is_full(self, name: str) -> bool:
        """Return whether an embedded Milvus Lite should write out what waits of a collection."""
        return self.address.path is not None and self.unflushed[name] >= FLUSH_BYTES

    def call(self, method: str, *args: Any, doing: str, timeout: float, **kwargs: Any) -> Any:
        """Call a method of ``MilvusClient``; whatever it raises becomes one of our errors.

        :param doing: what this is for, for the message of an error.
        :param timeout: seconds.
        """
        with self.kept_open(), self._turn(method), quiet():
            client = self._open(timeout)
            try:
                return getattr(client, method)(*args, timeout=timeout, **kwargs)
            except Exception as err:
                where = str(self.address)
                raise translate(err, doing=doing, where=where, timeout=timeout) from err

    def _turn(self, method: str) -> AbstractContextManager[None]:
        """Until another has written, where a search beside that would miss rows."""
        return reading(self.address.uri) if self._is_lite and method in READS else nullcontext()

    def is_lite(self, timeout: float) -> bool:
        """Return whether Milvus Lite answers: a local database, or ``milvus-lite server`` behind a uri."""
        self._open(timeout)
        return self._is_lite

    def version(self, timeout: float) -> tuple[int, int]:
        """Major and minor number of a server's version; (0, 0) for Milvus Lite."""
        self._open(timeout)
        return self._version

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let :meth:`close` wait until the block has ended.

        Blocks may be nested. The first comes before any lock, or two threads would wait for each other.
        """
        depth = getattr(self._held, "depth", 0)
        self._held.depth = depth + 1
        try:
            with nullcontext() if depth else self._calls.shared():
                yield
        finally:
            self._held.depth = depth

    @contextmanager
    def writing(self, timeout: float) -> Iterator[float]:
        """Hold the writer's lock of Milvus Lite; yield how many seconds a write may take.

        Writes to a server go on side by side, but not beside :meth:`updating`.
        """
        if not self.is_lite(timeout):
            with self._updates.shared():
                yield timeout
            return
        with self.kept_open(), one_writer(self.address.uri):
            try:
                yield SLOW if self.address.path is not None else timeout
            except StoreError as err:
                if type(err) is StoreError:  # no refusal: the write itself broke, a full disk for one
                    self._abandon()
                raise

    @contextmanager
    def updating(self, timeout: float) -> Iterator[None]:
        """Let no other thread write within the block, which reads rows and writes them back.

        To Milvus Lite no other process, either.
        """
        is_lite = self.is_lite(timeout)
        with self.kept_open(), one_writer(self.address.uri) if is_lite else self._updates.alone():
            yield

    def join(self, user: object) -> None:
        """Count ``user`` among those that keep the connection open."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        """Count ``user`` out; the last one closes the connection."""
        self._users.discard(user)
        if not self._users:
            self.close()

    def close(self) -> None:
        """Close the client once its calls have ended; the next call opens it again.

        Of a local database, release the lock too.
        """
        with self._calls.alone():
            self._shut()

    def _shut(self) -> None:
        with one_writer(self.address.uri), self._lock:
            self._leave_to_parent()
            client, self._client = self._client, None
            self.entries.clear()
            if client is None:
                return
            with quiet():
                client.close()
                if self.address.path is not None:
                    lite.release(self.address.path)

    def _abandon(self) -> None:
        """Let the next call recover a local database from its log."""
        if self.address.path is not None:
            lite.abandon(self.address.path)
            self._shut()

    def _open(self, timeout: float) -> Any:
        client = self._client
        if client is not None and self._process == os.getpid():
            return client
        with self._lock:
            self._leave_to_parent()
            if self._client is None:
                self._client, self._process = self._connect(timeout), os.getpid()
            return self._client

    def _leave_to_parent(self) -> None:
        """In a forked child, neither use nor destroy the client that came along."""
        if self._client is not None and self._process != os.getpid():
            self._before_fork.append(self._client)
            self._client = None

    def _connect(self, timeout: float) -> Any:
        path = self.address.path
        if path is not None:
            quieten()
            bound_filters()
        uri = self.address.uri if path is None else lite.uri_for(path)
        make = _clients.get(self.address.scheme)
        with quiet():
            try:
                client = make(uri) if make is not None else self._milvus(uri, timeout)
                if path is None:
                    version = str(client.get_server_version(timeout=timeout))
                    self._is_lite = version.startswith("milvus_lite")
                    number = None if self._is_lite else re.search(r"(\d+)\.(\d+)", version)
                    self._version = (int(number[1]), int(number[2])) if number else (0, 0)
                return client
            except Exception as err:
                raise self._cannot_open(err, timeout) from err

    def _milvus(self, uri: str, timeout: float) -> Any:
        from pymilvus import MilvusClient

        return MilvusClient(
            uri=uri,
            token=self._token,
            timeout=timeout,
            dedicated=True,  # close() then closes the channel too
            grpc_options=channel_options(self.address),
        )

    def _cannot_open(self, err: Exception, timeout: float) -> T2IError:
        from pymilvus.exceptions import ConnectionConfigException

        path = self.address.path
        if path is not None and isinstance(err, ConnectionConfigException):
            return lite.explain(path, err)
        return translate(err, doing="connecting", where=str(self.address), timeout=timeout)


_CONNECTIONS: dict[tuple[str, str], Connection] = {}
"""Kept when they are closed, too: they know what is not flushed, what was deleted, and a parent's client."""

_CONNECTIONS_LOCK = Lock()


def connection_to(address: Address, token: str) -> Connection:
    """Return the one connection of this process to ``address``. Opens nothing yet."""
    key = (address.uri, token if address.is_shared else "")
    with _CONNECTIONS_LOCK:
        if key not in _CONNECTIONS:
            _CONNECTIONS[key] = Connection(address, key[1])
        return _CONNECTIONS[key]
