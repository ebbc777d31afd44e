"""``t2i reembed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Report, takes
from t2i_pipelines.collection import open_collection
from t2i_pipelines.config.settings import Decoding, Model
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.jobs.reembed import drop_old, reembed, roll_back

Pairs = Annotated[
    Path | None, typer.Option(help="Images and captions: recall@10 of both models is measured on them.")
]
Tolerance = Annotated[float, typer.Option(help="Maximum loss of recall@10, 0 to 1.")]
Force = Annotated[bool, typer.Option("--force", help="Switch the name even if the checks fail.")]
RollBack = Annotated[
    bool, typer.Option("--roll-back", help="Embed nothing; switch the name back to its earlier target.")
]
DropOld = Annotated[
    bool, typer.Option("--drop-old", help="Embed nothing; delete the earlier targets of the name.")
]


@takes(
    "uri",
    "token",
    "collection_name",
    Model,
    "batch_size",
    Decoding,
    defaults={"model_name": ""},
    helps={"model_name": "The new model: a name (see `t2i models`) or a path."},
)
def run(
    pairs: Pairs = None,
    tolerance: Tolerance = 0.02,
    force: Force = False,
    roll_back: RollBack = False,
    drop_old: DropOld = False,
    report: Report = None,
    **settings: Any,
) -> None:
    """Embed the stored images by another model, and switch the name to the result without downtime.

    The new collection is made and checked first, then the name is switched to it. Run it again if it was
    interrupted. The old collection stays, for --roll-back, until --drop-old.
    """
    if report is not None:
        console.check_writable(report)
    place = {name: settings[name] for name in ("uri", "token", "collection_name")}
    if bool(settings["model_name"]) + roll_back + drop_old != 1:
        raise ConfigError("t2i reembed takes one of --model-name, --roll-back and --drop-old")
    if not settings["model_name"]:
        _move_or_drop(place, roll_back)
        return
    options: dict[str, Any] = {"pairs": pairs, "tolerance": tolerance, "force": force}
    with console.progress_bar(open_collection(**place).count(), "re-embedding") as tally:
        console.say_at_interrupt(tally.interrupted)
        done = tally.report
        result = reembed(report=done, progress=lambda outcome: tally.show(), **options, **settings)
    console.show_report(done, report)
    if result.checks is not None:
        for line in str(result.checks).splitlines():
            console.err.print(console.plain(line), soft_wrap=True)
    console.err.print(f"{place['collection_name']} is {result.new}", soft_wrap=True)
    raise typer.Exit(1 if done.counts["failed"] else 0)


def _move_or_drop(place: dict[str, Any], is_roll_back: bool) -> None:
    if is_roll_back:
        before, now = roll_back(**place)
        console.err.print(f"{place['collection_name']} is {now} again, no longer {before}", soft_wrap=True)
        return
    dropped = drop_old(**place)
    console.err.print(f"dropped {', '.join(dropped) or 'nothing'}", soft_wrap=True)
