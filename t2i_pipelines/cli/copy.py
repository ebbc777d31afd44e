"""``t2i export-collection`` and ``t2i import-collection``."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import takes
from t2i_pipelines.jobs.backup import export_collection, import_collection

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


@takes("uri", "token", "collection_name")
def run_export(
    destination: Destination,
    **place: Any,
) -> None:
    """Write a collection to a folder of Parquet files, with vectors and metadata: a backup, or a move."""
    with console.doing() as say:
        made = export_collection(
            destination,
            **place,
            progress=lambda done, total: say(f"exporting: {done:,} of {total:,} rows"),
        )
    _say(f"exported {made.rows:,} rows to {destination}: {len(made.files)} files, {made.size / 1e6:,.1f} MB")


@takes("uri", "token", "collection_name")
def run_import(
    source: Export,
    if_exists: IfExists = "fail",
    **place: Any,
) -> None:
    """Import an export into a collection, and compare every row. Running it again is safe."""
    with console.doing() as say:
        done = import_collection(
            source,
            **place,
            if_exists=cast(Any, if_exists),
            progress=lambda done, total: say(f"importing: {done:,} of {total:,} rows"),
        )
    more = f", {done.deleted:,} others deleted" if done.deleted else ""
    more += f", beside {done.others:,} others" if done.others else ""
    _say(f"imported {done.rows:,} rows from {source}, each read back and the same{more}")


def _say(text: str) -> None:
    console.err.print(console.plain(text), soft_wrap=True, highlight=False)
