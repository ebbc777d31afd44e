"""The hits of one query or of several, their comparison, and their page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeAlias, overload

from PIL import Image as Pillow

from t2i_pipelines.config.checks import check_one_of, check_whole_number
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ConfigError, ImageDecodeError, QueryError
from t2i_pipelines.images import is_remote
from t2i_pipelines.search.render import (
    BUDGET,
    Thumbnail,
    fragment,
    load,
    montage,
    page,
    printable,
    save,
    thumbnail,
    together,
)
from t2i_pipelines.search.view import SHOWN, Tile, View, addresses, as_text, frame, text, view
from t2i_pipelines.types import Hit

if TYPE_CHECKING:
    import pandas as pd

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
    :ivar labels: the names of the lists.
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
        """Return a row for each of the moves.

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
        """Return what a notebook shows: the first hits of both, and how they moved."""
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


Again = Callable[[SearchOptions], "Hits"]
"""Searches for the same vector once more, with other options."""

Missing: TypeAlias = Literal["raise", "skip", "none"]


class Hits(list[Hit]):
    """The hits of one query, best first. A list of :class:`~t2i_pipelines.types.Hit`.

    :ivar query: the query, as it was given.
    :ivar options: the options of the search; None where no search made the list.
    :ivar no_match: the best hit has a relevance below 0.1, see :mod:`t2i_pipelines.search.relevance`; None
        where nothing was calibrated.
    :ivar fetched: thumbnails of remote images, by path; see :meth:`fetch`.
    """

    query: object = None
    options: SearchOptions | None = None
    no_match: bool | None = None
    fetched: Mapping[str, Thumbnail] = {}
    _again: Again | None = None

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        query: object = None,
        options: SearchOptions | None = None,
        again: Again | None = None,
        no_match: bool | None = None,
    ) -> None:
        """Make a list of hits.

        :param again: searches for the same vector with other options; lets :meth:`more` go on. A copied or
            unpickled list has none.
        """
        super().__init__(hits)
        self.query, self.options, self.no_match, self._again = query, options, no_match, again

    @property
    def first_rank(self) -> int:
        """Rank of the first hit, from 1; later on the pages that follow the first."""
        return 1 + (self.options.offset if self.options else 0)

    def more(self, n: int | None = None) -> Hits:
        """Return the hits that come after these, by a search for the same vector.

        :param n: how many at most; as many as this search was asked for, if left out.
        :raises QueryError: If the list cannot search: it was copied, unpickled, cut with a step, or put
            together by hand.
        :raises ConfigError: Past Milvus's window of 16,384 hits.
        """
        if self._again is None or self.options is None:
            raise QueryError(
                "cannot look for more: these hits were copied, unpickled, cut with a step or put together by "
                f"hand, and hold no connection; search again with offset={self.first_rank - 1 + len(self)}"
            )
        asked = self.options
        limit = asked.limit if n is None else n
        return self._again(replace(asked, offset=asked.offset + asked.limit, limit=limit))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Hit | Self:
        """One hit, or a part of the list with the same query; :meth:`more` goes on where the part ends."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        start, stop, step = index.indices(len(self))
        part = type(self)(super().__getitem__(index), query=self.query, no_match=self.no_match)
        part.fetched = self.fetched
        if self.options is not None and step == 1 and part:
            limit = stop - start if stop < len(self) else self.options.limit - start
            part.options = replace(self.options, offset=self.options.offset + start, limit=limit)
            part._again = self._again
        return part

    def copy(self) -> Self:
        """Return a list of the same hits, that cannot search for more."""
        twin = type(self)(self)
        vars(twin).update(self.__getstate__())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Let lists be pickled and copied, without the search behind them."""
        return {name: value for name, value in vars(self).items() if name != "_again"}

    def __repr__(self) -> str:
        """The query and the first hits, a line each."""
        return text(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a grid of the first 50, in less than 1 MB that need nothing else.

        Nothing leaves this machine for it: images on the web are shown after :meth:`fetch`.
        """
        return fragment("hits.html", views=[view(self, SHOWN, BUDGET)])

    def save_html(self, path: str | os.PathLike[str], title: str = "", note: str = "") -> Path:
        """Write all hits as one page that needs nothing else: no script, no link, images embedded.

        An image takes at most 32 kB. Images on the web are shown after :meth:`fetch`.

        :param title: a heading above the query.
        :param note: a line below the heading.
        :return: where the page is.
        """
        window = as_text(self.query) or "Results"
        return save(path, page("hits.html", title, note, window, views=[view(self, None, None)]))

    def fetch(self) -> Self:
        """Get the images that are on the web or in a cloud, so that they are shown from now on.

        :return: the list itself.
        """
        wanted = {path for path in [*(hit.path for hit in self), *addresses(self.query)] if is_remote(path)}
        paths = sorted(wanted - {path for path, one in self.fetched.items() if one.content})
        got = together(lambda path: thumbnail(path, BUDGET // SHOWN, fetch=True), paths)
        self.fetched = {**self.fetched, **dict(zip(paths, got, strict=True))}
        return self

    def images(self, *, longest: int | None = None, missing: Missing = "raise") -> list[Any]:
        """Return the images, upright and RGB, in the order of the hits. Remote images are fetched.

        :param longest: their longer side is at most this, in pixels; their own size, if left out.
        :param missing: what becomes of one that cannot be read: ``raise`` an error, ``skip`` it, or put
            ``none`` (None) in its place.
        :return: ``PIL.Image.Image`` objects.
        :raises ImageDecodeError: Names the file and the cause.
        """
        check_one_of("missing", missing, Missing)
        if longest is not None:
            check_whole_number("longest", longest, 1 << 16)

        def one(hit: Hit) -> Pillow.Image | None:
            try:
                return load(hit.path, longest)
            except ImageDecodeError as err:
                if missing == "raise":
                    raise ImageDecodeError(f"{err}; images(missing='none') gives None in its place") from err
                return None

        images = together(one, self)
        return [image for image in images if image is not None or missing == "none"]

    def montage(
        self,
        columns: int = 5,
        rows: int = 2,
        size: int = 150,
        *,
        crop: bool = True,
        gap: int = 0,
        background: str = "white",
    ) -> Pillow.Image:
        """Return one image of the best hits, row by row, each in a square. Remote images are fetched.

        :param columns: squares in a row.
        :param rows: rows at most.
        :param size: side of a square, in pixels.
        :param crop: fill the square and cut off what stands out; False shows whole images.
        :param gap: pixels between squares.
        :param background: a colour, as Pillow names them.
        :return: RGB. Where an image cannot be read, its square says ``missing``.
        :raises QueryError: If there are no hits.
        :raises ConfigError: If a number is out of its range, or the colour is none.
        """
        check_whole_number("columns", columns, 100)
        check_whole_number("rows", rows, 100)
        check_whole_number("size", size, 2000)
        if not self:
            raise QueryError("there are no hits to make a montage of")
        # an image of 4:1 has to be four times as long as the square that it fills
        longest = 4 * size if crop else size
        images = self[: columns * rows].images(longest=longest, missing="none")
        return montage(images, columns, size, crop, gap, background)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each hit.

        :return: index rank, from 1; columns id, score, relevance (missing where nothing was calibrated),
            path, and the further fields. A field that has the name of one of these is ``fields.NAME``. The
            query's text is in ``.attrs["query"]``.
        """
        return frame(self)

    def compare(self, other: Hits, labels: Sequence[str] | None = None) -> Comparison:
        """These hits beside others, of another query or another model.

        :param labels: two names; if left out, the queries if they differ, else A and B.
        """
        return Comparison(self, other, labels)


QUERIES = 10
"""Queries that a notebook shows."""


class ManyHits(list[Hits]):
    """The hits of several queries, in the order of the queries. A list of :class:`Hits`."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hits: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Hits | Self:
        """The hits of one query, or of some."""
        found = super().__getitem__(index)
        return found if isinstance(found, Hits) else type(self)(found)

    def __repr__(self) -> str:
        """Each list, one below the other."""
        return "\n".join(map(repr, self)) or "<ManyHits: no queries>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a grid for each of the first ten queries, 50 hits in all."""
        shown = self[:QUERIES]
        each = SHOWN // max(1, len(shown))
        views = [view(hits, each, BUDGET * each // SHOWN) for hits in shown]
        return fragment("hits.html", views=views, unseen=len(self) - len(shown))

    def save_html(self, path: str | os.PathLike[str], title: str = "", note: str = "") -> Path:
        """Write all hits of all queries as one page; see :meth:`Hits.save_html`."""
        return save(path, page("hits.html", title, note, views=[view(hits, None, None) for hits in self]))


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
    :param steps: commands to go on with, listed at the end, each after its purpose.
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
