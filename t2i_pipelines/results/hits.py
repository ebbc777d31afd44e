"""The hits of one query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self, SupportsIndex, overload

from t2i_pipelines.errors import QueryError
from t2i_pipelines.hit import Hit
from t2i_pipelines.search_options import SearchOptions

Again = Callable[[SearchOptions], "Hits"]
"""Searches for the same vector once more, with other options."""


class Hits(list[Hit]):
    """The hits of one query, best first. A list of :class:`~t2i_pipelines.hit.Hit`.

    :ivar query: what was searched for, as it was given.
    :ivar options: what the search was asked for beside the query; None where no search made the list.
    :ivar no_match: nothing stands out from what any query would find; None where nothing was calibrated.
    """

    query: object = None
    options: SearchOptions | None = None
    no_match: bool | None = None
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
        """The hits that come after these, by a search for the same vector.

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
        if self.options is not None and step == 1 and part:
            limit = stop - start if stop < len(self) else self.options.limit - start
            part.options = replace(self.options, offset=self.options.offset + start, limit=limit)
            part._again = self._again
        return part

    def copy(self) -> Self:
        """A list of the same hits, that cannot search for more."""
        return self._of(self)

    def __getstate__(self) -> dict[str, Any]:
        """Let lists be pickled and copied, without the search behind them."""
        return {name: value for name, value in vars(self).items() if name != "_again"}

    def _of(self, hits: Iterable[Hit]) -> Self:
        return type(self)(hits, query=self.query, options=self.options, no_match=self.no_match)
