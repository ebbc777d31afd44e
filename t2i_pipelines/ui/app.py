"""The page, as a Gradio app."""

from __future__ import annotations

from typing import Any

import gradio as gr

from t2i_pipelines.searcher import Searcher


class Page(gr.Blocks):
    """The page. A ``gradio.Blocks`` that is served on 127.0.0.1 alone."""

    def __init__(self, search: Searcher, title: str, examples: tuple[str, ...], insert: bool) -> None:
        super().__init__(analytics_enabled=False, title=title)
        with self:
            words = gr.Textbox(label="What the pictures show")
            found = gr.HTML()
            words.submit(lambda text: search(text)._repr_html_(), words, found)

    def launch(self, **options: Any) -> Any:
        """Serve it."""
        return super().launch(**{"server_name": "127.0.0.1", "share": False, "quiet": True, **options})
