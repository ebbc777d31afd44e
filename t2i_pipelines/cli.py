"""The ``t2i`` command. Exit codes: 0 good, 1 some inputs failed, 2 wrong usage or no service, 130 Ctrl-C."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from t2i_pipelines import __version__, cli_bench, cli_models, console, demo
from t2i_pipelines._towhee import pipe
from t2i_pipelines.config import DEFAULT_MODEL
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import T2IError
from t2i_pipelines.hardening import harden
from t2i_pipelines.images import count
from t2i_pipelines.page import render
from t2i_pipelines.pipelines import build_search_pipeline, insert_steps
from t2i_pipelines.types import Hit

app = typer.Typer(
    help="Text-to-image search: type words, get the matching pictures.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
cli_models.add_to(app)
cli_bench.add_to(app)

Uri = Annotated[str, typer.Option(help="A local file ending in .db, or a Milvus server's http://host:19530.")]
Token = Annotated[str, typer.Option(envvar="MILVUS_TOKEN", help="user:password or API key of the server.")]
Name = Annotated[str, typer.Option(help="Collection; insert and search must name the same.")]
Model = Annotated[
    str,
    typer.Option(
        help="Name (see `t2i models`) or path; insert and search must give the same. A name's weights are "
        "downloaded once; those of t2i_mini are bundled."
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="The model's file or folder, if you have it.")]
Source = Annotated[
    str, typer.Argument(help="A folder, a quoted glob, a CSV with a `path` column, or a file.")
]
BatchSize = Annotated[int, typer.Option(help="Pictures a batch.")]
StopAtError = Annotated[bool, typer.Option("--stop-at-error", help="Stop at the first bad picture.")]
Words = Annotated[str, typer.Argument(help="What the pictures show, for example: 'a white dog'.")]
Limit = Annotated[int, typer.Option(help="How many hits.")]
Filter = Annotated[str, typer.Option(help="Milvus filter expression, for example: 'year > 2015'.")]
OutputFields = Annotated[list[str] | None, typer.Option(help="Further column to show; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Html = Annotated[Path | None, typer.Option(help="Write a self-contained page with the pictures.")]


@app.command()
def insert(
    source: Annotated[
        str, typer.Argument(help="A folder, a quoted glob, a CSV with a `path` column, or a file.")
    ],
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    model_name: Model = DEFAULT_MODEL,
    checkpoint_path: Checkpoint = None,
    batch_size: BatchSize = 32,
    stop_at_error: StopAtError = False,
) -> None:
    """Insert pictures. Running it again is safe: what is stored already is passed by."""
    failed = _insert(
        source,
        uri=uri,
        token=token,
        collection_name=collection_name,
        model_name=model_name,
        checkpoint_path=checkpoint_path,
        batch_size=batch_size,
        on_error="raise" if stop_at_error else "record",
    )
    raise typer.Exit(1 if failed else 0)


@app.command()
def search(
    text: Words,
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    model_name: Model = DEFAULT_MODEL,
    checkpoint_path: Checkpoint = None,
    limit: Limit = 10,
    filter: Filter = "",
    output_fields: OutputFields = None,
    json: Json = False,
    html: Html = None,
) -> None:
    """Find pictures by words, best first."""
    pipeline = build_search_pipeline(
        uri=uri,
        token=token,
        collection_name=collection_name,
        model_name=model_name,
        checkpoint_path=checkpoint_path,
        limit=limit,
        filter=filter,
        output_fields=output_fields or (),
    )
    _, hits = pipeline(text).get()
    if json:
        typer.echo(console.as_json(text, hits))
    else:
        console.show_hits(text, hits)
    if html:
        _write_page(html, [(text, hits)], title=text, note=f"{len(hits)} hits, model {model_name}")


@app.command(name="demo")
def run_demo(
    source: Annotated[str, typer.Option(help="Pictures to try it on.")] = demo.SOURCE,
    uri: Uri = demo.URI,
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path(demo.PAGE),
) -> None:
    """Insert a gallery, ask six questions in five languages, and write a page with the pictures."""
    failed = _insert(source, uri=uri, collection_name=demo.COLLECTION, model_name=demo.MODEL)
    pipeline = build_search_pipeline(
        uri=uri, collection_name=demo.COLLECTION, model_name=demo.MODEL, limit=demo.LIMIT
    )
    results = [tuple(pipeline(query).get()) for query in demo.QUERIES]
    for query, hits in results:
        console.show_hits(query, hits, pictures=False)
    _write_page(html, results, title="Type words, get the matching pictures", note=demo.NOTE)
    raise typer.Exit(1 if failed else 0)


def _insert(source: str, **settings: Any) -> int:
    """Insert with a progress bar; gives the number of failures."""
    _open_model(settings)
    with console.progress_bar(count(source)) as tally:
        steps = insert_steps(pipe.input("source"), **settings)
        try:
            # a lambda, since Towhee deep-copies any other callable with all that it holds
            counted = steps.map(("status", "reason"), (), lambda status, reason: tally(status, reason))
            harden(counted.output())(source)
        except KeyboardInterrupt:
            console.err.print(f"interrupted; so far {tally.summary()}; run it again to go on")
            raise typer.Exit(130) from None
    console.show_failures(tally)
    console.err.print(tally.summary())
    return tally.counts["failed"]


def _open_model(settings: dict[str, Any]) -> None:
    """Load the model, or end here: without one there is no use in walking through a large folder."""
    wanted = signature(load_encoder).parameters.keys() & settings.keys()
    load_encoder(**{name: settings[name] for name in wanted}).space  # noqa: B018 - loads


def _write_page(path: Path, results: list[tuple[str, list[Hit]]], title: str, note: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, title=title, note=note), encoding="utf-8")
    console.err.print(f"wrote {escape(str(path))}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"t2i-pipelines {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; an error of ours is one line on stderr and exit code 2."""
    try:
        app()
    except T2IError as err:
        console.err.print(f"[red]error:[/] {escape(str(err))}", soft_wrap=True)
        sys.exit(2)
