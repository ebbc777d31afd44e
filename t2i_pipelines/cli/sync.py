"""``t2i sync``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Report, Source, takes
from t2i_pipelines.config.settings import Decoding, Inserting, Model
from t2i_pipelines.images import count, listed
from t2i_pipelines.jobs.sync import sync
from t2i_pipelines.pipelines.report import InsertReport

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Delete any number of images, not only a fifth.")]


@takes("uri", "token", "collection_name", Model, Inserting, Decoding)
def run(
    source: Source,
    dry_run: DryRun = False,
    force: Force = False,
    report: Report = None,
    **settings: Any,
) -> None:
    """Make the collection equal to SOURCE: insert what is new, update what changed, delete what is gone."""
    if report is not None:
        console.check_writable(report)
    done = InsertReport()
    if dry_run:
        console.say_at_interrupt(lambda: console.show_interruption(done))
        sync(source, report=done, dry_run=True, progress=console.show_change, force=force, **settings)
    else:
        images = listed(source, exclude=settings["exclude"])
        with console.progress_bar(count(images, exclude=settings["exclude"]), "syncing") as tally:
            console.say_at_interrupt(tally.interrupted)
            done = tally.report
            sync(images, report=done, progress=lambda outcome: tally.show(), force=force, **settings)
    console.show_report(done, report)
    raise typer.Exit(1 if done.counts["failed"] else 0)
