"""``t2i ui``."""

from __future__ import annotations

from threading import Event
from typing import Annotated, Any

import typer

from t2i_pipelines.cli import console
from t2i_pipelines.cli.options import takes
from t2i_pipelines.collection import check_exists
from t2i_pipelines.config.settings import Model
from t2i_pipelines.pipelines.searcher import Searcher
from t2i_pipelines.ui import build_ui

Port = Annotated[int | None, typer.Option(help="Port on 127.0.0.1; by default the first free one from 7860.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
NoInsert = Annotated[bool, typer.Option("--no-insert", help="Hide the tab for inserting.")]


@takes(
    *("uri", "token", "collection_name", Model, "limit", "min_relevance", "output_fields"),
    defaults={"limit": 20},
)
def ui(port: Port = None, open_browser: Open = False, no_insert: NoInsert = False, **settings: Any) -> None:
    """Serve a page for searching and inserting, on this machine only. Ctrl-C ends it."""
    if no_insert:  # a page to insert by makes the collection
        check_exists(*(settings[name] for name in ("uri", "token", "collection_name")))
    search = Searcher(**settings)
    page = build_ui(search, insert=not no_insert)
    with console.doing() as say:
        say(f"loading {search.settings['model_name']}")
        search.embed("an image")  # without a model there is no use in a page
    page.launch(server_port=port, inbrowser=open_browser, prevent_thread_lock=True)
    try:
        console.err.print(f"{page.local_url} (Ctrl-C ends it)", soft_wrap=True, highlight=False)
        Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)
