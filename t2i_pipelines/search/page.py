"""Several queries and their hits as one self-contained HTML page: no script, no link out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from t2i_pipelines.search.results import Hits
from t2i_pipelines.search.results.asked import as_text
from t2i_pipelines.search.results.render import page
from t2i_pipelines.search.results.view import view
from t2i_pipelines.types import Hit


def render(
    results: Iterable[tuple[object, Sequence[Hit]]],
    title: str = "",
    note: str = "",
    steps: Sequence[tuple[str, str]] = (),
) -> str:
    """Render pairs of query and hits. All text is escaped; images are embedded as WebP.

    Nothing leaves this machine for it: images on the web are shown where the hits have fetched them.

    :param title: a heading above the queries.
    :param note: a paragraph below the title.
    :param steps: commands to go on with, listed at the end, each after what it does.
    """
    asked = [_asked(*pair) for pair in results]
    window = as_text(asked[0].query) if len(asked) == 1 else "Results"
    return page(
        "hits.html", title, note, window, steps=steps, views=[view(hits, None, None) for hits in asked]
    )


def _asked(query: object, hits: Sequence[Hit]) -> Hits:
    if isinstance(hits, Hits) and hits.query is not None:
        return hits
    twin = hits.copy() if isinstance(hits, Hits) else Hits(hits)
    twin.query = query
    return twin
