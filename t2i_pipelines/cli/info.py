"""``t2i info`` and ``t2i duplicates``: what a database holds, and near copies among its images."""

from __future__ import annotations

import json as json_module
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Json, takes
from t2i_pipelines.collection import check_exists, collection_names, open_collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.errors import StoreError
from t2i_pipelines.search.render import near


@takes("uri", "token")
def info(uri: str, token: str, json: Json = False) -> None:
    """Show what a database holds: collections, rows, model and index; of a file, its size and last change."""
    found = describe(uri, token)
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False))
        return
    size = f", {found['bytes'] / 1e6:,.1f} MB, changed {found['changed']}" if "bytes" in found else ""
    console.out.print(console.plain(f"{found['uri']}{size}"), soft_wrap=True, highlight=False)
    table = Table()
    for name in ("collection", "rows", "model", "index", "dim"):
        table.add_column(name, justify="right" if name in ("rows", "dim") else "left", overflow="fold")
    for one in found["collections"]:
        if one["rows"] is None:
            table.add_row(console.plain(one["name"]), "", "(not made by t2i-pipelines)")
        else:
            cells = (one["name"], f"{one['rows']:,}", one["model_name"], one["index_type"], one["dim"])
            table.add_row(*map(console.plain, cells))
    console.out.print(table if found["collections"] else "no collections")


def describe(uri: str, token: str = "") -> dict[str, Any]:
    """Return what a database holds, as JSON types.

    :raises CollectionNotFoundError: If a local database is not there.
    """
    address = parse_uri(uri)
    names = collection_names(uri, token)
    found: dict[str, Any] = {"uri": str(address)}
    if address.path is not None:
        found |= _of_files(address.path)
    return found | {"collections": [_collection(uri, token, name) for name in names]}


def _collection(uri: str, token: str, name: str) -> dict[str, Any]:
    collection = open_collection(uri, token, name)
    try:
        space = collection.space()
    except StoreError:  # another program's
        space = None
    if space is None:
        return {"name": name, "rows": None}
    return {
        "name": name,
        "rows": collection.count(),
        "model_name": space.model_name,
        "checkpoint": space.checkpoint,
        "weights": space.weights,
        "dim": space.dim,
        "index_type": collection.index_type,
    }


def _of_files(path: Path) -> dict[str, Any]:
    stats = [one.stat() for one in path.rglob("*") if one.is_file() and one.name != "LOCK"]
    latest = max((one.st_mtime for one in stats), default=None)
    changed = "never" if latest is None else datetime.fromtimestamp(latest).isoformat(" ", "seconds")
    return {"bytes": sum(one.st_size for one in stats), "changed": changed}


Threshold = Annotated[
    float | None,
    typer.Option(help="Minimum cosine of near copies; by default one that fits the images."),
]


@takes("uri", "token", "collection_name", "where", "filter")
def duplicates(
    uri: str,
    token: str,
    collection_name: str,
    where: dict[str, Any],
    filter: str,
    threshold: Threshold = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array of groups.")] = False,
) -> None:
    """List groups of near copies, the largest first, each with its cosine to the nearest of its group."""
    check_exists(uri, token, collection_name)
    collection = open_collection(uri, token, collection_name)
    groups = collection.duplicates(threshold, filter=filter, where=where)
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
