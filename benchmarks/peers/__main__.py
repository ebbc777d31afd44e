"""Compare encoders and whole pipelines: ``make bench``, or ``python -m benchmarks.peers --images 256``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from benchmarks.peers.figures import Row, ratio
from benchmarks.peers.machine import Machine, machine
from benchmarks.peers.plan import Mode, Plan
from benchmarks.peers.runner import Result, choose, run
from benchmarks.peers.targets import Verdict
from t2i_pipelines.cli import console
from t2i_pipelines.errors import T2IError

TITLES: dict[Mode, str] = {
    "insert": "End to end: files on disk to rows in Milvus Lite",
    "encode": "Encoding alone: images of the model's size to vectors",
}
COLUMNS = ("", "images/s", "±", "ratio", "cosine", "least", "MB", "text ms")
NOTE = (
    "images/s: median of the rounds; ±: half the distance from slowest to fastest round, in percent.\n"
    "ratio: to the Milvus tutorial's loop end to end. cosine: to float32 torch, mean and least.\n"
    "MB: most RAM while embedding, over the process before it. text ms: one query, median."
)


def bench(
    images: Annotated[int, typer.Option(min=1, help="Images that each contender takes.")] = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; each measures every contender once.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Part of a contender's name, for example 'tutorial'; repeatable.")
    ] = None,
    workdir: Annotated[
        Path | None, typer.Option(help="Keep images and models here, for the next time.")
    ] = None,
) -> None:
    """Measure encoding, this library's and others', on one CLIP of ViT-B/32's shape."""
    plan = Plan(choose(tuple(only or ())), images, repeat)
    show_machine(machine())
    made = tempfile.TemporaryDirectory() if workdir is None else nullcontext(str(workdir))
    with made as folder, console.doing() as say:
        result = run(plan, Path(folder), say)
    show_result(plan, result)


def show_machine(found: Machine) -> None:
    """Print processor, cores, system and versions."""
    flags = f" ({', '.join(found.flags)})" if found.flags else ""
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    for line in (
        f"{found.processor}{flags}, {found.cores} cores",
        f"{found.system}, Python {found.python}",
        packages,
    ):
        console.out.print(escape(line), highlight=False)


def show_result(plan: Plan, result: Result) -> None:
    """Print a table for each way of measuring, what was not measured and why, and the targets."""
    rounds = f"{plan.rounds} round{'s' if plan.rounds > 1 else ''}"
    console.out.print(f"{plan.shape.name}, random weights, {plan.images} images, {rounds}\n", highlight=False)
    for mode, title in TITLES.items():
        if rows := [row for row in result.rows if row.mode == mode and row.is_measured]:
            console.out.print(_table(title, rows, result.base))
    console.out.print(NOTE, highlight=False, soft_wrap=True)
    for row in result.rows:
        if note := _note(row, plan.images):
            console.out.print(note, soft_wrap=True, highlight=False)
    if any(row.contender.ours for row in result.rows):
        console.out.print("\nTargets, as ratios to the Milvus tutorial's loop", highlight=False)
        for verdict in result.verdicts:
            console.out.print(line_of(verdict), soft_wrap=True, highlight=False)


def _note(row: Row, images: int) -> str:
    """What the table does not tell of a row: why there are no figures, what it ran on, if it took fewer."""
    name = row.contender.name
    if row.reason:
        return f"[yellow]not measured[/] {escape(f'{name}, {row.mode}: {row.reason}')}"
    most = row.contender.most
    if most is not None and most < images:
        return escape(f"{name} took {most} images: its memory grows with each")
    return escape(f"{name} ran on {row.running}") if row.running and row.mode == "insert" else ""


def _table(title: str, rows: Sequence[Row], base: Row | None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in sorted(rows, key=lambda row: row.speed):
        times = ratio(row, base)
        table.add_row(
            escape(row.contender.name),
            f"{row.speed:.1f}",
            f"{50 * row.spread:.0f} %",
            "" if times is None else f"{times:.2f}",
            f"{row.cosine:.5f}",
            f"{row.least_cosine:.5f}",
            f"{row.memory / 1e6:,.0f}",
            f"{row.text_ms:.1f}",
        )
    return table


def line_of(verdict: Verdict) -> str:
    """One target in words: wanted, found, and by how much it is met or missed."""
    name = f"{verdict.name} ({verdict.by})" if verdict.by else verdict.name
    wanted = f"{name}: wanted {verdict.wanted:.2f}"
    if verdict.value is None or verdict.margin is None:
        return f"{escape(wanted)}, [yellow]not measured[/]"
    said = "[green]met[/]" if verdict.is_met else "[red]missed[/]"
    return f"{escape(wanted)}, found {verdict.value:.2f}: {said} by {100 * abs(verdict.margin):.1f} %"


def main() -> None:
    """Run the command; print an error of ours in one line and exit with 2."""
    try:
        typer.run(bench)
    except T2IError as err:
        console.err.print(f"[red]error:[/] {escape(str(err))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
