"""Every row of a collection with all that it holds, in memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t2i_pipelines.collection import Collection, scan
from t2i_pipelines.collection.failures import TooLargeError
from t2i_pipelines.errors import StoreError

PAGE_BYTES = 8 << 20
"""Of vectors. As Python's floats they take eight times as much."""

MOST = 10_000


def pages(collection: Collection, dim: int) -> Iterator[list[dict[str, Any]]]:
    """Pages of rows in the order of their ids, smaller ones where much metadata makes an answer too large.

    :param dim: of a vector.
    :raises StoreError: If the database does not answer, or not with rows in order.
    """

    def read(forms: Sequence[Mapping[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
        return collection.read("query", seconds=collection.patience, **forms[0], **arguments) or []

    last, most = "", max(1, min(MOST, PAGE_BYTES // (4 * dim)))
    while True:
        try:
            for page in scan.pages(read, ("vector", "*"), collection.is_lite, after=last, most=most):
                yield page
                last = page[-1]["id"]
        except StoreError as err:
            if most == 1 or not _is_too_large(err):
                raise
            most //= 2
        else:
            return


def _is_too_large(err: StoreError) -> bool:
    return isinstance(err, TooLargeError) or "exceed" in str(err)
