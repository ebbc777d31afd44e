"""``t2i finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import takes
from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.finetune import FinetuneOptions, finetune
from t2i_pipelines.finetune.result import Progress as Told

PAIRS = (
    "A table with `path` and `caption` (CSV, TSV, JSON lines, Parquet), Hugging Face's caption JSON with "
    "`image_path` and `caption`, or a folder whose subfolders name what their images show."
)
SHOWN = (
    *("train", "epochs", "max_steps", "batch_size", "learning_rate", "alpha", "augment", "validation_share"),
    *("recall_at", "patience", "seed", "device", "precision", "resume", "overwrite", "export"),
)
"""Options of fine-tuning that the command line has."""


@takes(*SHOWN, of=FinetuneOptions)
def tune(
    pairs: Annotated[str, typer.Argument(help=PAIRS)],
    checkpoint_path: Annotated[
        Path | None, typer.Option(help="The model's file or folder, if you have it.")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="New folder for the model.")] = Path("finetuned"),
    model_name: Annotated[str, typer.Option(help="Model to start from: a name or a path.")] = DEFAULT_MODEL,
    validation: Annotated[
        str | None, typer.Option(help="Pairs to validate on; by default a part is held out.")
    ] = None,
    outside: Annotated[
        str | None, typer.Option(help="Pairs outside the domain, to measure what was lost there.")
    ] = None,
    replay: Annotated[
        str | None, typer.Option(help="Pairs to replay, so that they are not forgotten.")
    ] = None,
    **options: Any,
) -> None:
    """Train a CLIP further on your own images and captions, and report what it gained and lost."""
    with _bar() as bar:
        result = finetune(
            pairs,
            model_name=model_name,
            checkpoint_path=checkpoint_path,
            output_dir=output_dir,
            validation=validation,
            outside=outside,
            replay=replay,
            progress=_Shown(bar, options["recall_at"]),
            **options,
        )
    for outcome in result.failed[: console.FAILURES_SHOWN]:
        console.err.print(f"[red]failed[/] {console.plain(outcome.reason)}", soft_wrap=True)
    for line in str(result).splitlines():
        console.out.print(console.plain(line), soft_wrap=True, highlight=False)
    raise typer.Exit(1 if result.failed else 0)


def _bar() -> Progress:
    return Progress(
        TextColumn("learning"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        console=console.err,
        transient=True,
    )


class _Shown:
    """Moves the bar; a line for each evaluation stays."""

    def __init__(self, bar: Progress, recall_at: int) -> None:
        self._bar, self._at = bar, recall_at
        self._task = bar.add_task("", total=None, told="")
        self._last: Told | None = None
        console.say_at_interrupt(self._interrupted)

    def __call__(self, told: Told) -> None:
        """Take a step."""
        self._last = told
        self._bar.update(self._task, total=told.steps, completed=told.step, told=f"loss {told.loss:.3f}")
        if told.recall is not None:
            self._bar.console.print(
                f"epoch {told.epoch}, step {told.step} of {told.steps}: loss {told.loss:.3f}, "
                f"R@{self._at} {told.recall:.3f}",
                highlight=False,
            )

    def _interrupted(self) -> None:
        self._bar.stop()
        step = 0 if self._last is None else self._last.step
        console.err.print(f"interrupted after step {step}; run it again to go on from the last checkpoint")
