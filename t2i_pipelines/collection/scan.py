"""Every row of a collection, a page at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from t2i_pipelines.config import MAX_LIMIT

Page = list[dict[str, Any]]

LITE_PAGE = 250_000
"""Rows of a page of Milvus Lite, which goes through the whole collection for each."""


def pages(query: Callable[..., Page], fields: Sequence[str], is_lite: bool) -> Iterator[Page]:
    """Pages of rows, each beginning after the last id of the one before.

    ``MilvusClient.query_iterator`` does the same, but ids that hold a quote break its filter.

    :param query: reads one page, given ``filter``, ``limit`` and further arguments of ``MilvusClient.query``.
    """
    last, limit = "", LITE_PAGE if is_lite else MAX_LIMIT
    while True:
        page = query(
            filter=f"id > {json.dumps(last, ensure_ascii=False)}",
            limit=limit,
            output_fields=["id", *fields],
            iterator="True",  # in the order of ids, and never one that comes after one left out
            reduce_stop_for_best="True",
        )
        if page:
            yield page
        if not page or (is_lite and len(page) < limit):  # a server's short page need not be its last
            return
        last = page[-1]["id"]
