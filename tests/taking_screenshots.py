"""Take the screenshots that the README shows: ``python tests/taking_screenshots.py``.

It needs the extras ``ui`` and ``test``, Chromium, and a font with Chinese characters, such as Debian's
``fonts-wqy-microhei``. It inserts drawings and photographs into a new database each time.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from browser import Visit, browsing, serving_ui
from PIL import Image

from t2i_pipelines import Searcher, build_insert_pipeline, close
from t2i_pipelines.cli import demo

DOCS = Path(__file__).parent.parent / "docs" / "images"
QUERY = "a bird"
FIELDS = ("caption_en",)
RESULTS = {"width": 1200, "height": 790}
PAGE = {"width": 1280, "height": 900}


def keep(page: Any, name: str) -> None:
    """Save what the window shows as WebP."""
    Image.open(io.BytesIO(page.screenshot())).save(DOCS / name, quality=85, method=6)


def main() -> None:
    """Insert drawings and photographs, search them, and save both pages."""
    with tempfile.TemporaryDirectory() as folder, browsing() as browser:
        settings = {"uri": f"{folder}/milvus.db", "model_name": demo.MODEL}
        for table in ("gallery.csv", "photographs.csv"):
            build_insert_pipeline(**settings)(str(DOCS.parent.parent / "data" / table)).to_list()
        hits = Searcher(**settings, limit=10, output_fields=FIELDS)(QUERY)
        close()
        hits.save_html(f"{folder}/results.html")
        page = browser.new_page(viewport=RESULTS)
        page.goto(f"file://{folder}/results.html")
        keep(page, "results.webp")
        fields = [part for name in FIELDS for part in ("--output-fields", name)]
        options = ("--uri", settings["uri"], "--model-name", demo.MODEL, *fields)
        with serving_ui(*options, UI_CONTACTS=f"{folder}/contacts") as (url, _):
            tab = Visit(browser, url, viewport=PAGE)
            tab.ask(demo.QUERIES[0])
            keep(tab.page, "ui.webp")


if __name__ == "__main__":
    main()
