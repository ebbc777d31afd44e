"""Who is let in, how many at a time, and how much each may bring, before any route; and the access log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import quote
from uuid import uuid4

from anyio import CancelScope
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2i_pipelines.search.render import printable
from t2i_pipelines.serve.keys import Keys, Right
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.options import KEY_VARIABLE, ServeOptions
from t2i_pipelines.serve.problems import Refusal, answer, refusal_of, route_path
from t2i_pipelines.serve.roots import Roots

OPEN = frozenset({"/healthz", "/readyz"})
"""What an orchestrator asks without a key, and without counting as a request."""

DOCS = re.compile(r"/docs(/.*)?|/openapi\.json|/static-offline-docs/.*", re.DOTALL)
"""What tells no more than the source code does."""

INSERT_BODY = 8 << 20
"""Bytes of an insert: 10,000 long URLs."""

UPDATE_BODY = 1 << 19
"""Bytes of an update: metadata of 64 KiB, each character of which may be written as an escape."""

VALUES = {
    "/v1/search": 10_000,
    "/v1/insert": 100_000,
    "/v1/embeddings": 10_000,
    "/v1/images/{id}": 10_000,
    "/mcp": 10_000,
}
"""Values that the JSON of a route may hold. Each is looked at in the event loop, where all others wait."""

FORMS = frozenset({"/v1/search", "/v1/insert"})
"""Routes that take a form with files, too."""

_MARKS = (b",", b":", b"[", b"{")

BODIES = 16
"""Bodies of ``max_body`` that are kept at a time, at most; there may be any number of smaller ones."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"frame-ancestors 'none'"),  # beside what a route says
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


READS = frozenset({"/v1/search", "/v1/embeddings"})
"""What is asked by POST and changes nothing: the scope ``read`` is enough."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][\w.:/+=@-]{0,127}", re.ASCII)

log = logging.getLogger("t2i_pipelines.serve.access")


def request_id(given: str) -> str:
    """Return the id that a client or a proxy gave a request, or one of our own where that is long or odd."""
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


class AccessLog:
    """ASGI middleware: count, time and log each request, and give every answer the headers that all have.

    Neither a query, nor a body, nor a key is logged.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began, status, sent = time.perf_counter(), 500, 0
        method, path = _method(scope), route_path(scope)  # before a mounted application changes it
        is_head = scope["method"] == "HEAD"
        asked = {**scope, "method": "GET"} if is_head else scope  # every route that has GET has HEAD
        asked["state"] = {**scope.get("state", {})}

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            elif is_head:
                message["body"] = b""
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(asked, receive, watched)
        finally:
            seconds, route = time.perf_counter() - began, getattr(asked.get("route"), "path", "")
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            if path not in OPEN:
                _log(asked, method, path, status, seconds, sent)


def _log(scope: Scope, method: str, path: str, status: int, seconds: float, sent: int) -> None:
    """Write the line of a request. Nothing of it that a client chooses can end the line, or begin another."""
    path, key = quote(path[:200], errors="replace"), scope["state"].get("key")
    route = getattr(scope.get("route"), "path_format", "")
    client = printable((scope.get("client") or ("-",))[0], 64)
    log.info(
        "%s %s %d %.4f s %d bytes %s %s", method, path, status, seconds, sent, client, key or "-",
        extra={"method": method, "path": path, "route": route, "status": status,
               "seconds": round(seconds, 6), "bytes": sent, "client": client, "key": key},
    )  # fmt: skip


