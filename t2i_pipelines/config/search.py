"""What a search may be asked for beside the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from t2i_pipelines.config.checks import check_known, check_share, check_whole_number
from t2i_pipelines.config.conditions import check_field, check_filter, read_where
from t2i_pipelines.errors import ConfigError

MAX_LIMIT = 16384  # Milvus: "topk [20000] is invalid, it should be in range [1, 16384]"


class SearchArgs(TypedDict, total=False):
    """What a search takes as keyword arguments; :class:`SearchOptions` says what each means."""

    limit: int
    offset: int
    filter: str
    where: Mapping[str, Any] | None
    output_fields: Sequence[str]
    radius: float | None
    range_filter: float | None
    group_by: str | None
    collapse: float | None
    diversity: float
    min_relevance: float


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Which hits, how many, in which order.

    Hits come by score, equal scores by id. ``radius`` and ``range_filter`` apply first, then ``group_by``,
    ``collapse``, ``diversity``, and ``offset`` and ``limit`` last: a page is a part of what one larger page
    would show, as long as nothing is written.

    :ivar limit: hits a query, 1 to 16,384.
    :ivar offset: number of hits to skip, 0 to 16,383; ``offset + limit`` is at most 16,384.
    :ivar filter: a Milvus filter expression, for example ``year > 2015``.
    :ivar where: conditions on fields, all of which must hold, and ``filter`` as well: a value that the field
        must equal, None if it must not be there, or ``(operator, value)``, or a list of such pairs, as in
        ``{"year": [(">", 2015), ("<=", 2020)], "camera": ("like", "Canon%"), "place": ("in", ["Rome"])}``.
        The operators are ``== != > >= < <= in "not in" like contains``, the last for metadata that is a list.
        A row that has no such field meets no condition on it. No value can change the expression.
    :ivar output_fields: further columns in each hit, ``*`` for all but the vector.
    :ivar radius: hits of a greater cosine only, -1 to 1.
    :ivar range_filter: hits of at most this cosine only, -1 to 1; needs ``radius``.
    :ivar group_by: a field; of the rows that share its value only the best is a hit. A row without the field
        shares it with none.
    :ivar collapse: of images that are alike, at a cosine of at least this, only the best is a hit; 0 to 1.
    :ivar diversity: 0 is by score alone, 1 as different from one another as can be
        (maximal marginal relevance). Hits then come in the order in which they were chosen.
    :ivar min_relevance: of the hits that all this chose, leave out those of a lower relevance, 0 to 1; what
        has none stays. See :mod:`t2i_pipelines.search.relevance`.
    """

    limit: int = 10
    offset: int = 0
    filter: str = ""
    where: Mapping[str, Any] | None = None
    output_fields: Sequence[str] = ()
    radius: float | None = None
    range_filter: float | None = None
    group_by: str | None = None
    collapse: float | None = None
    diversity: float = 0.0
    min_relevance: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the option, its value and what it may be.
        """
        check_whole_number("limit", self.limit, MAX_LIMIT)
        check_whole_number("offset", self.offset, MAX_LIMIT - 1, lowest=0)
        if self.offset + self.limit > MAX_LIMIT:
            raise ConfigError(
                f"offset + limit must be at most {MAX_LIMIT:,}, got {self.offset} + {self.limit}; "
                "Searcher.iterate goes further"
            )
        if isinstance(self.output_fields, str):
            raise ConfigError(
                f"output_fields must be a list of names, got the string {self.output_fields!r}; "
                f"write [{self.output_fields!r}]"
            )
        check_filter(self.filter)
        read_where(self.where)
        if self.group_by is not None:
            check_field(self.group_by, "group_by")
        for name in ("radius", "range_filter"):
            check_share(name, getattr(self, name), lowest=-1.0, optional=True)
        if self.range_filter is not None and (self.radius is None or self.radius >= self.range_filter):
            raise ConfigError(
                f"range_filter is an upper bound and needs a lower radius; got radius={self.radius!r}, "
                f"range_filter={self.range_filter!r}"
            )
        check_share("collapse", self.collapse, optional=True)
        check_share("diversity", self.diversity)
        check_share("min_relevance", self.min_relevance)

    @classmethod
    def of(cls, **options: Unpack[SearchArgs]) -> SearchOptions:
        """Build from keyword arguments.

        :raises ConfigError: If one is unknown; the message lists the known.
        """
        check_known(cls, dict(options))
        return cls(**options)
