"""Options of a search, and conditions on columns."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from t2i_pipelines.config.checks import (
    REPEATABLE,
    Checked,
    Cli,
    by_value,
    described,
    setting,
    share,
    whole_number,
)
from t2i_pipelines.errors import ConfigError

TEXTS, NUMBERS = ("id", "path", "digest"), ("size", "mtime")
"""The collection's own fields. Every row has them; any other field is metadata, which a row may lack."""

OPERATORS = ("==", "!=", ">", ">=", "<", "<=", "in", "not in", "like", "contains")
LARGEST = 2**63 - 1
NEVER = 'id == ""'  # an id is never empty

_FIELD = re.compile(r"[^\W\d]\w*(?:[ .:/-]\w+)*")
_QUOTED = re.compile(r"[^\x00-\x1f\x7f-\x9f\"'\\\[\]]+")
"""A column that a condition names within quotes: ``35mm``, ``GPS (lat)``."""

_TOLD = re.compile(
    r"\s*(?P<field>[\w .:/()%#&+*-]*?)\s*"
    r"(?P<operator>==|!=|>=|<=|=|>|<|(?<=\s)(?:not\s+in|in|like|contains)(?=\s))\s*(?P<value>.*?)\s*",
    re.DOTALL,
)
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""Those that every Milvus knows. Milvus Lite refuses others, such as ``\\b``, and takes such characters as
they are."""


@dataclass(frozen=True)
class Condition:
    """One checked condition: a field, an operator, and what it is compared with.

    :ivar typed: the field is metadata that has a column of its own, of text; a row without has an empty one.
    """

    field: str
    operator: str
    value: Any
    typed: bool = False


def read_where(where: Mapping[str, Any] | None) -> list[Condition]:
    """Check conditions and write them out.

    A field has a value that it must equal, None if it must not be there, a pair ``(operator, value)``, or a
    list of pairs that must all hold.

    :raises ConfigError: If a name, an operator or a value cannot work; names it.
    """
    if where is None:
        return []
    if not isinstance(where, Mapping):
        raise ConfigError(f'where must be a mapping such as {{"year": (">", 2015)}}, got {where!r}')
    return [
        _condition(check_field(field), one)
        for field, asked in where.items()
        for one in (asked if isinstance(asked, list) else [asked])
    ]


def parse_condition(text: str) -> tuple[str, tuple[str, Any]]:
    """``year > 2015``, ``camera like Canon%``, ``place in Rome, Paris`` -> field and condition.

    What reads as a number, ``true`` or ``false`` is one; double quotes keep a text.

    :raises ConfigError: If there is no operator in it, or no name before it.
    """
    found = _TOLD.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"where {text!r} is no condition; write for example 'year > 2015', with = or one of "
            f"{', '.join(OPERATORS)}"
        )
    field, operator, value = found["field"], " ".join(found["operator"].split()), found["value"]
    if operator in ("in", "not in"):
        return check_field(field), (operator, [_told(part.strip()) for part in value.split(",")])
    return check_field(field), ("==" if operator == "=" else operator, _told(value))


def check_field(field: object, setting: str = "where") -> str:
    """Return the name of a column, if a filter may hold it.

    :raises ConfigError: If not.
    """
    if setting == "where":
        form, allowed = _QUOTED, "has no quotes, backslashes, brackets or control characters"
    else:
        form = _FIELD
        allowed = "is made of letters, digits and _, and within it single spaces or any of . : / -"
    if (
        not isinstance(field, str)
        or not form.fullmatch(field)
        or field != field.strip()
        or len(field.encode(errors="replace")) > 255
    ):
        raise ConfigError(f"{setting}: a column's name {allowed}; got {field!r:.300}")
    if field == "vector":
        raise ConfigError(f"{setting}: vector cannot be compared with a value; search for it instead")
    return field


def check_filter(filter: object) -> str:
    """Return a filter expression without blanks around it, if it stays inside parentheses put around it.

    :raises ConfigError: If it is no text, or quotes or parentheses in it are not closed.
    """
    if not isinstance(filter, str):
        raise ConfigError(f"filter must be an expression such as 'year > 2015', got {filter!r}")
    depth, at = 0, 0
    while at < len(filter) and depth >= 0:
        letter = filter[at]
        if letter in "\"'":
            at += 1
            while at < len(filter) and filter[at] != letter:
                at += 2 if filter[at] == "\\" else 1
            if at >= len(filter):
                raise ConfigError(f"filter {filter!r} was refused: a quote in it is not closed")
        depth += {"(": 1, ")": -1}.get(letter, 0)
        at += 1
    if depth:
        raise ConfigError(f"filter {filter!r} was refused: its parentheses do not match")
    return filter.strip()


def literal(value: Any) -> str:
    """Return a value as Milvus's filter language writes it: whatever text it holds, it stays one value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def expression(filter: str, conditions: list[Condition], *, is_lite: bool) -> str:
    """Return a filter expression for both; values are literals."""
    return _both(filter, _all_of(conditions, literal, is_lite))


