"""Serve the page to this machine alone, whatever the environment says.

Gradio's server has many more routes: it serves files, fetches from other hosts, describes its API, and keeps
statistics. Only those that the page needs are answered, and the images of hits.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.images.address import MAX_BYTES

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

ROUTES = re.compile(
    r"/|/image/(?:small|view|original|download)|/config|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(?:assets|static)/.+"
    r"|/gradio_api/(?:queue/(?:join|data)|upload|upload_progress|heartbeat/\w+|startup-events|theme\.css|cancel"
    r"|app_id)/?"
)

POLICY = (
    "default-src 'none'; "
    # Gradio's page has scripts of its own in it, and makes functions of templates
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'self'; "
    # notebooks show the page in a frame; frames of other sites could mislead clicks to Insert
    "frame-ancestors 'self' localhost:* 127.0.0.1:* vscode-webview:"
)
"""The browser asks no other host for anything, whatever the page holds."""

_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Gate:
    """ASGI middleware. Refuses other routes, other names of this host, and what other pages send.

    A page from elsewhere that is open in the same browser could else insert, or read hits by a name of its
    own that leads to 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = 404 if scope["type"] != "http" else _refused(scope)
        if status:
            await send({"type": "http.response.start", "status": status, "headers": list(_HEADERS)})
            await send({"type": "http.response.body", "body": b""})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)


def _refused(scope: Scope) -> int:
    """Return the status to refuse with; 0 for none."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin")
    if _parts(f"//{host}").hostname not in LOOPBACK:
        return 403
    if origin is not None and _parts(origin.decode("latin-1")).netloc != host:
        return 403
    # a link elsewhere may lead to the page, and a notebook may frame it; no page may ask for a part of it
    if scope["path"] != "/" and headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        return 403
    return 0 if ROUTES.fullmatch(scope["path"]) else 404


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # brackets that are not closed
        return urlsplit("")


SESSIONS = 100
"""Open pages whose last result is kept; each may hold an uploaded image."""


def checked(options: Mapping[str, Any], routes: Sequence[BaseRoute] = ()) -> dict[str, Any]:
    """Return what ``gradio.Blocks.launch`` is given: what was asked for, and what is not to be chosen.

    Each of the latter has an environment variable of Gradio's that would count if it was left out.

    :param routes: those of the page itself.
    :raises ConfigError: If another machine could reach the page by an option.
    """
    if options.get("share"):
        raise ConfigError("share must be False: the page is for this machine alone")
    name = options.get("server_name") or "127.0.0.1"
    if name not in LOOPBACK:
        raise ConfigError(
            f"server_name must be one of {', '.join(sorted(LOOPBACK))}, got {name!r}: the page has no "
            "login; an SSH tunnel leads to it from elsewhere"
        )
    return {
        "quiet": True,
        "height": 900,
        "theme": gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO).set(
            # white on the theme's own blue has less contrast than WCAG asks for
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
            block_title_background_fill="none",
            block_title_text_color="*body_text_color",
            block_title_padding="0",
        ),
        **options,
        "server_name": name,
        "share": False,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "num_workers": 0,
        "max_file_size": MAX_BYTES,
        "state_session_capacity": SESSIONS,
        "app_kwargs": {"middleware": [Middleware(Gate)], "routes": list(routes)},
        "prevent_thread_lock": True,
    }


FONTS = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")
"""Fonts that are there. Gradio's own come from elsewhere."""


@contextmanager
def direct_to_loopback() -> Iterator[None]:
    """Let nothing to 127.0.0.1 go by a proxy: Gradio asks its server whether it is up."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    for name, value in before.items():
        os.environ[name] = ",".join(filter(None, [value, *sorted(LOOPBACK)]))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def is_interactive() -> bool:
    """Return whether the session is interactive, as in a notebook, and the process does not end by itself."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)
