r"""What can be searched for: words, an image, a stored vector, and weighted sums of these.

::

    Q("golden retriever") * 2 + Img("pool.jpg") - "fruit"

The vector of a query with the weights w_i and the operands x_i is

    n(w_1 n(x_1) + w_2 n(x_2) + ...),    n(x) = x / ||x||

so that a weight means the same for words and images, whatever the lengths of a model's vectors, and the
result can be compared by cosine like any other. It is 3CosAdd of Levy and Goldberg 2014, "Linguistic
Regularities in Sparse and Explicit Word Representations", with weights; Kiros, Salakhutdinov and Zemel
2014 (arXiv:1411.2539) showed that it works across words and images.

On the command line a query is one line, see :func:`parse`::

    golden retriever^2 + ./pool.jpg - fruit

* ``+`` and ``-`` with a space on either side join operands; ``-`` at the start subtracts the first.
* ``^2`` behind an operand weighs it.
* What starts with ``/``, ``./``, ``../`` or ``~/``, a URL, and the name of a file that exists, suffix
  included, are images. ``like:ID`` is the stored image of that id. Anything else is words.
* What stands in double quotes is words, whatever is in it; ``\"`` and ``\\`` are a quote and a backslash.
  Behind ``like:`` or a ``/``, quotes protect the rest of an id or path: ``./"Rome - Paris.jpg"``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from numbers import Real
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union
from unicodedata import category

import numpy as np

from t2i_pipelines.errors import QueryError

if TYPE_CHECKING:
    from PIL.Image import Image as Pillow

    from t2i_pipelines.types import Image

WHITESPACE = "\t\n\v\f\r"
"""The control characters that a text may hold."""

INVISIBLE = ("Cc", "Cf")
"""Categories of Unicode that leave nothing to see: control and format characters."""


def check_text(text: object) -> str:
    """Pass a text that a model can make something of.

    Tabs and line breaks count as spaces. How much of a long text a model reads is its own affair: the rest
    is cut, and the first time that happens a warning says so.

    :raises QueryError: If it is no str, has nothing but spaces or invisible characters, or holds control
        characters or half a surrogate pair, as bytes do that were taken for text.
    """
    if not isinstance(text, str):
        raise QueryError(f"a query is a text; got {type(text).__name__}")
    check_characters("the query", text)
    if not any(map(_is_visible, text)):
        raise QueryError(f"the query is empty: {text!r:.80}; say what to look for, for example 'a white dog'")
    return text


def check_characters(what: str, text: str) -> None:
    """Pass a text without control characters other than white space, and without halves of surrogate pairs.

    :param what: the name of the text in the message.
    :raises QueryError: With the first and where it is.
    """
    if text.isprintable():  # quick, and nearly always so
        return
    for at, one in enumerate(text):
        kind = category(one)
        if kind == "Cs" or (kind == "Cc" and one not in WHITESPACE):
            name = "half a surrogate pair" if kind == "Cs" else "the control character"
            raise QueryError(
                f"{what} has {name} U+{ord(one):04X} at position {at}, so it is no text: {text!r:.80}; "
                "take it out; an image is given as bytes"
            )


def _is_visible(one: str) -> bool:
    return category(one)[0] != "Z" and category(one) not in INVISIBLE


KINDS = "words (a str), an image (a Path, bytes, a PIL image or a uint8 array), Like(id), or a sum of these"
Operand: TypeAlias = Union["Q", "Img", "Like"]
Term: TypeAlias = tuple[float, Operand]
"""A weight and its operand."""


class Query:
    """Words, an image, a stored vector, or a weighted sum of these.

    ``*`` weighs, ``+`` and ``-`` combine; a plain string means its words, a path, bytes, PIL image or
    uint8 array for the image. Queries never change.
    """

    __array_ufunc__ = None  # an array on the left leaves the operation to us

    @property
    def terms(self) -> tuple[Term, ...]:
        """Weights and operands, in the order in which they were written."""
        raise NotImplementedError

    def __mul__(self, weight: float) -> Query:
        if not isinstance(weight, Real) or isinstance(weight, bool):
            return NotImplemented
        return _sum((times * float(weight), operand) for times, operand in self.terms)

    __rmul__ = __mul__

    def __str__(self) -> str:
        """One line, as the command line takes it."""
        return line_of(self)

    def __neg__(self) -> Query:
        return self * -1.0

    def __add__(self, other: Any) -> Query:
        right = _operand(other)
        return NotImplemented if right is None else _sum((*self.terms, *right.terms))

    def __radd__(self, other: Any) -> Query:
        left = _operand(other)
        return NotImplemented if left is None else left + self

    def __sub__(self, other: Any) -> Query:
        right = _operand(other)
        return NotImplemented if right is None else self + -right

    def __rsub__(self, other: Any) -> Query:
        left = _operand(other)
        return NotImplemented if left is None else left + -self


@dataclass(frozen=True)
class Q(Query):
    """Words.

    :raises QueryError: See :func:`~t2i_pipelines.search.query.check_text`.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse a value that is no text."""
        check_text(self.text)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The one."""
        return ((1.0, self),)

    def __repr__(self) -> str:
        return f"Q({self.text!r})"