def template(filter: str, conditions: list[Condition]) -> tuple[str, dict[str, Any]]:
    """Return a filter expression for both, for Milvus 2.5 and later, and the values that it leaves out.

    The pattern of ``like`` and the value of ``contains`` must be literals before Milvus 2.6.
    """
    values: dict[str, Any] = {}

    def put(value: Any) -> str:
        name = f"where_{len(values)}"
        values[name] = value
        return f"{{{name}}}"

    return _both(filter, _all_of(conditions, put, False)), values


def _condition(field: str, asked: Any) -> Condition:
    if not isinstance(asked, tuple):
        asked = ("==", asked)
    if len(asked) != 2 or asked[0] not in OPERATORS:
        raise ConfigError(
            f"where: {field!r} needs a value or a pair (operator, value), the operator one of "
            f"{', '.join(OPERATORS)}; got {asked!r:.300}"
        )
    operator, value = asked
    if operator in ("in", "not in"):
        if not isinstance(value, list | tuple | set | frozenset):
            raise ConfigError(f"where: {field!r} {operator} needs a list of values, got {value!r:.300}")
        return Condition(field, operator, [_plain(field, one) for one in value])
    if value is None and operator in ("==", "!=") and field not in TEXTS + NUMBERS:
        return Condition(field, operator, None)
    value = _plain(field, value, str if operator == "like" else None)
    if operator == "contains" and field in TEXTS + NUMBERS:
        raise ConfigError(f"where: {field!r} is no list that could contain something")
    return Condition(field, operator, value)


def _told(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text


def _plain(field: str, value: Any, kind: type | None = None) -> Any:
    """``value`` as text, number, true or false."""
    if isinstance(value, np.generic):
        value = value.item()
    kind = kind or (str if field in TEXTS else int if field in NUMBERS else None)
    wanted: Any = kind or str | int | float | bool
    if not isinstance(value, wanted) or (kind is int and isinstance(value, bool)):
        names: dict[Any, str] = {str: "text", int: "a whole number", None: "text, a number, True or False"}
        raise ConfigError(f"where: {field!r} is compared with {names[kind]}, got {value!r:.300}")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as err:
            raise ConfigError(f"where: {field!r}: {value!r:.300} is not valid Unicode: {err.reason}") from err
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"where: {field!r} is compared with {value}, which no row can hold")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(f"where: {field!r}: {value} does not fit 64 bits")
    return value


def _both(filter: str, where: str) -> str:
    return f"({where}) and ({filter})" if filter and where else filter or where


def _all_of(conditions: list[Condition], put: Callable[[Any], str], is_lite: bool) -> str:
    written = [_written(one, put, is_lite) for one in conditions]
    return written[0] if len(written) == 1 else " and ".join(f"({one})" for one in written)


def _written(one: Condition, put: Callable[[Any], str], is_lite: bool) -> str:
    own = one.typed or one.field in TEXTS + NUMBERS
    field = one.field if own else f"$meta[{literal(one.field)}]"
    there = f'{field} != ""' if one.typed else f"exists {field}"
    if one.value is None:
        return there if one.operator == "!=" else f"not ({there})"
    match one.operator:
        case "in":
            return _one_of(field, one.value, put, is_lite and not own)
        case "not in":
            found = f"not ({_one_of(field, one.value, put, is_lite and not own)})"
        case "like":
            return f"{field} like {literal(one.value)}"
        case "contains":
            # Milvus Lite takes a bare name here, others take one that is a word of the language too
            bare = check_field(one.field, "contains, in Milvus Lite") if is_lite else field
            return f"json_contains({bare}, {literal(one.value)})"
        case _:
            found = f"{field} {one.operator} {put(one.value)}"
    # a server says that a field that is not there differs from every value
    return (
        found
        if (own and not one.typed) or one.operator not in ("!=", "not in")
        else f"({there}) and ({found})"
    )


def _one_of(field: str, values: list[Any], put: Callable[[Any], str], singly: bool) -> str:
    if not values:
        return NEVER
    if singly:  # Milvus Lite knows `in` for fields of its schema only
        parts = [f"{field} == {put(value)}" for value in values]
    else:  # a list of several types is refused
        kinds = dict.fromkeys(map(type, values))
        parts = [f"{field} in {put([one for one in values if type(one) is kind])}" for kind in kinds]
    return parts[0] if len(parts) == 1 else " or ".join(f"({part})" for part in parts)


