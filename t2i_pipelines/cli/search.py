"""``t2i search``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import Html, Json, takes
from t2i_pipelines.collection import check_exists, open_collection
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.settings import Model
from t2i_pipelines.pipelines.build import build_search_pipeline
from t2i_pipelines.search.hits import render
from t2i_pipelines.search.query import parse
from t2i_pipelines.types import Hit

Text = Annotated[
    str,
    typer.Argument(
        help="What the images show, for example 'a white dog'; or a sum of words, images and like:ID, "
        "for example 'golden retriever^2 + ./pool.jpg - fruit', in which double quotes protect words."
    ),
]
Fetch = Annotated[bool, typer.Option("--fetch", help="Download remote images for the page.")]


@takes("uri", "token", "collection_name", Model, SearchOptions, "templates")
def search(
    text: Text,
    json: Json = False,
    html: Html = None,
    fetch: Fetch = False,
    **settings: Any,
) -> None:
    """Find images by words, images, or a sum of these; best first."""
    query = parse(text)
    if html is not None:
        console.check_writable(html)
    pipeline = build_search_pipeline(**settings)
    place = {name: settings[name] for name in ("uri", "token", "collection_name")}
    check_exists(**place)
    _, hits = pipeline(query).get()
    if html is not None:
        space = open_collection(**place).space()
        note = f"model {space.model_name}" if space else ""
        write_page(html, [(text, hits.fetch() if fetch else hits)], note=note)
    if json:
        typer.echo(console.as_json(text, hits))
    else:
        console.show_hits(text, hits)


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
