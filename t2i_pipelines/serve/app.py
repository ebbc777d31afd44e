"""Build the FastAPI application: its routes, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline

from t2i_pipelines.serve.insert_routes import insert_routes
from t2i_pipelines.serve.middleware import Guard
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.problems import add_handlers
from t2i_pipelines.serve.routes import images_routes, search_routes, state_routes
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
