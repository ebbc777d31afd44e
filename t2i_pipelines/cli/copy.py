"""``t2i export-collection``, ``t2i import-collection`` and ``t2i insert --bulk``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, cast

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Name, Token, Uri, insert_by
from t2i_pipelines.jobs.backup import export_collection, import_collection
from t2i_pipelines.jobs.bulk import insert_bulk

Destination = Annotated[
    str, typer.Argument(help="An empty folder, or one to be made; or a URL that fsspec opens, such as s3://.")
]
Export = Annotated[str, typer.Argument(help="A folder that `t2i export-collection` wrote, or its URL.")]
IfExists = Annotated[
    str,
    typer.Option(
        help="Where the collection has rows: fail; merge, rows of the same ids are replaced; or replace, all "
        "others are deleted as well."
    ),
]

Bulk = Annotated[
    str,
    typer.Option(
        "--bulk",
        help="For a first load: have a Milvus server import files, which are written to this folder or URL "
        "of its storage.",
    ),
]


def run_export(
    destination: Destination,
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
) -> None:
    """Write a collection to a folder of Parquet files, with vectors and metadata: a backup, or a move."""
    with console.doing() as say:
        made = export_collection(
            destination,
            uri=uri,
            token=token,
            collection_name=collection_name,
            progress=lambda done, total: say(f"exporting: {done:,} of {total:,} rows"),
        )
    _say(f"exported {made.rows:,} rows to {destination}: {len(made.files)} files, {made.size / 1e6:,.1f} MB")


def run_import(
    source: Export,
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    if_exists: IfExists = "fail",
) -> None:
    """Bring an export into a collection, and compare every row. Running it again is safe."""
    with console.doing() as say:
        done = import_collection(
            source,
            uri=uri,
            token=token,
            collection_name=collection_name,
            if_exists=cast(Any, if_exists),
            progress=lambda done, total: say(f"importing: {done:,} of {total:,} rows"),
        )
    more = f", {done.deleted:,} others deleted" if done.deleted else ""
    more += f", beside {done.others:,} others" if done.others else ""
    _say(f"imported {done.rows:,} rows from {source}, each read back and the same{more}")


def insert_into(destination: str) -> Callable[..., int]:
    """Load by way of files at ``destination``; gives the number of failures."""
    return insert_by(partial(insert_bulk, destination=destination))


def add_to(app: typer.Typer) -> None:
    """Make them commands of ``app``."""
    app.command(name="export-collection")(run_export)
    app.command(name="import-collection")(run_import)


def _say(text: str) -> None:
    console.err.print(console.plain(text), soft_wrap=True, highlight=False)
