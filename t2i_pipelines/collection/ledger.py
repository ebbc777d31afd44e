"""What a stored row says of its file, and how rows are asked for by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from t2i_pipelines.config.conditions import literal

IDS_A_CALL = 1000


class Ledger(NamedTuple):
    """What a stored row says of its file: enough to see that it has not changed.

    :ivar size: bytes.
    :ivar mtime: nanoseconds since the epoch.
    :ivar digest: hex digest of the content.
    """

    size: int
    mtime: int
    digest: str


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids, each once, in as many lists as there will be calls."""
    unique = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
    for start in range(0, len(unique), IDS_A_CALL):
        yield unique[start : start + IDS_A_CALL]


def is_one_of(ids: list[str]) -> str:
    """The filter that finds these rows. Any text is safe in it."""
    return f"id in {literal(ids)}"
