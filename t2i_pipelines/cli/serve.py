"""``t2i serve``."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import MODEL_HELP, takes
from t2i_pipelines.config.checks import check_one_of
from t2i_pipelines.config.settings import Model
from t2i_pipelines.errors import MissingExtraError
from t2i_pipelines.serve import ServeOptions, serve
from t2i_pipelines.serve.options import KEY_VARIABLE, LogFormat

SHOWN = (
    *("host", "port", "roots", "allow_urls", "read_only", "max_body", "max_pixels", "max_query", "max_page"),
    *("max_queue", "max_requests", "max_connections", "max_jobs", "insert_share", "drain"),
    *("keys_file", "cors_origins", "root_path", "forwarded_allow_ips", "uploads", "state"),
)
"""Options of the service that are options of the command by the same name."""

_DEFAULT = ServeOptions()


@takes(*SHOWN, of=ServeOptions)
@takes(
    "uri",
    "token",
    "collection_name",
    Model,
    "batch_size",
    "timeout",
    defaults={"timeout": 10.0, "batch_size": 8},
    helps={"model_name": MODEL_HELP},
)
def run(
    search_batch: Annotated[
        int, typer.Option(help="Maximum number of queries per batch; 1 searches one by one.")
    ] = _DEFAULT.batch_size,
    search_wait: Annotated[
        float, typer.Option(help="Maximum milliseconds that a query waits for others.")
    ] = 1000 * _DEFAULT.batch_wait,
    log_format: Annotated[
        str, typer.Option(help="text, or json: one object per line, with the request id.")
    ] = "text",
    **given: Any,
) -> None:
    """Serve searches and inserts over HTTP; the interface is described at /docs.

    Each option is a variable of the environment, too: --model-name is T2I_MODEL_NAME.
    """
    _log_to_stderr(log_format)
    options = ServeOptions(
        **{name: given.pop(name) for name in SHOWN},
        api_key=os.environ.get(KEY_VARIABLE, ""),
        batch_size=search_batch,
        batch_wait=search_wait / 1000,
    )
    try:
        finished = serve(options, **given)
    except KeyboardInterrupt:
        raise typer.Exit(console.EXIT_CODE) from None
    if not finished:
        console.err.file.flush()
        os._exit(1)  # threads that are still inserting would keep the process


def _log_to_stderr(log_format: Any) -> None:
    check_one_of("log_format", log_format, LogFormat)
    try:
        from t2i_pipelines.serve.logs import write_logs
    except ModuleNotFoundError as err:
        raise MissingExtraError.of(err.name, "serve") from err
    if log_format == "text" and console.err.file.isatty():  # FORCE_COLOR makes a terminal of a pipe
        handler = RichHandler(console=console.err, show_path=False, rich_tracebacks=False)
        write_logs(handler, log_format, "%(message)s")
    else:  # Rich would fold lines
        write_logs(logging.StreamHandler(), log_format)
