"""The ``t2i`` command. Exit codes: 0 good, 1 some inputs failed, 2 wrong usage or no service, 130 Ctrl-C."""

from __future__ import annotations

import io
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from t2i_pipelines._towhee.door import pipe
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.cli import (
    capacity,
    console,
    copy,
    duplicates,
    eval,
    finetune,
    info,
    models,
    reembed,
    search,
    serve,
    sync,
    ui,
)
from t2i_pipelines.cli import options as on_ray
from t2i_pipelines.cli.options import (
    Backend,
    BatchSize,
    Checkpoint,
    Device,
    Exclude,
    IndexType,
    Mmap,
    Model,
    Name,
    PartitionKey,
    Precision,
    Refresh,
    ReplicaNumber,
    Report,
    Source,
    StopAtError,
    Token,
    Uri,
    VectorType,
    decoding_options,
)
from t2i_pipelines.cli.search import write_page
from t2i_pipelines.config.settings import Settings
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ConfigError, T2IError
from t2i_pipelines.images import count, is_remote, records
from t2i_pipelines.pipelines import build
from t2i_pipelines.pipelines.build import OUTCOME_COLUMNS, build_search_pipeline, checked, insert_steps
from t2i_pipelines.types import Outcome

PANELS = {
    "Every day": ("insert", "search", "sync", "info", "duplicates", "ui", "serve"),
    "Models and quality": ("models", "eval", "finetune", "quantize", "export"),
    "Collections": ("reembed", "export-collection", "import-collection", "capacity"),
    "To begin with": ("demo",),
}
"""The commands in the order in which ``t2i --help`` lists them."""


class InPanels(TyperGroup):
    """Lists commands by :data:`PANELS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names in order."""
        names = [name for panel in PANELS.values() for name in panel]
        for panel, some in PANELS.items():
            for name in some:
                cast(Any, self.commands[name]).rich_help_panel = panel
        return names


app = typer.Typer(
    cls=InPanels,
    help="Text-to-image search: type words, get the matching images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
models.add_to(app)
capacity.add_to(app)
copy.add_to(app)
duplicates.add_to(app)
eval.add_to(app)
finetune.add_to(app)
info.add_to(app)
reembed.add_to(app)
search.add_to(app)
serve.add_to(app)
sync.add_to(app)
ui.add_to(app)


@app.command()
@decoding_options
def insert(
    source: Source,
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    model_name: Model = None,
    checkpoint_path: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 32,
    refresh: Refresh = False,
    exclude: Exclude = None,
    stop_at_error: StopAtError = False,
    report: Report = None,
    index_type: IndexType = Settings.index_type,
    vector_type: VectorType = Settings.vector_type,
    mmap: Mmap = False,
    partition_key: PartitionKey = None,
    replica_number: ReplicaNumber = 1,
    ray: on_ray.Ray = False,
    ray_address: on_ray.Address = "",
    bulk: copy.Bulk = "",
    **decoding: Any,
) -> None:
    """Insert images. Running it again is safe: unchanged files are skipped."""
    if report is not None:
        console.check_writable(report)
    if bulk and (ray or ray_address):
        raise ConfigError("--bulk and --ray are two ways to insert: choose one")
    insert_from = _insert
    if ray or ray_address:
        insert_from = on_ray.insert_at(ray_address)
    elif bulk:
        insert_from = copy.insert_into(bulk)
    failed = insert_from(
        source,
        report,
        uri=uri,
        token=token,
        collection_name=collection_name,
        model_name=model_name,
        checkpoint_path=checkpoint_path,
        device=cast(Any, device),
        precision=cast(Any, precision),
        backend=cast(Any, backend),
        batch_size=batch_size,
        refresh=refresh,
        exclude=exclude or (),
        on_error="raise" if stop_at_error else "record",
        index_type=index_type,
        vector_type=cast(Any, vector_type),
        mmap=mmap,
        partition_key=partition_key,
        replica_number=replica_number,
        **decoding,
    )
    raise typer.Exit(1 if failed else 0)


@app.command(name="demo")
def run_demo(
    source: Annotated[str, typer.Option(help="Images to try it on.")] = build.SOURCE,
    uri: Uri = build.URI,
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path(build.PAGE),
) -> None:
    """Insert photographs and drawings, ask questions in five languages, and write a page of the answers."""
    if source == build.SOURCE and not Path(source).exists():
        raise ConfigError(
            f"the images of the demo, in {build.SOURCE}/, are in a checkout of the project, not in the "
            "package; run `t2i demo` there, or try your own images: t2i demo --source FOLDER"
        )
    failed = _insert(source, None, uri=uri, collection_name=build.COLLECTION, model_name=build.MODEL)
    pipeline = build_search_pipeline(
        uri=uri, collection_name=build.COLLECTION, model_name=build.MODEL, limit=build.LIMIT
    )
    results = [tuple(pipeline(query).get()) for query in build.QUERIES]
    for query, hits in results:
        console.show_hits(query, hits, pictures=False)
    write_page(html, results, title=build.TITLE, note=build.NOTE, steps=build.STEPS)
    for purpose, command in build.STEPS:
        console.out.print(f"{console.plain(purpose)}: [bold]{console.plain(command)}[/]", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def _insert(source: str, report: Path | None, **settings: Any) -> int:
    """Insert with a progress bar; return the number of failures."""
    exclude = settings.get("exclude", ())
    if not is_remote(source):
        next(records(source, exclude=exclude))  # a source that is not there ends the run here
    _open_model(settings)
    with console.progress_bar(count(source, exclude=exclude)) as tally:
        console.now_say(tally.interrupted)
        steps = insert_steps(pipe.input("source"), **settings)
        # a lambda, since Towhee deep-copies any other callable with all that it holds
        counted = steps.map(OUTCOME_COLUMNS, (), lambda *row: tally(Outcome(*row)))
        harden(counted.output())(source)
    console.show_report(tally.report, report)
    return tally.report.counts["failed"]


def _open_model(settings: dict[str, Any]) -> None:
    """Load the model, or end here: without one there is no use in walking through a large folder."""
    model, _, _ = checked(settings)
    settings |= {name: model[name] for name in ("model_name", "checkpoint_path")}
    encoder = load_encoder(**model)
    encoder.space  # noqa: B018 - loads
    if running := getattr(encoder, "running", None):
        console.err.print(f"{console.plain(str(settings['model_name']))} runs by {running}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"t2i-pipelines {metadata.version('t2i-pipelines')}")
        raise typer.Exit


ENDED_AT_ONCE = ("insert", "sync", "demo", "finetune", "reembed")
"""Commands that Ctrl-C may end at any moment: they leave nothing behind that must be cleaned up."""


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in ENDED_AT_ONCE:
        console.leave_to_python()


def main() -> None:
    """Run the command; an error of ours is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is no traceback
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_: console.err.print(console.plain(message), soft_wrap=True)
    try:
        app()
    except T2IError as err:
        console.err.print(f"[red]error:[/] {console.plain(str(err))}", soft_wrap=True)
        sys.exit(2)
