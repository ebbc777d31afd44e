"""Build the FastAPI application, and run it: at SIGTERM or Ctrl-C it finishes what it accepted."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import uvicorn
from fastapi import FastAPI, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline

from t2i_pipelines.collection import close
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve.middleware import Guard
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.problems import add_handlers
from t2i_pipelines.serve.routes import images_routes, insert_routes, search_routes, state_routes
from t2i_pipelines.serve.service import Service

DESCRIPTION = """
Type words, get the matching images.

Errors are problem details (RFC 9457); `code` tells what went wrong, and stays the same. Paths begin with the
name of a folder that is served. Where a key is needed, send it as `Authorization: Bearer KEY`.
"""


def make(options: ServeOptions, settings: dict[str, Any]) -> FastAPI:
    """Put it together; see :func:`t2i_pipelines.serve.build_app`."""
    service = Service(options, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPIOffline(
        title="t2i_pipelines",
        version=version("t2i-pipelines"),
        description=DESCRIPTION,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    # the guard asks for the key; these two say so in the docs
    says_so = [
        Security(HTTPBearer(auto_error=False)),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]
    locked = says_so if options.api_key else []
    app.include_router(search_routes(service), dependencies=locked)
    app.include_router(images_routes(service), dependencies=locked)
    app.include_router(insert_routes(service), dependencies=locked)
    app.include_router(state_routes(service, locked))
    add_handlers(app, service.metrics, service.roots)
    app.add_middleware(Guard, options=options, metrics=service.metrics)
    return app


KEEP_ALIVE = 30
"""Seconds that an idle connection stays open."""

log = logging.getLogger("t2i_pipelines.serve")


def run(options: ServeOptions, settings: dict[str, Any]) -> bool:
    """Serve; see :func:`t2i_pipelines.serve.serve`."""
    app = make(options, settings)
    service = app.state.service
    with listening(options) as listener:
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
