"""Render templates to HTML, and addresses and texts for people.

All text is escaped; images are embedded; no script, and nothing from outside. Text of others cannot steer a
terminal or break an encoding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.images.address import scheme

if TYPE_CHECKING:
    from jinja2 import Environment

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


def name_of(path: str) -> str:
    """The last part of a path, of a URL, or of the name of a file in a tar; never empty."""
    if scheme(path) == "tar":
        path = path.partition("::")[0]
    elif scheme(path):
        path = path.partition("?")[0].partition("#")[0]
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def near(path: str) -> str:
    """The path as seen from the folder that this process works in, where that is shorter."""
    if "://" in path:
        return path
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


def fragment(body: str, **shown: Any) -> str:
    """A part of a page, with its style, as notebooks show it.

    :param body: name of the template.
    """
    return environment().get_template("fragment.html").render(body=body, **shown)


def page(
    body: str,
    title: str = "",
    note: str = "",
    window: str = "Results",
    steps: Sequence[tuple[str, str]] = (),
    **shown: Any,
) -> str:
    """A page that needs nothing else.

    :param body: name of the template.
    :param title: the heading; without one there is none.
    :param note: a line below the title.
    :param window: what the browser's window is called where there is no title.
    :param steps: commands to go on with, listed at the end, each after what it does.
    """
    shown |= {"body": body, "title": title, "note": note, "window": window, "steps": steps}
    return environment().get_template("page.html").render(**shown)


def save(path: str | os.PathLike[str], html: str) -> Path:
    """Write a page as UTF-8, and make the folders above it.

    :return: where it is.
    """
    place = Path(path).expanduser()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(html, encoding="utf-8")
    return place


@cache
def environment() -> Environment:
    """What renders templates: it escapes all text, and replaces what cannot be printed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def text(value: object) -> object:
        return value if isinstance(value, Markup) else printable(value)

    return Environment(
        loader=PackageLoader("t2i_pipelines.search"),
        autoescape=True,
        finalize=text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
