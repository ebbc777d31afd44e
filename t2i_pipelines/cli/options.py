"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin, get_type_hints

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.config.settings import DEFAULT_MODEL, Decoding
from t2i_pipelines.jobs.ray import insert_distributed
from t2i_pipelines.pipelines.report import InsertReport

Uri = Annotated[str, typer.Option(help="A local file ending in .db, or a Milvus server's http://host:19530.")]
Token = Annotated[str, typer.Option(envvar="MILVUS_TOKEN", help="user:password or API key of the server.")]
Name = Annotated[str, typer.Option(help="Collection; insert and search must name the same.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Name (see `t2i models`) or path. Without it, the model of the collection; of a new collection "
        f"{DEFAULT_MODEL}, downloaded once. t2i_mini is bundled. Of a search, auto follows a swap."
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="The model's file or folder, if you have it.")]
Source = Annotated[
    str,
    typer.Argument(
        help="A folder, a quoted glob, a table with a `path` or `url` column (CSV, TSV, JSON lines, "
        "Parquet), WebDataset tars, an image; here, at http(s)://, or where fsspec opens it, such as s3://."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, or int8, which `t2i quantize` prepares.")]
Backend = Annotated[str, typer.Option(help="auto, onnxruntime, openvino or torch.")]
BatchSize = Annotated[int, typer.Option(help="Images a batch.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Glob of files or folders to skip, such as 'drafts' or '2019/*'; repeatable."),
]
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Read every image and fetch every URL again; contents decide.")
]
StopAtError = Annotated[bool, typer.Option("--stop-at-error", help="Stop at the first bad image.")]
Asked = Annotated[
    str,
    typer.Argument(
        help="What the images show, for example 'a white dog'; or a sum of words, images and like:ID, "
        "for example 'golden retriever^2 + ./pool.jpg - fruit', in which double quotes protect words."
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(help="Ask in several ways: 'photo', or a text of your own with {}; repeatable."),
]
Limit = Annotated[int, typer.Option(help="How many hits.")]
Filter = Annotated[str, typer.Option(help="Milvus filter expression, for example: 'year > 2015'.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="Condition on a column: 'year > 2015', 'camera like Canon%', 'place in Rome, Bari'; repeatable, "
        "all must hold. No value is read as a part of the expression."
    ),
]
Offset = Annotated[int, typer.Option(help="Number of hits to skip.")]
Radius = Annotated[float | None, typer.Option(help="Only hits of a higher cosine, -1 to 1.")]
RangeFilter = Annotated[float | None, typer.Option(help="Only hits of at most this cosine; needs --radius.")]
GroupBy = Annotated[str | None, typer.Option(help="A column: of rows with one value only the best.")]
Collapse = Annotated[
    float | None,
    typer.Option(help="Of images alike, at this cosine or more, only the best: 0.94."),
]
Diversity = Annotated[
    float, typer.Option(help="0 by score alone, 1 as different from one another as can be.")
]
OutputFields = Annotated[list[str] | None, typer.Option(help="Further column to show; repeatable.")]
MinRelevance = Annotated[
    float, typer.Option(help="Leave out hits of a lower relevance, 0 to 1; below 0.5 a hit is one by chance.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Html = Annotated[Path | None, typer.Option(help="Write a self-contained page with the images.")]
Fetch = Annotated[bool, typer.Option("--fetch", help="Get images that are on the web for the page.")]
Report = Annotated[
    Path | None, typer.Option("--report", help="Write counts and failures, with the stage of each, as JSON.")
]
IndexType = Annotated[str, typer.Option(help="Of a new collection: AUTO follows the number of images.")]
VectorType = Annotated[
    str, typer.Option(help="Of a new collection: FLOAT_VECTOR, or FLOAT16_VECTOR on a server from 2.4 on.")
]
Mmap = Annotated[bool, typer.Option("--mmap", help="New collection: a server reads it from disk as needed.")]
PartitionKey = Annotated[
    str | None, typer.Option(help="New collection: a column that searches ask for one value of.")
]
ReplicaNumber = Annotated[
    int, typer.Option(help="New collection: query nodes of a cluster that hold all of it.")
]


_Command = TypeVar("_Command", bound=Callable[..., Any])


def decoding_options(command: _Command) -> _Command:
    """Give a command an option for each setting of decoding, in place of its ``**decoding``."""
    hints = get_type_hints(command, include_extras=True)
    own = [
        one.replace(annotation=hints[one.name])
        for one in signature(command).parameters.values()
        if one.kind is not Parameter.VAR_KEYWORD
    ]
    types = get_type_hints(Decoding)
    added = [
        Parameter(
            one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=_option(one, types[one.name])
        )
        for one in fields(Decoding)
    ]

    @wraps(command)
    def run(*args: Any, **given: Any) -> Any:
        return command(*args, **given)

    run.__signature__ = Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return run  # type: ignore[return-value]


def _option(one: Field[Any], type: Any) -> Any:
    """Annotate the parameter of a setting; Typer reads choices as text, which the setting checks itself."""
    flag = (f"--{one.name}",) if type is bool else ()
    kind = str if get_origin(type) is Literal else type
    return Annotated[kind, typer.Option(*flag, help=one.metadata["help"])]


def insert_by(run: Callable[..., InsertReport]) -> Callable[..., int]:
    """With a progress bar and a report; gives the number of failures.

    :param run: takes a source, ``report=``, ``progress=`` and settings.
    """

    def insert(source: str, report: Path | None, **settings: Any) -> int:
        with console.progress_bar(None) as tally:
            console.now_say(tally.interrupted)
            run(source, report=tally.report, progress=lambda outcome: tally.show(), **settings)
        console.show_report(tally.report, report)
        return tally.report.counts["failed"]

    return insert


Ray = Annotated[bool, typer.Option("--ray", help="Insert on Ray: of RAY_ADDRESS, else of this machine.")]
Address = Annotated[
    str, typer.Option("--ray-address", help="Insert on the Ray cluster there, such as 10.0.0.1:6379.")
]


def insert_at(address: str) -> Callable[..., int]:
    """Insert on the Ray cluster at ``address``, as ``t2i insert`` does here; gives the number of failures."""
    return insert_by(partial(insert_distributed, address=address or None))
