"""Build the FastAPI application: its routes, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from t2i_pipelines.serve.embeddings import embeddings_routes
from t2i_pipelines.serve.insert_routes import insert_routes
from t2i_pipelines.serve.keys import Keys
from t2i_pipelines.serve.logs import telemetry
from t2i_pipelines.serve.middleware import AccessLog, Guard, request_id
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.problems import add_handlers
from t2i_pipelines.serve.routes import search_routes, state_routes
from t2i_pipelines.serve.service import Service
from t2i_pipelines.serve.stored_routes import images_routes, stored_routes

DESCRIPTION = """
Type words, get the matching images.

Errors are problem details (RFC 9457); `code` tells what went wrong, and stays the same. Paths begin with the
name of a folder that is served. Where a key is needed, send it as `Authorization: Bearer KEY`; it has the
scope `read`, `write` or both. Answers have an `X-Request-ID`, yours if you send one; the log has it, too.
"""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SENT = (
    *("Authorization", "X-API-Key", "X-Request-ID", "Idempotency-Key", "If-None-Match", "If-Range", "Range"),
    *("traceparent", "tracestate", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name"),
)
"""Headers that pages of allowed origins may send; ``READ``: those that they may read."""

READ = ("X-Request-ID", "ETag", "Location", "Retry-After", "Content-Range", "Accept-Ranges")

UNCOMPRESSED = (
    # images do not shrink; the files of the docs have strong ETags and ranges, which are of their bytes
    *DEFAULT_EXCLUDED_CONTENT_TYPES,
    *("image/*", "text/css", "text/javascript", "application/javascript"),
)
"""Media types that are sent as they are."""


def make(options: ServeOptions, settings: dict[str, Any]) -> FastAPI:
    """Put it together; see :func:`t2i_pipelines.serve.build_app`."""
    keys = Keys(options.api_key, options.keys_file)
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
        telemetry=telemetry(),
    )
    app.state.service = service
    # the guard asks for the key; these two say so in the docs
    says_so = [
        Security(HTTPBearer(auto_error=False)),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]
    locked = says_so if keys else []
    app.include_router(search_routes(service), dependencies=locked)
    app.include_router(embeddings_routes(service), dependencies=locked)
    app.include_router(stored_routes(service), dependencies=locked)
    app.include_router(images_routes(service), dependencies=locked)
    app.include_router(insert_routes(service), dependencies=locked)
    app.include_router(state_routes(service, locked))
    add_handlers(app, service.metrics, service.roots)
    add_middleware(app, options, keys, service)
    return app


def add_middleware(app: Starlette, options: ServeOptions, keys: Keys, service: Service) -> None:
    """Put access control, limits and logging around an application."""
    # from the inside out: the caller is known before a body is read; refusals have CORS headers, too
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5, exclude_content_types=UNCOMPRESSED)
    app.add_middleware(Guard, options=options, keys=keys, metrics=service.metrics, roots=service.roots)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=METHODS,
            allow_headers=SENT,
            expose_headers=READ,
            allow_private_network=True,
        )
    app.add_middleware(AccessLog, metrics=service.metrics)
    app.add_middleware(
        CorrelationIdMiddleware, validator=None, transformer=request_id, update_request_header=False
    )