@dataclass(frozen=True, eq=False)
class Img(Query):
    """An image: a path or URL, the bytes of a file, a PIL image, or an (H, W, 3) uint8 array, RGB.

    It is read when it is searched for.

    :raises QueryError: If it is none of these, or empty.
    """

    image: str | bytes | Pillow | Image

    def __init__(self, image: str | os.PathLike[str] | bytes | bytearray | Pillow | Image) -> None:
        object.__setattr__(self, "image", _image(image))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The one."""
        return ((1.0, self),)

    @property
    def _key(self) -> object:
        return self.image if isinstance(self.image, str | bytes) else id(self.image)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Img) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Img({self.image!r})" if isinstance(self.image, str) else f"Img(<{self.described}>)"

    @property
    def described(self) -> str:
        """The image in a few words; its address where it has one."""
        if isinstance(self.image, str):
            return self.image
        if isinstance(self.image, bytes):
            return f"image of {len(self.image):,} bytes"
        height, width = np.asarray(self.image).shape[:2]
        return f"image of {width} x {height} pixels"


@dataclass(frozen=True)
class Like(Query):
    """An image of the collection, by its id: its stored vector, without embedding anything.

    It is itself among the hits. An id that is not stored is a :class:`QueryError` when it is searched for.

    :raises QueryError: If the id is no str, empty, or has control characters.
    """

    id: str

    def __post_init__(self) -> None:
        """Refuse a value that is no id."""
        if not isinstance(self.id, str) or not self.id:
            hint = "; write Like(hit.id)" if hasattr(self.id, "id") else ""
            raise QueryError(f"Like takes the id of a stored image, a str; got {self.id!r:.60}{hint}")
        check_characters("the id", self.id)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The one."""
        return ((1.0, self),)

    def __repr__(self) -> str:
        return f"Like({self.id!r})"


