"""Show what a pipeline returned: its rows are read, and stay where they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from t2i_pipelines._towhee.door import DataQueue, Empty

SHOWN = 3
"""Rows that are shown in full."""

Summarize = Callable[[list[list[Any]]], object]
"""Makes of rows what is shown in their place: anything with a ``str()``."""

_summaries: dict[tuple[str, ...], Summarize] = {}


def register_summary(columns: Sequence[str], summarize: Summarize) -> None:
    """Show the results that have exactly these columns by a summary, in place of their rows."""
    _summaries[tuple(columns)] = summarize


class Result(DataQueue):  # type: ignore[misc]
    """Towhee's queue of rows, which shows them in a notebook and wakes its waiting producer once sealed."""

    def seal(self) -> None:
        """Let the producer go on, and the consumer end after what is there."""
        self._max_size = sys.maxsize
        super().seal()

    def peek(self) -> list[list[Any]]:
        """Return the rows that wait, which stay in the queue."""
        with self._lock:
            columns = [
                list(column._q) if hasattr(column, "_q") else [column._data] * self._size
                for column in self._data
            ]
            return [
                [column[at] if at < len(column) else Empty() for column in columns]
                for at in range(self._size)
            ]

    def __repr__(self) -> str:
        """What is registered for these columns, else the first rows."""
        rows = self.peek()
        if rows and (summarize := _summaries.get(tuple(self.schema))):
            return str(summarize(rows))
        count = f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'} to get"
        lines = [f"<Result: {count} of ({', '.join(self.schema)})>"]
        lines += [f"  {name}: {value!r}" for row in rows[:SHOWN] for name, value in self._named(row)]
        return "\n".join([*lines, "  ..."] if len(rows) > SHOWN else lines)

    def _repr_html_(self) -> str | None:
        """Return what the values of the first rows show in a notebook; None where none shows anything."""
        values = [value for row in self.peek()[:SHOWN] for _, value in self._named(row)]
        shown = [as_html() for one in values if (as_html := getattr(one, "_repr_html_", None))]
        return "\n".join(filter(None, shown)) or None

    def _named(self, row: list[Any]) -> list[tuple[str, Any]]:
        return list(zip(self.schema, row, strict=True))
