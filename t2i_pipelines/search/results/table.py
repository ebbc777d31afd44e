"""Result lists as tables: of text, and of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2i_pipelines.search.results.asked import as_text
from t2i_pipelines.search.results.printable import percent, printable
from t2i_pipelines.search.results.view import verdict

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from t2i_pipelines.search.results.hits import Hits

SHOWN = 10
"""Hits that a text shows."""

COLUMNS = ("rank", "id", "score", "relevance", "path")


def text(hits: Hits) -> str:
    """The query, and a line for each of the first hits: rank, score, relevance, path, further fields."""
    said = verdict(hits)
    query = printable(as_text(hits.query), 80)
    head = f"{len(hits):,} hit{'' if len(hits) == 1 else 's'}" + (f" for {query!r}" if query else "")
    lines = [f"<Hits: {head}{'. ' + said if said else ''}>"]
    shown = list(hits)[:SHOWN]
    width = len(str(hits.first_rank + len(shown) - 1))
    for rank, hit in enumerate(shown, hits.first_rank):
        relevance = "" if hit.relevance is None else f"  {percent(hit.relevance):>4}"
        fields = "".join(f"  {printable(name)}={printable(value, 40)}" for name, value in hit.fields.items())
        lines.append(f"  {rank:{width}}  {hit.score:6.3f}{relevance}  {printable(hit.path)}{fields}")
    if left := len(hits) - len(shown):
        lines.append(f"  ... and {left:,} more")
    return "\n".join(lines)


def frame(hits: Hits) -> pd.DataFrame:
    """See :meth:`Hits.to_pandas`."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"rank": rank, "id": hit.id, "score": hit.score, "relevance": hit.relevance, "path": hit.path}
        | {_column(name): value for name, value in hit.fields.items()}
        for rank, hit in enumerate(hits, hits.first_rank)
    ]
    fields = dict.fromkeys(_column(name) for hit in hits for name in hit.fields)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *fields])
    table = table.astype({"rank": "int64", "score": "float64", "relevance": "float64"}).set_index("rank")
    table.attrs["query"], table.attrs["no_match"] = as_text(hits.query), hits.no_match
    return table


def _column(field: str) -> str:
    """The column of a further field, apart from those that every table has."""
    return f"fields.{field}" if field in COLUMNS else field
