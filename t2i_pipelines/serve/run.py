"""The service as a process: it listens, and at SIGTERM or Ctrl-C finishes what it accepted."""

from __future__ import annotations

import logging
import signal
import socket
from typing import Any

import uvicorn

from t2i_pipelines.collection import close
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve.app import make
from t2i_pipelines.serve.options import ServeOptions

KEEP_ALIVE = 30
"""Seconds that an idle connection stays open."""

log = logging.getLogger("t2i_pipelines.serve")


def run(options: ServeOptions, settings: dict[str, Any]) -> bool:
    """Serve; see :func:`t2i_pipelines.serve.serve`."""
    app = make(options, settings)
    service = app.state.service
    with _listening(options) as listener:
        service.load()
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        host, port = listener.getsockname()[:2]
        log.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        # uvicorn raises the signals that it heard once more after its end, which is the end that was wanted
        heard: list[int] = []
        before = {
            one: signal.signal(one, lambda number, _: heard.append(number))
            for one in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            if not service.unfinished:
                close()
    if signal.SIGINT in heard and not service.unfinished:
        raise KeyboardInterrupt
    return not service.unfinished


def _listening(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as err:
        raise ConfigError(
            f"cannot listen on {options.host}, port {options.port}: {err.strerror or err}; choose another by "
            "host and port"
        ) from err
