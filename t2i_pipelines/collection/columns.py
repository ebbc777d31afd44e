"""Describe metadata: which columns there are, of which type, and their commonest values.

A collection has no list of its columns: each row may have others. So a bounded number of rows is looked at.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from t2i_pipelines.collection.rows import FIELDS
from t2i_pipelines.config.search import NUMBERS, TEXTS, SearchOptions, check_filter, read_where
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Hit

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

MOST_WARNINGS = 100
"""Names of columns after which a collection warns no more: clients of a service may send any."""


class Values(NamedTuple):
    """The most common values of a column.

    :ivar counts: each value and how many of the rows have it, most common first, equal counts by value.
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


def check_condition(filter: str, where: Mapping[str, Any] | None) -> None:
    """Pass a filter that is meant to leave rows out.

    :raises ConfigError: If there is no condition in it.
    """
    if not check_filter(filter) and not read_where(where):
        raise ConfigError(
            "filter and where have no condition, so every row would be deleted; give one; every row meets "
            "the filter 'id != \"\"'"
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
    if types == {"integer", "number"}:
        return "number"
    return types.pop() if len(types) == 1 else "mixed"


class ColumnWarnings:
    """Warns of columns that a search names and no row has, once for each name."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def check(
        self,
        asked: SearchOptions,
        found: Sequence[Sequence[Hit]],
        sample: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        """Warn the caller's caller.

        A column of a hit is one, and so is that of a condition that a hit meets.

        :param found: what the search has found.
        :param sample: reads some rows, of which each may have other columns.
        """
        names = {*asked.output_fields, *filter(None, [asked.group_by])}
        if asked.where and not any(found):
            names |= set(asked.where)
        names -= {"*", "vector", *TEXTS, *NUMBERS} | self._asked
        if not names or len(self._asked) >= MOST_WARNINGS:
            return
        names -= {field for some in found for hit in some for field in hit.fields}
        names = set(sorted(names)[:MOST_WARNINGS])
        if not names:
            return
        rows = sample()
        if rows:  # of an empty collection every column is unknown
            self._asked |= names
        known = {field for row in rows for field in row} - {"vector"}
        for name in sorted(names - known) if rows else ():
            near = ", ".join(get_close_matches(name, sorted(known), n=3))
            advice = f"; the nearest are {near}" if near else ""
            warnings.warn(f"no row has a column {name!r}{advice}", stacklevel=3)
