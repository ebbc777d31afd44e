"""Two result lists side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.search.render import fragment, page, printable, save
from t2i_pipelines.search.thumbnails import BUDGET
from t2i_pipelines.search.view import SHOWN, Tile, View, as_text, view
from t2i_pipelines.types import Hit

if TYPE_CHECKING:
    import pandas as pd

    from t2i_pipelines.search.hits import Hits

LINES = 20
"""Images that a text shows."""


@dataclass(frozen=True)
class Move:
    """Where one image is in two lists.

    :ivar rank_a: from 1; None where the left list has it not.
    :ivar rank_b: from 1; None where the right list has it not.
    :ivar a: the hit of the left list.
    :ivar b: the hit of the right list.
    """

    rank_a: int | None = None
    rank_b: int | None = None
    a: Hit | None = None
    b: Hit | None = None

    @property
    def change(self) -> int | None:
        """How many places the image rose from left to right; None where it is in one list only."""
        return None if self.rank_a is None or self.rank_b is None else self.rank_a - self.rank_b

    @property
    def hit(self) -> Hit:
        """The left hit, or else the right one."""
        found = self.a or self.b
        assert found is not None
        return found


class Comparison:
    """Two result lists side by side, of two queries or two models. Made by :meth:`Hits.compare`.

    An image is the same in both if its id is, or else its path.

    :ivar a: the list on the left.
    :ivar b: the list on the right.
    :ivar labels: what the lists are called.
    """

    def __init__(self, a: Hits, b: Hits, labels: Sequence[str] | None = None) -> None:
        """Compare two lists.

        :param labels: two names; if left out, the queries if they differ, else A and B.
        :raises ConfigError: If there are not two labels.
        """
        if labels is not None and (isinstance(labels, str) or len(labels) != 2):
            raise ConfigError(f"labels must be two names, got {labels!r}")
        self.a, self.b = a, b
        self.labels: tuple[str, str] = _names(a, b) if labels is None else (labels[0], labels[1])

    @cached_property
    def moves(self) -> list[Move]:
        """Each image of either list, in the order of the left one; then those of the right one alone."""
        ids = {hit.id: rank for rank, hit in _ranked_backwards(self.b)}
        paths = {hit.path: rank for rank, hit in _ranked_backwards(self.b)}
        moves, taken = [], set()
        for rank, hit in enumerate(self.a, self.a.first_rank):
            other = ids.get(hit.id, paths.get(hit.path))
            taken.add(other)
            same = None if other is None else self.b[other - self.b.first_rank]
            moves.append(Move(rank, other, hit, same))
        right = enumerate(self.b, self.b.first_rank)
        return moves + [Move(rank_b=rank, b=hit) for rank, hit in right if rank not in taken]

    @property
    def shared(self) -> int:
        """How many images are in both lists."""
        return sum(move.change is not None for move in self.moves)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each of the moves.

        :return: columns id, path, rank_a, rank_b (from 1), change (``rank_a - rank_b``, how many places the
            image rose), score_a, score_b, relevance_a, relevance_b; missing values where a list has it
            not. The labels are in ``.attrs["labels"]``.
        """
        import pandas as pd

        rows = [
            (
                *(move.hit.id, move.hit.path, move.rank_a, move.rank_b, move.change),
                *(_of(hit, name) for name in ("score", "relevance") for hit in (move.a, move.b)),
            )
            for move in self.moves
        ]
        whole = ["rank_a", "rank_b", "change"]
        real = ["score_a", "score_b", "relevance_a", "relevance_b"]
        table = pd.DataFrame(rows, columns=["id", "path", *whole, *real])
        table = table.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(real, "float64"))
        table.attrs["labels"] = self.labels
        return table

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else, with every hit; see :meth:`Hits.save_html`."""
        return save(path, page("comparison.html", title=" / ".join(self.labels), **self._shown(None, None)))

    def _repr_html_(self) -> str:
        """What a notebook shows: the first hits of both, and how they moved."""
        return fragment("comparison.html", **self._shown(SHOWN // 2, BUDGET // 2))

    def __repr__(self) -> str:
        """A line for each image: its rank in both lists, how far it rose, and its path."""
        names = " and ".join(repr(printable(label, 80)) for label in self.labels)
        lines = [f"<Comparison of {names}: {self._summary}>"]
        for move in self.moves[:LINES]:
            change = f"{move.change:+}" if move.change else ""
            ranks = f"{move.rank_a or '-':>3} -> {move.rank_b or '-':<3} {change:>3}"
            lines.append(f"  {ranks}  {printable(move.hit.path)}")
        if left := len(self.moves) - LINES:
            lines += [f"  ... and {left:,} more"] if left > 0 else []
        return "\n".join(lines)

    @property
    def _summary(self) -> str:
        return f"{self.shared} of {max(len(self.a), len(self.b))} in both"

    def _shown(self, most: int | None, budget: int | None) -> dict[str, Any]:
        left = {move.rank_a: "" if move.rank_b else "only here" for move in self.moves}
        right = {move.rank_b: _risen(move) for move in self.moves}
        sides = [
            # a label that is the query would stand there twice
            {
                "label": "" if label == as_text(hits.query) else label,
                "view": _with_notes(view(hits, most, budget), notes),
            }
            for label, hits, notes in zip(self.labels, (self.a, self.b), (left, right), strict=True)
        ]
        return {"sides": sides, "summary": self._summary}


def _names(a: Hits, b: Hits) -> tuple[str, str]:
    names = as_text(a.query), as_text(b.query)
    return names if names[0] != names[1] and all(names) else ("A", "B")


def _ranked_backwards(hits: Hits) -> list[tuple[int, Hit]]:
    """From the last to the first, so that of two that are alike a mapping keeps the better."""
    return list(enumerate(hits, hits.first_rank))[::-1]


def _of(hit: Hit | None, name: str) -> float | None:
    return None if hit is None else getattr(hit, name)


def _risen(move: Move) -> str:
    if move.change is None:
        return "only here"
    if not move.change:
        return "="
    return f"▲ {move.change}" if move.change > 0 else f"▼ {-move.change}"


def _with_notes(shown: View, notes: dict[int | None, str]) -> View:
    tiles: list[Tile] = [replace(tile, note=notes[tile.rank]) for tile in shown.tiles]
    return replace(shown, tiles=tiles)
