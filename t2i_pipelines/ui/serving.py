"""How the page is served: to this machine alone, whatever the environment says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.images.limits import MAX_BYTES
from t2i_pipelines.ui.gate import LOOPBACK, Gate

SESSIONS = 100
"""Open pages whose last result is kept; each may hold an uploaded image."""


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``gradio.Blocks.launch`` is given: what was asked for, and what is not to be chosen.

    Each of the latter has an environment variable of Gradio's that would count if it was left out.

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
        "app_kwargs": {"middleware": [Middleware(Gate)]},
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
    """Whether the session is interactive, as in a notebook, and the process does not end by itself."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)
