"""``t2i mcp``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import MODEL_HELP, takes
from t2i_pipelines.config.settings import Model
from t2i_pipelines.serve import ServeOptions, serve_mcp
from t2i_pipelines.serve.options import KEY_VARIABLE

SHOWN = ("roots", "host", "port", "allow_urls", "max_pixels", "state")
"""Options of the service that are options of the command by the same name."""

Http = Annotated[bool, typer.Option("--http", help="Serve HTTP at /mcp, in place of stdin and stdout.")]
AllowInsert = Annotated[
    bool, typer.Option("--allow-insert", help="Let assistants insert images from the folders of --root.")
]


@takes(
    *SHOWN,
    of=ServeOptions,
    defaults={"port": 8001},
    helps={
        "roots": "Folder whose images can be viewed, used as queries and inserted, or NAME=FOLDER; "
        "repeatable. Without it, on stdin, every stored image can be viewed.",
        "allow_urls": "Let assistants look at stored images that are on the web, and search by such.",
        "host": f"With --http: address to listen on; any but loopback needs a key in {KEY_VARIABLE}.",
        "port": "With --http: port to listen on; 0 takes any free one.",
    },
)
@takes(
    *("uri", "token", "collection_name", Model, "timeout"),
    defaults={"timeout": 10.0},
    helps={"model_name": MODEL_HELP},
)
def run(http: Http = False, allow_insert: AllowInsert = False, **given: Any) -> None:
    """Let assistants search images: an MCP server on stdin and stdout, which they start, or over HTTP.

    They can look at images, and change nothing without --allow-insert. Each option is a variable of the
    environment, too: --uri is T2I_URI.
    """
    handler = RichHandler(console=console.err, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("t2i_pipelines.serve").setLevel(logging.INFO)
    if http:
        console.leave_to_python()
        key = os.environ.get(KEY_VARIABLE, "")
    else:
        console.say_at_interrupt(lambda: None)
        key, given["host"] = "", ServeOptions.host  # nothing is listened on
        if sys.stdin.isatty():
            console.err.print("waiting for an assistant on stdin; Ctrl-C ends it", highlight=False)
    options = ServeOptions(**{name: given.pop(name) for name in SHOWN}, api_key=key)
    try:
        finished = serve_mcp(options, allow_insert=allow_insert, http=http, **given)
    except KeyboardInterrupt:
        raise typer.Exit(console.EXIT_CODE) from None
    if not finished:
        console.err.file.flush()
        os._exit(1)  # threads that are still inserting would keep the process
