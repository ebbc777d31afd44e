"""Templates to HTML. All text is escaped; images are embedded; no script, and nothing from outside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.search.results.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment


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
        loader=PackageLoader("t2i_pipelines.search.results"),
        autoescape=True,
        finalize=text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
