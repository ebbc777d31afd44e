"""``t2i sync``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import (
    Backend,
    BatchSize,
    Checkpoint,
    Device,
    Exclude,
    Model,
    Name,
    Precision,
    Refresh,
    Report,
    Source,
    StopAtError,
    Token,
    Uri,
    decoding_options,
)
from t2i_pipelines.images import count
from t2i_pipelines.jobs.sync import sync
from t2i_pipelines.pipelines.report import InsertReport

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Delete any number of images, not only a fifth.")]


@decoding_options
def run(
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
    dry_run: DryRun = False,
    force: Force = False,
    report: Report = None,
    **decoding: Any,
) -> None:
    """Make the collection equal to SOURCE: insert what is new, update what changed, delete what is gone."""
    if report is not None:
        console.check_writable(report)
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
        "refresh": refresh,
        "exclude": exclude or (),
        "on_error": "raise" if stop_at_error else "record",
        "force": force,
        **decoding,
    }
    done = InsertReport()
    if dry_run:
        console.now_say(lambda: console.show_interruption(done))
        sync(source, report=done, dry_run=True, progress=console.show_change, **settings)
    else:
        with console.progress_bar(count(source, exclude=exclude or ()), "syncing") as tally:
            console.now_say(tally.interrupted)
            done = tally.report
            sync(source, report=done, progress=lambda outcome: tally.show(), **settings)
    console.show_report(done, report)
    raise typer.Exit(1 if done.counts["failed"] else 0)


def add_to(app: typer.Typer) -> None:
    """Make it a command of ``app``."""
    app.command(name="sync")(run)
