"""Who is let in, how many at a time, and how much each may bring; before any route is looked for."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from ipaddress import ip_address

from anyio import CancelScope
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.options import KEY_VARIABLE, ServeOptions
from t2i_pipelines.serve.problems import Refusal, answer

OPEN = frozenset({"/healthz", "/readyz"})
"""What an orchestrator asks without a key, and without counting as a request."""

DOCS = ("/docs", "/openapi.json", "/static-offline-docs/")
"""What tells no more than the source code does."""

INSERT_BODY = 8 << 20
"""Bytes of an insert: 10,000 long URLs."""

VALUES = {"/v1/search": 10_000, "/v1/insert": 100_000}
"""Values that the JSON of a route may hold. Each is looked at in the event loop, where all others wait."""

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


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics
        self._key = options.api_key.encode()
        self._inside = self._held = 0
        self._bodies = {"/v1/search": options.max_body, "/v1/insert": min(options.max_body, INSERT_BODY)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it in."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        is_head = scope["method"] == "HEAD"
        asked = {**scope, "method": "GET"} if is_head else scope  # every route that has GET has HEAD

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            elif is_head:
                message["body"] = b""
            await send(message)

        try:
            await self._answer(asked, receive, watched)
        finally:
            route = getattr(asked.get("route"), "path", "")
            self._metrics.requests.labels(route, _method(scope), str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_caller(scope)
            if _is_open(scope):  # without a key: so it takes no place, and its body is not read
                await self._app(scope, _replayed(b""), send)
                return
            self._check_crowd()
        except Refusal as err:
            await answer(err, self._metrics)(scope, receive, send)
            return
        self._inside += 1
        self._metrics.in_flight.set(self._inside)
        body = _Body()
        try:
            await self._read(scope, receive, body)
            await self._while_connected(scope, _replayed(b"".join(body.parts)), receive, send)
        except Refusal as err:
            await answer(err, self._metrics)(scope, receive, send)
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
        if self._key:
            if not _is_open(scope) and not self._knows_key(headers):
                raise Refusal(401, "a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
            return
        # without a key, only this machine: neither other machines, nor pages of other sites in its browser
        if not _is_loopback((scope.get("client") or ("",))[0]) and scope.get("client") is not None:
            raise Refusal(401, f"only this machine is let in; set {KEY_VARIABLE} to let others in by a key")
        if not _is_loopback(_host(headers.get("host", ""))):
            raise Refusal(421, "without a key, the service answers to 127.0.0.1 and localhost only")
        if _is_of_other_page(scope["method"], headers):
            raise Refusal(403, "without a key, pages of other sites get no answer", code="other_site")

    def _knows_key(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("latin-1"), self._key)

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
        most = self._bodies.get(scope["path"], 0) if scope["method"] == "POST" else 0
        if most and Headers(scope=scope).get("content-type", "").lower().startswith("multipart/form-data"):
            most = self._options.max_body  # files
        if not most:  # no other route has one
            return
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
        if "json" in Headers(scope=scope).get("content-type", ""):
            check_values(body.parts, VALUES[scope["path"]])

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


def _is_open(scope: Scope) -> bool:
    return scope["path"] in OPEN or scope["path"].startswith(DOCS)


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
