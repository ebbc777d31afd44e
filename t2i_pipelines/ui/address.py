"""The address of a search: what stands behind the ``?``, to be shared, reloaded, and gone back to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from t2i_pipelines.config.search import MAX_LIMIT, check_field
from t2i_pipelines.errors import ConfigError, QueryError
from t2i_pipelines.ui.finding import MOST, Found, Start, Wanted

COLUMN = "is."
"""Before the name of a column: ``is.city=Rome``. Values that read as numbers, ``true`` or ``false`` are such;
a text that does stands in double quotes."""

LONGEST = 8_000
"""Characters of an address that are read."""


@dataclass(frozen=True)
class Link:
    """A search, as its address tells it.

    :ivar words: what is searched for; empty for the start.
    :ivar like: id of a stored image that others are to be like, in place of words.
    :ivar page: from 1.
    """

    words: str = ""
    like: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    page: int = 1


def link_of(shown: Found | Start, own: Wanted) -> str | None:
    """Return the address of what is shown; None for an uploaded image, which has none.

    :param own: options that are left out, since the page begins with them.
    """
    if isinstance(shown, Start):
        return write(Link(wanted=shown.wanted), own)
    words = shown.query if isinstance(shown.query, str) else ""
    if not words and not shown.like:
        return None
    return write(Link(words, shown.like, shown.wanted, shown.at + 1), own)


def write(link: Link, own: Wanted) -> str:
    """Return an address: ``?q=a+cat&page=2``; empty for the start."""
    wanted = link.wanted
    pairs = [("q", link.words)] if link.words else [("like", link.like)] if link.like else []
    pairs += [(COLUMN + column, written(value)) for column, value in wanted.where]
    pairs += [("limit", str(wanted.limit))] if wanted.limit != own.limit else []
    pairs += [("min", f"{wanted.min_relevance:g}")] if wanted.min_relevance != own.min_relevance else []
    pairs += [("fold", str(int(wanted.fold)))] if wanted.fold != own.fold else []
    pairs += [("filter", wanted.filter)] if wanted.filter != own.filter else []
    pairs += [("page", str(link.page))] if link.page > 1 else []
    return f"?{urlencode(pairs)}" if pairs else ""


def read(address: str, own: Wanted) -> Link:
    """Read what stands behind the ``?``; names that are not ours are ignored, as browsers add some.

    :raises QueryError: If a value cannot be; names it.
    """
    if len(address) > LONGEST:
        raise QueryError(f"the address is longer than {LONGEST:,} characters; search again")
    pairs = parse_qsl(address.removeprefix("?"), keep_blank_values=True)
    single = dict(pairs)
    wanted = Wanted(
        limit=_number(single, "limit", own.limit, int, 1, MOST),
        min_relevance=_number(single, "min", own.min_relevance, float, 0, 1),
        filter=single.get("filter", own.filter),
        where=tuple(_condition(name, value) for name, value in pairs if name.startswith(COLUMN)),
        fold=bool(_number(single, "fold", own.fold, int, 0, 1)),
    )
    page = _number(single, "page", 1, int, 1, MAX_LIMIT // wanted.limit)
    words = single.get("q", "").strip()
    return Link(words, "" if words else single.get("like", ""), wanted, page)


def read_condition(column: str, text: str) -> tuple[str, Any]:
    """Return a column and the value that a text stands for: ``2015`` and ``true`` are no texts.

    :raises QueryError: If there can be no such column.
    """
    try:
        check_field(column)
    except ConfigError as err:
        raise QueryError(f"the address has no name of a column in {column!r:.100}; search again") from err
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):  # brackets thousands deep
        return column, text
    return column, value if isinstance(value, str | int | float) else text


def _condition(name: str, text: str) -> tuple[str, Any]:
    return read_condition(name.removeprefix(COLUMN), text)


def written(value: Any) -> str:
    """Return a value so that it is read as the same: a text that reads as another value gets quotes."""
    if isinstance(value, str) and read_condition("column", value)[1] == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _number(
    pairs: dict[str, str], name: str, own: Any, kind: Callable[[str], Any], low: int, high: int
) -> Any:
    if name not in pairs:
        return own
    try:
        value = kind(pairs[name])
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise QueryError(
            f"{name} in the address must be {low} to {high:,}, got {pairs[name]!r:.40}; search again"
        )
    return value
