"""Run the application: bounded connections, and at SIGTERM or Ctrl-C it finishes what it accepted."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from t2i_pipelines.collection import close
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve.app import make
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.service import Service

KEEP_ALIVE = 30
"""Seconds that an idle connection stays open."""

HEAD_SECONDS = 10.0
"""Seconds in which the head of a request must have come, from its first byte or from connecting."""

HEAD_BYTES = 1 << 16
"""Bytes that a head may have: the request line and the headers."""

PIPELINED = 16
"""Requests that may be sent ahead while another is being answered."""

WRITE_SECONDS = 30.0
"""Seconds in which a client must take some of an answer that waits for it."""

CLOSE_SECONDS = 1.0
"""Seconds in which answers that are broken off at the end close their files."""

log = logging.getLogger("t2i_pipelines.serve")


def run(options: ServeOptions, settings: dict[str, Any], make: Callable[..., Starlette] = make) -> bool:
    """Serve; see :func:`t2i_pipelines.serve.serve`."""
    app = make(options, settings)
    service = app.state.service
    with listening(options) as listener:
        service.load()
        config = server_config(app, options)
        host, port = listener.getsockname()[:2]
        log.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        # uvicorn raises the signals that it heard once more after its end, which is the end that was wanted
        heard: list[int] = []
        before = {
            one: signal.signal(one, lambda number, _: heard.append(number))
            for one in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            Server(config, service).run(sockets=[listener])
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            if not service.unfinished:
                close()
    if signal.SIGINT in heard and not service.unfinished:
        raise KeyboardInterrupt
    return not service.unfinished


def server_config(app: Starlette, options: ServeOptions) -> uvicorn.Config:
    """Return uvicorn's settings."""
    most = min(options.max_connections, _open_files() // 2)
    return uvicorn.Config(
        app,
        http=cast(Any, partial(Connection, most_bytes=2 * options.max_body + HEAD_BYTES)),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=options.root_path,
        proxy_headers=bool(options.forwarded_allow_ips),
        forwarded_allow_ips=options.forwarded_allow_ips,
        backlog=min(2048, max(1, most // 2)),  # connections accepted in one go, too
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, ceil(options.drain)),
        limit_concurrency=most + 1,  # one more is answered 503
    )


def _open_files() -> int:
    """Return how many files the process may have open."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, which has no such limit
        return sys.maxsize
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed


class Server(uvicorn.Server):
    """Tell the service when the end begins: what is accepted has ``drain`` seconds from then on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was accepted, and end."""
        self.service.begin_end()
        await super().shutdown(sockets)
        for one in self.server_state.connections:  # whose clients still do not read
            if isinstance(one, Connection):
                one.transport.abort()
        if tasks := set(self.server_state.tasks):  # what they send is closed by those that send it
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)


class Connection(HttpToolsProtocol):
    """A connection that ends: whatever its client sends or leaves unsent, and whether it reads or not.

    :param most_bytes: of a request, its head included.
    :ivar waits_since: when it began to wait for a request.
    """

    def __init__(self, *given: Any, most_bytes: int, **more: Any) -> None:
        super().__init__(*given, **more)
        self._most_bytes, self._bytes, self._in_head = most_bytes, 0, True
        self.waits_since = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered: the client is silent, or has sent a part of a head."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; one that waits gives way where there are too many."""
        super().connection_made(transport)
        self.waits_since = self.loop.time()
        self._patience = self._abort_in(HEAD_SECONDS)
        if len(self.connections) < (self.limit_concurrency or sys.maxsize):
            return
        others = (one for one in self.connections if isinstance(one, Connection) and one is not self)
        waiting = [one for one in others if one.is_waiting]
        if waiting:
            oldest = min(waiting, key=lambda one: one.waits_since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._bytes += len(data)
        if self._bytes > (HEAD_BYTES if self._in_head else self._most_bytes):
            self.transport.abort()
        elif self.is_waiting and self._patience is None:
            self._patience = self._abort_in(HEAD_SECONDS)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._bytes, self._in_head = 0, True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those that come after a body are of no use."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = False
        self._patience = _cancel(self._patience)
        if len(self.pipeline) < PIPELINED:
            super().on_headers_complete()
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Wait for the next request, or until the answer has gone."""
        self.waits_since = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing() and self._patience is None:
            self._patience = self._abort_in(WRITE_SECONDS)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._unread = self._unread or self._abort_in(WRITE_SECONDS)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        super().resume_writing()
        self._unread = _cancel(self._unread)

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, whether its last answer was read or not."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._patience, self._unread = _cancel(self._patience), _cancel(self._unread)
        super().connection_lost(exc)

    def _abort_in(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer, and return what is left of it."""
    if timer is not None:
        timer.cancel()
    return None


def listening(options: ServeOptions) -> socket.socket:
    """Return a socket that listens.

    :raises ConfigError: If that cannot be done.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
        # connections inherit it; else the body of an answer waits until its head is acknowledged, for 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as err:
        raise ConfigError(
            f"cannot listen on {options.host}, port {options.port}: {err.strerror or err}; choose another by "
            "host and port"
        ) from err
