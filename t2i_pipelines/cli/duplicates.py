"""``t2i duplicates``: near copies among the stored images."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Filter, Name, Token, Uri, Where
from t2i_pipelines.cli.search import conditions
from t2i_pipelines.collection import check_exists, open_collection
from t2i_pipelines.search.render import near

Threshold = Annotated[
    float | None,
    typer.Option(help="Cosine from which two images are near copies; without it, one that fits the images."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON array of groups.")]


def duplicates(
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    threshold: Threshold = None,
    where: Where = None,
    filter: Filter = "",
    json: Json = False,
) -> None:
    """List groups of near copies, the largest first, each with its cosine to the nearest of its group."""
    check_exists(uri, token, collection_name)
    collection = open_collection(uri, token, collection_name)
    groups = collection.duplicates(threshold, filter=filter, where=conditions(where or ()))
    if json:
        typer.echo(json_module.dumps([[member._asdict() for member in group] for group in groups]))
        return
    for group in groups:
        for member in group:
            console.out.print(
                f"{member.score:.3f}  {console.plain(near(member.path))}", soft_wrap=True, highlight=False
            )
        console.out.print()
    copies = sum(len(group) - 1 for group in groups)
    if not groups:
        console.err.print("no duplicates found; a lower --threshold finds images that are less alike")
        return
    console.err.print(f"{len(groups):,} groups, {copies:,} images more than one of each")


def add_to(app: typer.Typer) -> None:
    """Make it a command of ``app``."""
    app.command(name="duplicates")(duplicates)
