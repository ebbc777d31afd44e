"""The HTTP service: what the pipelines do, for many clients at once.

::

    options.py      what may be chosen, and checked before anything starts
    app.py          the FastAPI application; server.py runs it, and finishes what it accepted
    service.py      what the requests of an application share
    middleware.py   access control and limits, before any route; the access log
    keys.py         keys and their scopes
    logs.py         the log as text or JSON, and traces
    routes.py       search, state; stored_routes.py, what is stored; insert_routes.py, inserts and their jobs
    embeddings.py   vectors in the form of OpenAI's API
    schemas.py      models of requests and responses; requests.py reads them
    roots.py        the folders whose files may be inserted and shown
    batches.py      requests that come together are embedded and searched together
    throttle.py     inserts pause while searches come
    jobs.py         inserts, which take their time, kept over a restart
    uploads.py      images that come with the request
    mcp.py          the same as tools of an MCP server, for assistants

Importing this package imports nothing of these; they need the extra ``serve``, and ``mcp.py``
needs ``mcp``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from t2i_pipelines.errors import MissingExtraError
from t2i_pipelines.serve.options import ServeOptions

if TYPE_CHECKING:
    from fastapi import FastAPI
    from mcp.server.mcpserver import MCPServer

__all__ = ["ServeOptions", "build_app", "build_mcp", "serve", "serve_mcp"]


def build_app(options: ServeOptions | None = None, **settings: Any) -> FastAPI:
    """Return the service as an ASGI application, for a server of your own.

    :param options: what it allows.
    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises ConfigError: If one of them is wrong.
    :raises MissingExtraError: If the extra ``serve`` is not installed.
    """
    try:
        from t2i_pipelines.serve import app
    except ModuleNotFoundError as err:
        raise _missing(err) from err
    return app.make(options or ServeOptions(), settings)


def serve(options: ServeOptions | None = None, **settings: Any) -> bool:
    """Serve until SIGTERM or Ctrl-C, and then finish what was accepted; see :func:`build_app`.

    :return: whether all of it was finished in ``options.drain`` seconds.
    :raises KeyboardInterrupt: If Ctrl-C ended it; after all was finished.
    :raises ConfigError: If something is wrong, or the port cannot be listened on.
    :raises CheckpointError: If the model cannot be loaded.
    """
    try:
        from t2i_pipelines.serve import server
    except ModuleNotFoundError as err:
        raise _missing(err) from err
    return server.run(options or ServeOptions(), settings)


def build_mcp(
    options: ServeOptions | None = None, *, allow_insert: bool = False, **settings: Any
) -> MCPServer[None]:
    """Return the MCP server, for a transport of your own; its ``run()`` speaks on stdin and stdout.

    Its client is trusted as the user of this machine: without ``roots``, every stored image is shown.

    :param options: ``roots``, ``allow_urls`` and the limits.
    :param allow_insert: let assistants insert images from ``roots``.
    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises ConfigError: If one of them is wrong.
    :raises MissingExtraError: If the extra ``mcp`` is not installed.
    """
    try:
        from t2i_pipelines.serve import mcp
    except ModuleNotFoundError as err:
        raise _missing(err, "mcp") from err
    return mcp.Tools(_allowing(options, allow_insert), settings).server()


def serve_mcp(
    options: ServeOptions | None = None, *, allow_insert: bool = False, http: bool = False, **settings: Any
) -> bool:
    """Serve :func:`build_mcp` on stdin and stdout until they are closed, or over HTTP as :func:`serve` does.

    Over HTTP, only images in ``roots`` are shown.

    :return: whether all accepted inserts were finished.
    :raises KeyboardInterrupt: If Ctrl-C ended it; over HTTP after all was finished.
    :raises ConfigError: If something is wrong, or the port cannot be listened on.
    :raises MissingExtraError: If the extra ``mcp`` is not installed.
    """
    try:
        from t2i_pipelines.serve import mcp, server
    except ModuleNotFoundError as err:
        raise _missing(err, "mcp") from err
    allowed = _allowing(options, allow_insert)
    return server.run(allowed, settings, mcp.make_http) if http else mcp.run(allowed, settings)


def _allowing(options: ServeOptions | None, allow_insert: bool) -> ServeOptions:
    return replace(options or ServeOptions(), read_only=not allow_insert)


def _missing(err: ModuleNotFoundError, extra: str = "serve") -> MissingExtraError:
    return MissingExtraError.of(err.name, extra)
