"""Text that may be shown anywhere: what others wrote cannot steer a terminal or break an encoding."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters, of which terminals take orders
    "\u202a-\u202e\u2066-\u2069"  # turn the direction of all that follows
    "\ud800-\udfff\ufffe\uffff]"  # half a character: a file name that is not UTF-8
)


def printable(value: object, longest: int | None = None) -> str:
    """The text of a value, in one line; what cannot be printed becomes U+FFFD.

    :param longest: characters to keep; what is longer ends in an ellipsis.
    """
    text = _UNPRINTABLE.sub("\ufffd", str(value))
    text = re.sub(r"[\t\n\r\u2028\u2029]+", " ", text)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def percent(share: float | None) -> str:
    """A share as people read it: ``83%``, ``<1%``; empty for None."""
    if share is None:
        return ""
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"
