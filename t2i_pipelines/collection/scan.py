"""Every row of a collection, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from t2i_pipelines.config.conditions import literal
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.errors import StoreError

Page = list[dict[str, Any]]

LITE_PAGE = 250_000
"""Rows of a page of Milvus Lite, which goes through the whole collection for each."""

VECTORS_PAGE = 10_000
"""Rows of a page with vectors: of a server's answer at most 64 MB, and not much memory."""


def pages(
    query: Callable[..., Page],
    fields: Sequence[str],
    is_lite: bool,
    filters: Sequence[Mapping[str, Any]] = ({},),
    *,
    after: str = "",
    most: int | None = None,
) -> Iterator[Page]:
    """Pages of rows, each beginning after the last id of the one before.

    ``MilvusClient.query_iterator`` does the same, but an id that holds a quote breaks its filter, and
    what it asks of a server 2.3 is answered without the latest writes, whatever consistency is asked for.

    :param query: reads one page, given forms of a filter, and further arguments of ``MilvusClient.query``.
    :param filters: forms of one filter, each as arguments of ``MilvusClient.query``.
    :param after: only rows of a higher id.
    :param most: rows of a page, in place of what suits most collections.
    :raises StoreError: If the ids of a page do not come in order: then rows might be left out.
    """
    last, limit = after, LITE_PAGE if is_lite else MAX_LIMIT
    if most is not None or "vector" in fields:
        limit = most or VECTORS_PAGE
    in_order = {"iterator": "True"} if is_lite else {}  # a server's limited query is in the order of ids
    while True:
        after = f"id > {literal(last)}"
        forms = [
            {**form, "filter": f"({after}) and ({form['filter']})" if form.get("filter") else after}
            for form in filters
        ]
        page = query(forms, limit=limit, output_fields=["id", *fields], **in_order)
        ids = [last, *(row["id"] for row in page)]
        if any(before >= later for before, later in pairwise(ids)):
            raise StoreError(f"this Milvus gives rows out of order when asked for those with {after}")
        if page:
            yield page
        if not page or (is_lite and len(page) < limit):  # a server's short page need not be its last
            return
        last = ids[-1]
