"""``t2i serve``."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import (
    Backend,
    BatchSize,
    Checkpoint,
    Device,
    Model,
    Name,
    Precision,
    Token,
    Uri,
)
from t2i_pipelines.serve import ServeOptions, serve
from t2i_pipelines.serve.options import KEY_VARIABLE

Host = Annotated[
    str, typer.Option(help=f"Address to listen on; any but loopback needs a key in {KEY_VARIABLE}.")
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 is any that is free.")]
Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        help="Folder whose files can be inserted and shown, or NAME=FOLDER; repeatable. Clients name files "
        "by it, as in photos/2024/dog.jpg.",
    ),
]
AllowUrls = Annotated[
    bool, typer.Option("--allow-urls", help="Let clients insert and ask for images on the web.")
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Refuse to insert and to delete.")]
Timeout = Annotated[float, typer.Option(help="Seconds that one call to Milvus may take.")]
MaxBody = Annotated[int, typer.Option(help="Bytes of a request.")]
MaxPixels = Annotated[int, typer.Option(help="Pixels of an image.")]
MaxQuery = Annotated[int, typer.Option(help="Characters of a text.")]
MaxPage = Annotated[int, typer.Option(help="Hits of a query.")]
MaxQueue = Annotated[int, typer.Option(help="Queries that wait; more get 429.")]
MaxRequests = Annotated[int, typer.Option(help="Requests at a time; more get 429.")]
MaxJobs = Annotated[int, typer.Option(help="Inserts that wait or run; more get 429.")]
SearchBatch = Annotated[int, typer.Option(help="Queries embedded and searched at once; 1 is one by one.")]
SearchWait = Annotated[float, typer.Option(help="Milliseconds that a query waits for others, at most.")]
Drain = Annotated[float, typer.Option(help="Seconds that the end waits for accepted inserts.")]

_DEFAULT = ServeOptions()


def run(
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    model_name: Model = None,
    checkpoint_path: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 32,
    timeout: Timeout = 10.0,
    host: Host = _DEFAULT.host,
    port: Port = _DEFAULT.port,
    root: Roots = None,
    allow_urls: AllowUrls = False,
    read_only: ReadOnly = False,
    max_body: MaxBody = _DEFAULT.max_body,
    max_pixels: MaxPixels = _DEFAULT.max_pixels,
    max_query: MaxQuery = _DEFAULT.max_query,
    max_page: MaxPage = _DEFAULT.max_page,
    max_queue: MaxQueue = _DEFAULT.max_queue,
    max_requests: MaxRequests = _DEFAULT.max_requests,
    max_jobs: MaxJobs = _DEFAULT.max_jobs,
    search_batch: SearchBatch = _DEFAULT.batch_size,
    search_wait: SearchWait = 1000 * _DEFAULT.batch_wait,
    drain: Drain = _DEFAULT.drain,
) -> None:
    """Serve searches and inserts over HTTP; the interface is described at /docs.

    Each option is a variable of the environment, too: --model-name is T2I_MODEL_NAME.
    """
    _log_to_stderr()
    options = ServeOptions(
        host=host,
        port=port,
        roots=root or (),
        allow_urls=allow_urls,
        read_only=read_only,
        api_key=os.environ.get(KEY_VARIABLE, ""),
        max_body=max_body,
        max_pixels=max_pixels,
        max_query=max_query,
        max_page=max_page,
        max_queue=max_queue,
        max_requests=max_requests,
        max_jobs=max_jobs,
        batch_size=search_batch,
        batch_wait=search_wait / 1000,
        drain=drain,
    )
    settings: dict[str, Any] = {
        "uri": uri,
        "token": token,
        "collection_name": collection_name,
        "model_name": model_name,
        "checkpoint_path": checkpoint_path,
        "device": device,
        "precision": precision,
        "backend": backend,
        "batch_size": batch_size,
        "timeout": timeout,
    }
    try:
        finished = serve(options, **settings)
    except KeyboardInterrupt:
        raise typer.Exit(console.EXIT_CODE) from None
    if not finished:
        console.err.file.flush()
        os._exit(1)  # threads that are still inserting would keep the process


def _log_to_stderr() -> None:
    handler = RichHandler(console=console.err, show_path=False, rich_tracebacks=False)
    for name in ("t2i_pipelines.serve", "uvicorn"):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(logging.INFO if name != "uvicorn" else logging.WARNING)


def add_to(app: typer.Typer) -> None:
    """Make it a command of ``app``; each option is also read from the environment, as ``T2I_HOST``."""
    app.command(name="serve", context_settings={"auto_envvar_prefix": "T2I"})(run)
