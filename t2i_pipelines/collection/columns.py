"""Describe metadata: which columns there are, of which type, and their commonest values.

A collection has no list of its columns: each row may have others. So a bounded number of rows is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from t2i_pipelines.collection.rows import FIELDS
from t2i_pipelines.errors import ConfigError

Scalar: TypeAlias = str | int | float | bool
OWN = frozenset({*FIELDS, "$meta"})
"""What is no metadata."""

TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
NUMBERS = {"integer", "number"}


class Values(NamedTuple):
    """The commonest values of a column.

    :ivar counts: each value and how many of the rows have it, commonest first, equal counts by value.
    :ivar rows: rows that were looked at.
    :ivar complete: these were all rows of the collection.
    """

    counts: list[tuple[Scalar, int]]
    rows: int
    complete: bool


def check_column(column: str) -> None:
    """Pass the name of a column of metadata.

    :raises ConfigError: If it is one of the collection's own.
    """
    if not isinstance(column, str) or not column or column in OWN:
        raise ConfigError(
            f"column must be the name of metadata, got {column!r:.300}; the collection's own columns "
            f"({', '.join(FIELDS)}) are none"
        )


def types_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns of metadata of these rows, by name, with the type of their values."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in OWN and value is not None:
                found.setdefault(name, set()).add(TYPES[type(value)])
    return {name: _common(types) for name, types in sorted(found.items())}


def commonest(rows: Iterator[Mapping[str, Any]], column: str, *, limit: int, most: int) -> Values:
    """Count the values of a column in the first ``most`` rows.

    An item of a list counts once a row. Objects and lists within lists are not counted: no filter finds them.
    """
    counts: Counter[tuple[bool, Scalar]] = Counter()  # true is no 1 to a filter, but 1.0 is
    looked = 0
    for row in islice(rows, most):
        looked += 1
        value = row.get(column)
        items = value if isinstance(value, list) else [value]
        counts.update({(isinstance(one, bool), one) for one in items if isinstance(one, Scalar)})
    best = sorted(counts.items(), key=lambda one: (-one[1], str(one[0][1])))[:limit]
    return Values([(value, count) for (_, value), count in best], looked, next(rows, None) is None)


def _common(types: set[str]) -> str:
    if types == NUMBERS:
        return "number"
    return types.pop() if len(types) == 1 else "mixed"
