"""``t2i demo``: insert photographs and drawings, ask questions, and write a page of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.insert import insert_here
from t2i_pipelines.cli.options import takes
from t2i_pipelines.cli.search import write_page
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.pipelines.build import build_search_pipeline
from t2i_pipelines.ui import QUERIES, TITLE

SOURCE = "data"
URI = "demo/milvus.db"
PAGE = "demo/index.html"
COLLECTION = "demo"
MODEL = "t2i_mini"
LIMIT = 5
NOTE = (
    "Questions in five languages about photographs and drawings. The words are compared with the images "
    "themselves, not with file names. The model, t2i_mini, is a small one for trying things offline: it "
    "knows a thousand kinds of things; it is not CLIP, and its quality is not CLIP's."
)
STEPS = (
    ("Insert your own folder", "t2i insert ~/Pictures --model-name t2i_mini"),
    ("Search it on a page in the browser", "t2i ui --model-name t2i_mini"),
    ("Use OpenAI's CLIP (a download of 600 MB, once)", "t2i insert ~/Pictures --uri clip.db"),
)
"""What to do next, and the command."""


@takes("uri", defaults={"uri": URI})
def demo(
    uri: str,
    source: Annotated[str, typer.Option(help="Images to insert.")] = SOURCE,
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path(PAGE),
) -> None:
    """Insert photographs and drawings, ask questions in five languages, and write a page of the answers."""
    if source == SOURCE and not Path(source).exists():
        raise ConfigError(
            f"the images of the demo, in {SOURCE}/, are in a checkout of the project, not in the "
            "package; run `t2i demo` there, or try your own images: t2i demo --source FOLDER"
        )
    failed = insert_here(source, None, uri=uri, collection_name=COLLECTION, model_name=MODEL)
    pipeline = build_search_pipeline(uri=uri, collection_name=COLLECTION, model_name=MODEL, limit=LIMIT)
    results = [tuple(pipeline(query).get()) for query in QUERIES]
    for query, hits in results:
        console.show_hits(query, hits, images=False)
    write_page(html, results, title=TITLE, note=NOTE, steps=STEPS)
    for purpose, command in STEPS:
        console.out.print(f"{console.plain(purpose)}: [bold]{console.plain(command)}[/]", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)
