"""``t2i search``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import (
    Asked,
    Backend,
    Checkpoint,
    Collapse,
    Device,
    Diversity,
    Fetch,
    Filter,
    GroupBy,
    Html,
    Json,
    Limit,
    MinRelevance,
    Model,
    Name,
    Offset,
    OutputFields,
    Precision,
    Radius,
    RangeFilter,
    Templates,
    Token,
    Uri,
    Where,
)
from t2i_pipelines.collection import check_exists, open_collection
from t2i_pipelines.config.search import parse_condition
from t2i_pipelines.pipelines.build import build_search_pipeline
from t2i_pipelines.search.hits import render
from t2i_pipelines.search.query import parse
from t2i_pipelines.types import Hit


def search(
    text: Asked,
    uri: Uri = "milvus.db",
    token: Token = "",
    collection_name: Name = "image_collection",
    model_name: Model = None,
    checkpoint_path: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
    limit: Limit = 10,
    offset: Offset = 0,
    where: Where = None,
    filter: Filter = "",
    radius: Radius = None,
    range_filter: RangeFilter = None,
    group_by: GroupBy = None,
    collapse: Collapse = None,
    diversity: Diversity = 0.0,
    output_fields: OutputFields = None,
    templates: Templates = None,
    min_relevance: MinRelevance = 0.0,
    json: Json = False,
    html: Html = None,
    fetch: Fetch = False,
) -> None:
    """Find images by words, images, or a sum of these; best first."""
    query = parse(text)
    if html is not None:
        console.check_writable(html)
    pipeline = build_search_pipeline(
        uri=uri,
        token=token,
        collection_name=collection_name,
        model_name=model_name,
        checkpoint_path=checkpoint_path,
        device=cast(Any, device),
        precision=cast(Any, precision),
        backend=cast(Any, backend),
        limit=limit,
        offset=offset,
        where=conditions(where or ()),
        filter=filter,
        radius=radius,
        range_filter=range_filter,
        group_by=group_by,
        collapse=collapse,
        diversity=diversity,
        output_fields=output_fields or (),
        templates=templates or (),
        min_relevance=min_relevance,
    )
    check_exists(uri, token, collection_name)
    _, hits = pipeline(query).get()
    if html is not None:
        space = open_collection(uri, token, collection_name).space()
        note = f"model {space.model_name}" if space else ""
        write_page(html, [(text, hits.fetch() if fetch else hits)], note=note)
    if json:
        typer.echo(console.as_json(text, hits))
    else:
        console.show_hits(text, hits)


def conditions(told: Sequence[str]) -> dict[str, list[Any]]:
    """Conditions as ``where`` takes them; there may be several on one column."""
    where: dict[str, list[Any]] = {}
    for field, condition in map(parse_condition, told):
        where.setdefault(field, []).append(condition)
    return where


def write_page(
    path: Path,
    results: Sequence[tuple[str, list[Hit]]],
    title: str = "",
    note: str = "",
    steps: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a self-contained page, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, title=title, note=note, steps=steps), encoding="utf-8")
    console.err.print(f"wrote {console.plain(str(path))}")


def add_to(app: typer.Typer) -> None:
    """Make it a command of ``app``."""
    app.command(name="search")(search)
