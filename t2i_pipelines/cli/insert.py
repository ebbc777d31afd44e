"""``t2i insert``, on this machine, on Ray, or by way of files, and ``t2i sync``, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Report, Source, takes
from t2i_pipelines.config.settings import Decoding, Inserting, Model
from t2i_pipelines.config.storage import Storage
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.images import count, listed
from t2i_pipelines.jobs.sync import sync
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert
from t2i_pipelines.pipelines.report import InsertReport

Ray = Annotated[bool, typer.Option("--ray", help="Insert on Ray, at RAY_ADDRESS or on this machine.")]
Address = Annotated[
    str, typer.Option("--ray-address", help="Insert on the Ray cluster at an address, such as 10.0.0.1:6379.")
]
Bulk = Annotated[
    str,
    typer.Option(
        "--bulk",
        help="For a first load: have a Milvus server import files, which are written to this folder or URL "
        "of its storage.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Delete any number of images, not at most a fifth.")]


@takes("uri", "token", "collection_name", Model, Inserting, Storage, Decoding)
def insert(
    source: Source,
    report: Report = None,
    ray: Ray = False,
    ray_address: Address = "",
    bulk: Bulk = "",
    **settings: Any,
) -> None:
    """Insert images. Running it again is safe: unchanged files are skipped."""
    if report is not None:
        console.check_writable(report)
    if bulk and (ray or ray_address):
        raise ConfigError("--bulk and --ray are two ways to insert: choose one")
    failed = _way(ray, ray_address, bulk)(source, report, **settings)
    raise typer.Exit(1 if failed else 0)


def _way(ray: bool, ray_address: str, bulk: str) -> Callable[..., int]:
    """Return what inserts, and returns the number of failures."""
    if ray or ray_address:
        from t2i_pipelines.jobs.ray import insert_distributed

        return _insert_by(partial(insert_distributed, address=ray_address or None))
    if bulk:
        from t2i_pipelines.jobs.bulk import insert_bulk

        return _insert_by(partial(insert_bulk, destination=bulk))
    return insert_here


def insert_here(source: str, report: Path | None, **settings: Any) -> int:
    """Insert with a progress bar; return the number of failures."""
    exclude = settings.get("exclude", ())
    images = listed(source, exclude=exclude)  # a source that is not there ends the run here
    target, chosen = checked(settings)
    _open_model(target)
    with console.progress_bar(count(images, exclude=exclude)) as tally:
        console.say_at_interrupt(tally.interrupted)
        run_insert(images, insert_arguments(target, chosen), tally)
    console.show_report(tally.report, report)
    return tally.report.counts["failed"]


def _insert_by(run: Callable[..., InsertReport]) -> Callable[..., int]:
    """Insert by a function, with a progress bar and a report.

    :param run: takes a source, ``report=``, ``progress=`` and settings.
    """

    def insert(source: str, report: Path | None, **settings: Any) -> int:
        with console.progress_bar(None) as tally:
            console.say_at_interrupt(tally.interrupted)
            run(source, report=tally.report, progress=lambda outcome: tally.show(), **settings)
        console.show_report(tally.report, report)
        return tally.report.counts["failed"]

    return insert


def _open_model(model: Model) -> None:
    """Load the model, or end here: without one there is no use in walking through a large folder."""
    encoder = load_encoder(*model.lookup)
    encoder.space  # noqa: B018 - loads
    if running := getattr(encoder, "running", None):
        console.err.print(f"{console.plain(str(model.model_name))} runs by {running}")


@takes("uri", "token", "collection_name", Model, Inserting, Decoding)
def sync_(
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