class Guard:
    """ASGI middleware: admit a request by its key, its scope, its origin and its size, or refuse it."""

    def __init__(
        self, app: ASGIApp, options: ServeOptions, keys: Keys, metrics: Metrics, roots: Roots
    ) -> None:
        self._app, self._options, self._keys = app, options, keys
        self._metrics, self._roots = metrics, roots
        self._inside = self._held = 0
        self._bodies = {
            "/v1/search": options.max_body,
            "/v1/insert": min(options.max_body, INSERT_BODY),
            "/v1/embeddings": options.max_body,
            "/v1/images/{id}": min(options.max_body, UPDATE_BODY),
            "/mcp": options.max_body,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what goes wrong is a problem, with the same headers as every answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        except Exception as err:
            if started:
                raise
            refusal = refusal_of(err, self._roots)
            await answer(refusal, self._metrics, path=route_path(scope))(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_caller(scope)
        if _is_open(scope):  # without a key: so it takes no place, and its body is not read
            await self._app(scope, _replayed(b""), send)
            return
        self._check_crowd()
        self._inside += 1
        self._metrics.in_flight.set(self._inside)
        body = _Body()
        try:
            await self._read(scope, receive, body)
            await self._while_connected(scope, _replayed(body.joined()), receive, send)
        finally:
            self._held -= body.size
            self._inside -= 1
            self._metrics.in_flight.set(self._inside)

    async def _while_connected(self, scope: Scope, body: Receive, receive: Receive, send: Send) -> None:
        """Answer, unless the client goes before: what a thread has begun is finished, and nothing else."""
        started = ended = False

        async def noted(message: Message) -> None:
            nonlocal started, ended
            started = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not ended:
                work.cancel()

        with CancelScope() as work:
            watching = asyncio.create_task(watch())
            try:
                await self._app(scope, body, noted)
            finally:
                watching.cancel()
        if work.cancelled_caught and not started:
            raise Refusal(400, "the client has gone")

    def _check_caller(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._keys:
            if not _is_open(scope):
                self._check_key(scope, headers)
            return
        # without a key, only this machine: neither other machines, nor pages of other sites in its browser
        if not _is_loopback((scope.get("client") or ("",))[0]) and scope.get("client") is not None:
            raise Refusal(401, f"only this machine is let in; set {KEY_VARIABLE} to let others in by a key")
        if not _is_loopback(_host(headers.get("host", ""))):
            raise Refusal(421, "without a key, the service answers to 127.0.0.1 and localhost only")
        if headers.get("origin") in self._options.cors_origins:
            return
        if _is_of_other_page(scope["method"], headers):
            raise Refusal(403, "without a key, pages of other sites get no answer", code="other_site")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        key = self._keys.find(given)
        if key is None:
            raise Refusal(401, "a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        scope["state"]["key"] = key.name
        if (needed := self._right(scope)) not in key.scopes:
            raise Refusal(
                403,
                f"the key {key.name!r} has the scope {', '.join(sorted(key.scopes))}; this needs {needed}",
                code="scope_missing",
            )

    def _right(self, scope: Scope) -> Right:
        """Return the scope that a request needs; assistants insert unless the server is read-only."""
        method, path = scope["method"], route_path(scope)
        reads = path in READS or (path == "/mcp" and self._options.read_only)
        return "read" if method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and reads) else "write"

    def _check_crowd(self) -> None:
        if self._inside >= self._options.max_requests:
            raise Refusal(
                429,
                f"{self._inside} requests are being answered, of at most {self._options.max_requests}; "
                "try again in 1 s",
                retry_after=1,
            )

    async def _read(self, scope: Scope, receive: Receive, body: _Body) -> None:
        """Read a body, unless it is too long, too long on its way, or one too many."""
        route = _route_with_body(scope)
        most = self._bodies.get(route, 0)
        if not most:  # no other route has one
            return
        kind = Headers(scope=scope).get("content-type", "").lower()
        if route in FORMS and kind.startswith("multipart/form-data"):
            most = self._options.max_body  # files
        too_large = Refusal(413, f"a request may have {most:,} bytes at most")
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise too_large
        try:
            async with asyncio.timeout(self._options.body_timeout):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client has gone")
                    part, more = message.get("body", b""), message.get("more_body", False)
                    body.add(part)
                    self._held += len(part)
                    if body.size > most:
                        raise too_large
                    self._check_memory()
        except TimeoutError:
            raise Refusal(408, f"the request did not come within {self._options.body_timeout:g} s") from None
        if "json" in kind or route not in FORMS:  # those refuse any other type; the rest may read it as JSON
            check_values(body.parts, VALUES[route])

    def _check_memory(self) -> None:
        if self._held > BODIES * self._options.max_body:
            raise Refusal(
                429,
                f"the requests that are being answered have {self._held:,} bytes; try again in 1 s",
                retry_after=1,
            )


class _Body:
    """What has come of a body."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        self.parts.append(part)
        self.size += len(part)

    def joined(self) -> bytes:
        """Return all of it, and keep none of it: a large one is not in memory twice."""
        whole = b"".join(self.parts)
        self.parts.clear()
        return whole


def _is_open(scope: Scope) -> bool:
    path = route_path(scope)
    return path in OPEN or DOCS.fullmatch(path) is not None


def _route_with_body(scope: Scope) -> str:
    """Return the route that reads a body, as :data:`VALUES` names it; empty if none may."""
    path = route_path(scope)
    if scope["method"] == "PATCH" and path.startswith("/v1/images/"):
        return "/v1/images/{id}"
    return path if scope["method"] == "POST" else ""


def check_values(parts: Sequence[bytes], most: int) -> None:
    """Pass JSON that holds few values enough.

    :raises Refusal: If there are more.
    """
    if (count := sum(part.count(mark) for part in parts for mark in _MARKS)) > most:
        raise Refusal(
            422,
            f"the JSON has {count:,} commas, colons and brackets; at most {most:,} are read",
            code="query_too_long",
        )


def _replayed(body: bytes) -> Receive:
    """Return what gives a body that was read, and then nothing."""
    left = [body]

    async def replay() -> Message:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    return replay


def _is_of_other_page(method: str, headers: Headers) -> bool:
    """Return whether a browser sends this for a page that did not come from here.

    A browser that follows a link to a page here is let in.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    follows = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (follows and method in ("GET", "HEAD"))


def _host(header: str) -> str:
    """Return the name in a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _method(scope: Scope) -> str:
    """Return the method, if it is a usual one: a client can make up any number of others."""
    usual = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
    return scope["method"] if scope["method"] in usual else "other"