MAX_LIMIT = 16384  # Milvus: "topk [20000] is invalid, it should be in range [1, 16384]"


def parse_conditions(texts: Sequence[str] | None) -> dict[str, list[Any]]:
    """Make ``where`` of conditions as :func:`parse_condition` reads them; several may be on one column."""
    where: dict[str, list[Any]] = {}
    for field, condition in map(parse_condition, texts or ()):
        where.setdefault(field, []).append(condition)
    return where


def _check_names(name: str, value: Any) -> None:
    if isinstance(value, str):
        raise ConfigError(f"{name} must be a list of names, got the string {value!r}; write [{value!r}]")


def _check_group_by(name: str, value: Any) -> None:
    if value is not None:
        check_field(value, name)


@described
@dataclass(kw_only=True, unsafe_hash=True)
class SearchOptions(Checked):
    """Which hits, how many, in which order.

    Hits come by score, equal scores by id. ``radius`` and ``range_filter`` apply first, then ``group_by``,
    ``collapse``, ``diversity``, and ``offset`` and ``limit`` last: a page is a part of what one larger page
    would show, as long as nothing is written.
    """

    limit: int = setting(10, "Maximum number of hits per query. 1 to 16,384.", whole_number(MAX_LIMIT))
    offset: int = setting(
        0,
        "Number of hits to skip. 0 to 16,383; ``offset + limit`` is at most 16,384.",
        whole_number(MAX_LIMIT - 1, lowest=0),
    )
    filter: str = setting(
        "",
        "Milvus filter expression, for example: ``year > 2015``.",
        by_value(check_filter),
    )
    where: Mapping[str, Any] | None = setting(
        None,
        "Conditions on columns, all of which must hold, and ``filter`` as well. A value that the column must "
        "equal, None if it must not be there, or ``(operator, value)``, or a list of such pairs, as in "
        '``{"year": [(">", 2015), ("<=", 2020)], "camera": ("like", "Canon%"), "place": ("in", ["Rome"])}``. '
        'The operators are ``== != > >= < <= in "not in" like contains``, the last for metadata that is a '
        "list. A row that has no such column meets no condition on it. No value can change the expression.",
        by_value(read_where),
        cli=Cli(
            kind=list[str],
            convert=parse_conditions,
            help="Condition on a column: 'year > 2015', 'camera like Canon%', 'place in Rome, Bari'; "
            "repeatable, all must hold. Values cannot change the expression.",
        ),
    )
    output_fields: Sequence[str] = setting(
        (),
        "Further columns to show in each hit, ``*`` for all but the vector.",
        _check_names,
        cli=replace(REPEATABLE, help="Further column to show; repeatable."),
    )
    radius: float | None = setting(
        None, "Return only hits with a higher cosine, -1 to 1.", share(lowest=-1.0, optional=True)
    )
    range_filter: float | None = setting(
        None,
        "Return only hits with at most this cosine; needs ``radius``. -1 to 1.",
        share(lowest=-1.0, optional=True),
        cli=Cli(help="Return only hits with at most this cosine; needs --radius."),
    )
    group_by: str | None = setting(
        None,
        "Return the best hit for each value of this column. Rows without the column are not grouped.",
        _check_group_by,
    )
    collapse: float | None = setting(
        None,
        "Return only the best of images that are this similar (cosine), such as 0.94. 0 to 1.",
        share(optional=True),
    )
    diversity: float = setting(
        0.0,
        "Prefer different images: 0 ranks by score alone, 1 by difference alone. Maximal marginal relevance; "
        "hits come in the order in which they were chosen.",
        share(),
    )
    min_relevance: float = setting(
        0.0,
        "Leave out hits of a lower relevance, 0 to 1; below 0.5 a hit is one by chance. Of the hits that all "
        "this chose; what has no relevance stays. See :mod:`t2i_pipelines.search.relevance`.",
        share(),
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the option, its value and what it may be.
        """
        super().__post_init__()
        if self.offset + self.limit > MAX_LIMIT:
            raise ConfigError(
                f"offset + limit must be at most {MAX_LIMIT:,}, got {self.offset} + {self.limit}; "
                "Searcher.iterate goes further"
            )
        if self.range_filter is not None and (self.radius is None or self.radius >= self.range_filter):
            raise ConfigError(
                f"range_filter is an upper bound and needs a lower radius; got radius={self.radius!r}, "
                f"range_filter={self.range_filter!r}"
            )
