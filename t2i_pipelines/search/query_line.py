r"""A query as one line, for the command line.

::

    golden retriever^2 + ./pool.jpg - fruit

* ``+`` and ``-`` with a space on either side join operands; ``-`` at the start subtracts the first.
* ``^2`` behind an operand weighs it.
* What starts with ``/``, ``./``, ``../`` or ``~/``, a URL, and the name of a file that exists, suffix
  included, are images. ``like:ID`` is the stored image of that id. Anything else is words.
* What stands in double quotes is words, whatever is in it; ``\"`` and ``\\`` are a quote and a backslash.
  Behind ``like:`` or a ``/``, quotes protect the rest of an id or path: ``./"Rome - Paris.jpg"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from operator import add
from pathlib import Path
from typing import TypeAlias

from t2i_pipelines.errors import QueryError
from t2i_pipelines.search.query import Img, Like, Operand, Q, Query, check_text, joined, number

Picture: TypeAlias = Callable[[str], "Img | None"]

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_TOKEN = re.compile(
    rf"""
    (?P<before>like:|(?:[^\s"]*/))?  "(?P<quoted>(?:[^"\\]|\\.)*)"  (?:\^(?P<weight>{_NUMBER}))?  (?!\S)
    | (?P<bare>\S+)
    """,
    re.VERBOSE | re.DOTALL,
)
_WEIGHT = re.compile(rf"(.*)\^({_NUMBER})", re.DOTALL)
_PICTURE = re.compile(r"\.{0,2}/|~/|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def parse(line: str, picture: Picture | None = None) -> Query:
    """Read a query.

    :param picture: gives the image for what is written as an address, or None where that is words after
        all; left out, the files of this machine and what is on the web.
    :raises QueryError: If an operand is missing, or is nothing that can be searched for.
    """
    check_text(line)
    at = picture or _picture_at
    operands = ((sign, _operand(parts, at)) for sign, parts in _split(line))
    return reduce(add, (-operand if sign == "-" else operand for sign, operand in operands))


def line_of(query: Query) -> str:
    """A line that :func:`parse` reads as this query; images without address are described."""
    return joined(
        (weight, _written(operand) if abs(weight) == 1 else f"{_written(operand)}^{number(abs(weight))}")
        for weight, operand in query.terms
    )


def _split(line: str) -> Iterator[tuple[str, list[re.Match[str]]]]:
    """The tokens of each operand, with the sign before them; the first need not have one."""
    sign, parts = "", list[re.Match[str]]()
    for token in _TOKEN.finditer(line):
        if token[0] not in ("+", "-"):
            parts.append(token)
            continue
        if parts:
            yield sign, parts
        elif sign:
            raise _missing(sign, line)
        sign, parts = token[0], []
    if not parts:
        raise _missing(sign, line)
    yield sign, parts


def _missing(sign: str, line: str) -> QueryError:
    return QueryError(
        f"nothing stands behind a {sign!r} in the query {line!r:.80}; words that hold a + or - of their own "
        "go into double quotes"
    )


def _operand(tokens: list[re.Match[str]], at: Picture) -> Query:
    """One operand with its weight."""
    words, weight = [_unquoted(token) for token in tokens], 1.0
    last = tokens[-1]
    if last["weight"]:
        weight = float(last["weight"])
    elif last["bare"] and (found := _WEIGHT.fullmatch(last["bare"])):
        words[-1], weight = found[1], float(found[2])
    text = " ".join(word for word in words if word)
    if len(tokens) == 1 and last["bare"] is None and last["before"] is None:
        return Q(text) * weight
    return _meant(text, at) * weight


def _unquoted(token: re.Match[str]) -> str:
    if token["bare"] is not None:
        return token["bare"]
    return (token["before"] or "") + re.sub(r"\\(.)", r"\1", token["quoted"], flags=re.DOTALL)


def _meant(text: str, at: Picture) -> Query:
    if text.startswith("like:"):
        return Like(text.removeprefix("like:"))
    return at(text) or Q(text)


def is_address(text: str) -> bool:
    """Whether an image's address was written: a path that begins as one, or a URL."""
    return _PICTURE.match(text) is not None


def _picture_at(text: str) -> Img | None:
    if text.startswith("~/"):
        return Img(Path(text).expanduser())
    return Img(text) if is_address(text) or _is_file(text) else None


def _is_file(text: str) -> bool:
    """Whether a file has this name, with a suffix; one word may well be the name of a folder or program."""
    with suppress(OSError):  # too long for a name
        return bool(Path(text).suffix) and Path(text).is_file()
    return False


def _written(operand: Operand) -> str:
    if isinstance(operand, Like):
        return _safe(f"like:{operand.id}", "like:", operand)
    if isinstance(operand, Q):
        return _safe(operand.text, "", operand)
    path = operand.described
    if not isinstance(operand.picture, str):
        return f"<{path}>"
    if not _PICTURE.match(path):
        path = f"./{path}"
    return _safe(path, path[: path.rindex("/") + 1], Img(path))


def _safe(text: str, before: str, operand: Operand) -> str:
    """The text, quoted from behind ``before`` on where it would be read as something else."""
    with suppress(QueryError):
        if '"' not in text and parse(text) == operand:  # two quotes far apart would make one text
            return text
    escaped = re.sub(r'(["\\])', r"\\\1", text.removeprefix(before))
    return f'{before}"{escaped}"'
