"""The HTTP service: what the pipelines do, for many clients at once.

::

    options.py      what may be chosen, and checked before anything starts
    app.py          the FastAPI application, and a server that finishes what it accepted
    service.py      what the requests of an application share
    middleware.py   access control and limits, before any route
    routes.py       search, stored images, state; insert_routes.py, inserts and their jobs
    schemas.py      models of requests and responses; requests.py reads them
    roots.py        the folders whose files may be inserted and shown
    batches.py      requests that come together are embedded and searched together
    jobs.py         inserts, which take their time, kept over a restart
    uploads.py      images that come with the request

Importing this package imports nothing of these; they need the extra ``serve``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2i_pipelines.errors import MissingExtraError
from t2i_pipelines.serve.options import ServeOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["ServeOptions", "build_app", "serve"]


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
        from t2i_pipelines.serve import app
    except ModuleNotFoundError as err:
        raise _missing(err) from err
    return app.run(options or ServeOptions(), settings)


def _missing(err: ModuleNotFoundError) -> MissingExtraError:
    return MissingExtraError.of(err.name, "serve")
