"""Which texts can be searched for."""

from __future__ import annotations

from unicodedata import category

from t2i_pipelines.errors import QueryError

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

    :param what: what the text is called in the message.
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