@dataclass(frozen=True)
class Sum(Query):
    """Operands with their weights. Written with ``*``, ``+`` and ``-``."""

    weighted: tuple[Term, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """As they were written."""
        return self.weighted

    def __repr__(self) -> str:
        return joined(
            (weight, repr(operand) if abs(weight) == 1 else f"{operand!r} * {number(abs(weight))}")
            for weight, operand in self.terms
        )


def query_of(item: Any) -> Query:
    """Return what may be searched for as a query: a str is words, a path, bytes, PIL image or array an image.

    :raises QueryError: If it is nothing that can be searched for.
    """
    found = _operand(item)
    if found is None:
        several = "; several queries are a list" if isinstance(item, Iterable) else ""
        raise QueryError(f"a query is {KINDS}; got {type(item).__name__}{several}")
    return found


def joined(written: Iterable[tuple[float, str]]) -> str:
    """Operands, each with what its sign is read from, as a sum."""
    return " ".join(f"{'-' if weight < 0 else '+'} {text}" for weight, text in written).removeprefix("+ ")


def number(weight: float) -> str:
    """Return the shortest decimal number that reads back as the same: 2, 0.25."""
    return str(np.format_float_positional(weight, trim="-"))


def _operand(item: Any) -> Query | None:
    """Return a query from one or from its shorthand; None from anything else."""
    if isinstance(item, Query):
        return item
    if isinstance(item, str):
        return Q(item)
    if isinstance(item, os.PathLike | bytes | bytearray | np.ndarray) or _is_pillow(item):
        return Img(item)
    return None


def _sum(terms: Iterable[Term]) -> Query:
    terms = tuple(terms)
    for weight, operand in terms:
        if not math.isfinite(weight):
            raise QueryError(f"a weight is a finite number; got {weight} for {operand!r}")
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    return Sum(terms)


def _image(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[-1] != 3 or not item.size:
            raise QueryError(
                f"an image as an array is (H, W, 3) uint8, RGB; got {item.dtype} {item.shape}; "
                "a stored vector is Like(id)"
            )
        return item
    if isinstance(item, str | os.PathLike | bytes | bytearray):
        given = bytes(item) if isinstance(item, bytes | bytearray) else os.fsdecode(os.fspath(item))
        if not given:
            raise QueryError(f"the image of the query is empty: {item!r}")
        return given
    if not _is_pillow(item):
        raise QueryError(
            f"an image is a path, a URL, bytes, a PIL image or a uint8 array; got {type(item).__name__}"
        )
    return item


def _is_pillow(item: Any) -> bool:
    from PIL import Image

    return isinstance(item, Image.Image)


Work = Callable[[list[Any]], Sequence[Any]]
"""N operands -> N results, in order."""


class Blend(NamedTuple):
    """A query whose operands are replaced step by step.

    :ivar query: the query as it was given.
    :ivar items: for each of ``query.terms`` a text, an image (H, W, 3) uint8, or a vector (D,) float32.
    """

    query: Query
    items: tuple[Any, ...]


def each_operand(queries: Sequence[Any], work: Work) -> list[Any]:
    """Let ``work`` replace the operands of all queries at once; others are one operand each."""
    operands = [one for query in queries for one in (query.items if isinstance(query, Blend) else (query,))]
    done = iter(work(operands))
    return [
        Blend(query.query, tuple(islice(done, len(query.items)))) if isinstance(query, Blend) else next(done)
        for query in queries
    ]


def replaced(operands: Sequence[Any], chosen: Callable[[Any], bool], work: Work) -> list[Any]:
    """Let ``work`` replace those operands that are ``chosen``, at once."""
    result = list(operands)
    places = [at for at, one in enumerate(operands) if chosen(one)]
    if places:
        for at, new in zip(places, work([operands[at] for at in places]), strict=True):
            result[at] = new
    return result


FindImage: TypeAlias = Callable[[str], "Img | None"]

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_TOKEN = re.compile(
    rf"""
    (?P<before>like:|(?:[^\s"]*/))?  "(?P<quoted>(?:[^"\\]|\\.)*)"  (?:\^(?P<weight>{_NUMBER}))?  (?!\S)
    | (?P<bare>\S+)
    """,
    re.VERBOSE | re.DOTALL,
)
_WEIGHT = re.compile(rf"(.*)\^({_NUMBER})", re.DOTALL)
_IMAGE = re.compile(r"\.{0,2}/|~/|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def parse(line: str, image: FindImage | None = None) -> Query:
    """Read a query.

    :param image: gives the image for what is written as an address, or None where that is words after
        all; left out, the files of this machine and what is on the web.
    :raises QueryError: If an operand is missing, or is nothing that can be searched for.
    """
    check_text(line)
    at = image or _image_at
    operands = ((sign, _parsed_operand(parts, at)) for sign, parts in _split(line))
    return reduce(add, (-operand if sign == "-" else operand for sign, operand in operands))


def line_of(query: Query) -> str:
    """Return a line that :func:`parse` reads as this query; images without address are described."""
    return joined(
        (weight, _written(operand) if abs(weight) == 1 else f"{_written(operand)}^{number(abs(weight))}")
        for weight, operand in query.terms
    )


def _split(line: str) -> Iterator[tuple[str, list[re.Match[str]]]]:
    """Yield the tokens of each operand, with the sign before them; the first need not have one."""
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


def _parsed_operand(tokens: list[re.Match[str]], at: FindImage) -> Query:
    """Return one operand with its weight."""
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


def _meant(text: str, at: FindImage) -> Query:
    if text.startswith("like:"):
        return Like(text.removeprefix("like:"))
    return at(text) or Q(text)


def is_address(text: str) -> bool:
    """Return whether an image's address was written: a path that begins as one, or a URL."""
    return _IMAGE.match(text) is not None


def _image_at(text: str) -> Img | None:
    if text.startswith("~/"):
        return Img(Path(text).expanduser())
    return Img(text) if is_address(text) or _is_file(text) else None


def _is_file(text: str) -> bool:
    """Return whether a file has this name, with a suffix.

    One word may well be the name of a folder or program.
    """
    with suppress(OSError):  # too long for a name
        return bool(Path(text).suffix) and Path(text).is_file()
    return False


def _written(operand: Operand) -> str:
    if isinstance(operand, Like):
        return _safe(f"like:{operand.id}", "like:", operand)
    if isinstance(operand, Q):
        return _safe(operand.text, "", operand)
    path = operand.described
    if not isinstance(operand.image, str):
        return f"<{path}>"
    if not _IMAGE.match(path):
        path = f"./{path}"
    return _safe(path, path[: path.rindex("/") + 1], Img(path))


def _safe(text: str, before: str, operand: Operand) -> str:
    """Return the text, quoted from behind ``before`` on where it would be read as something else."""
    with suppress(QueryError):
        if '"' not in text and parse(text) == operand:  # two quotes far apart would make one text
            return text
    escaped = re.sub(r'(["\\])', r"\\\1", text.removeprefix(before))
    return f'{before}"{escaped}"'
