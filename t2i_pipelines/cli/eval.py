"""``t2i eval``."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Json, takes
from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.evaluate import Evaluation, compare, compare_to_published, evaluate, read_pairs
from t2i_pipelines.evaluate.index import OnProgress
from t2i_pipelines.evaluate.metrics import check_metric
from t2i_pipelines.evaluate.publications import check_protocol
from t2i_pipelines.evaluate.report import Grid
from t2i_pipelines.evaluate.table import METRIC

Source = Annotated[
    str,
    typer.Argument(
        help="A table with the columns path and caption, a folder of class folders, or a caption file of "
        "Flickr30k or COCO as it is distributed."
    ),
]
Models = Annotated[list[str] | None, typer.Option(help="Name or path of a model; several are compared.")]
Precisions = Annotated[list[str] | None, typer.Option(help="auto, fp32, bf16, fp16 or int8; repeatable.")]
Backends = Annotated[
    list[str] | None, typer.Option(help="auto, onnxruntime, openvino, torch; several are compared.")
]


@takes("checkpoint_path", "device", "templates", "token", "batch_size")
def eval_(
    pairs: Source,
    checkpoint_path: Path | None,
    device: str,
    templates: tuple[str, ...],
    token: str,
    batch_size: int,
    model_name: Models = None,
    precision: Precisions = None,
    backend: Backends = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the file.")] = None,
    captions: Annotated[list[str] | None, typer.Option(help="Column with texts; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="Split of Flickr30k or COCO: test, val, train or all.")] = "test",
    direction: Annotated[
        list[str] | None, typer.Option(help="text->image, image->text, image->image; repeatable.")
    ] = None,
    uri: Annotated[
        str | None, typer.Option(help="Search through Milvus too: a file ending in .db, or a server.")
    ] = None,
    collection_name: Annotated[
        str | None, typer.Option(help="Search this collection as it is; else one is made and dropped.")
    ] = None,
    index_type: Annotated[str, typer.Option(help="Index of the temporary collection.")] = "AUTO",
    metric: Annotated[str, typer.Option(help="Metric to compare by.")] = METRIC,
    published: Annotated[
        str | None, typer.Option(help="Compare with published figures: flickr30k or coco.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json: Json = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with the figures, and the misses of a single model.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write quality against milliseconds, as .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Measure how often the right image is found; compare models, precisions and backends."""
    if checkpoint_path is not None and len(model_name or ()) > 1:
        raise ConfigError("--checkpoint-path is one model's; give paths as --model-name to compare several")
    check_metric(metric, through_index=uri is not None)
    asked = read_pairs(pairs, images=images, captions=captions, split=split)
    if published:
        check_protocol(asked, published)
    variants = [
        {"model_name": model, "precision": one, "backend": by}
        for model in model_name or [DEFAULT_MODEL]
        for one in precision or ["auto"]
        for by in backend or ["auto"]
    ]
    common: dict[str, Any] = {
        "checkpoint_path": checkpoint_path,
        "device": device,
        **({"directions": direction} if direction else {}),
        "templates": templates or (),
        "uri": uri,
        "token": token,
        "collection_name": collection_name,
        "index_type": index_type,
        "batch_size": batch_size,
        "confidence": confidence,
        "seed": seed,
    }
    found = []
    with console.doing() as say:
        for variant in variants:
            settings = {**common, **variant}
            found.append(evaluate(asked, **settings, on_progress=_saying(say, " ".join(variant.values()))))
    _show(found, metric, published, json, html, plot)
    raise typer.Exit(1 if any(one.failed for one in found) else 0)


def _saying(say: Callable[[str], None], who: str) -> OnProgress:
    """Tells how far it is: a line that changes, or in a log one line for images and one for texts."""
    told: set[str] = set()

    def progress(what: str, done: int, of: int) -> None:
        if console.err.is_terminal:
            say(f"{who}: {what} {done:,} of {of:,}")
        elif what not in told:
            say(f"{who}: {of:,} {what}")
        told.add(what)

    return progress


def _show(
    found: Sequence[Evaluation],
    metric: str,
    published: str | None,
    json: bool,
    html: Path | None,
    plot: Path | None,
) -> None:
    table = compare(found, metric=metric)
    beside = [compare_to_published(one.model_name, published, one) for one in found] if published else []
    if json:
        told = table.as_dict() if len(found) > 1 else found[0].as_dict()
        told |= {"published": [one.as_dict() for one in beside]} if beside else {}
        typer.echo(jsonlib.dumps(told, ensure_ascii=False))
    else:
        show_grid(table.grid if len(found) > 1 else found[0].grid)
        for comparison in beside:
            show_grid(comparison.grid)
    if html:
        where = table.save_html(html) if len(found) > 1 else found[0].save_html(html)
        console.err.print(f"wrote {console.plain(str(where))}", soft_wrap=True)
    if plot:
        plot.parent.mkdir(parents=True, exist_ok=True)
        table.plot().savefig(plot, dpi=150, bbox_inches="tight")
        console.err.print(f"wrote {console.plain(str(plot))}", soft_wrap=True)


def show_grid(shown: Grid) -> None:
    """Print a table and its notes."""
    table = Table(title=console.plain(shown.title), title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in shown.table.columns:
        table.add_column(console.plain(name), justify="right")
    for row in shown.table.itertuples():
        table.add_row(*map(console.plain, row))
    console.out.print(table)
    for note in shown.notes:
        console.out.print(console.plain(note), soft_wrap=True, highlight=False)
