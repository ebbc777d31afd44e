"""Results, runs and errors as HTML. All text is escaped, images are thumbnails, and nothing links out.

Errors are one sentence without paths or secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.search.render import name_of, near, printable
from t2i_pipelines.search.view import view
from t2i_pipelines.ui.finding import Found, Run

if TYPE_CHECKING:
    from jinja2 import Environment

    from t2i_pipelines.types import Outcome

LONGEST = 300
"""Characters of a sentence."""

_START = r"(?<![\w.])(?:[A-Za-z][A-Za-z0-9+.-]*:/{1,3}|[A-Za-z]:[\\/]|~?[\\/])"
_QUOTED = re.compile(rf"(?P<quote>['\"`])(?P<path>{_START}.*?)(?P=quote)")
_BARE = re.compile(rf"{_START}[^\s'\"`,;()<>]+")
_SECRET = "•••"


def plainly(reason: object, settings: Mapping[str, Any], path: str = "") -> str:
    """Return a reason or an error in one sentence. Of a path or an address only its last part is named.

    :param settings: of what failed: their ``token`` is a secret, and so is what their ``uri`` holds of one.
    :param path: of the image that failed, where it is known; may hold blanks.
    """
    text = printable(reason)
    for secret in _secrets(settings):
        text = text.replace(secret, _SECRET)
    for known in (path, str(settings.get("uri") or ""), str(settings.get("checkpoint_path") or "")):
        if known and ("/" in known or "\\" in known):
            text = text.replace(printable(known), _name(known))
    text = _QUOTED.sub(lambda found: found["quote"] + _name(found["path"]) + found["quote"], text)
    text = _BARE.sub(lambda found: _name(found[0]), text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _name(path: str) -> str:
    """Return the last part; of a server's address the host and port."""
    whole = path.rstrip(":.!?")
    name = name_of(whole)
    if f"//{name}" in whole:
        name = name.rpartition("@")[2]
    return printable(name) + path[len(whole) :]


def _secrets(settings: Mapping[str, Any]) -> list[str]:
    """Return the token, and its password, longest first."""
    credentials = [str(settings.get("token") or "")]
    if found := re.match(r"\w+://([^/]*)@", str(settings.get("uri") or "")):
        credentials.append(found[1])
    parts = [part for one in credentials for part in (one, one.partition(":")[2])]
    return sorted(filter(None, parts), key=len, reverse=True)


FAILURES = 100
"""Failures that are listed."""


def resource(name: str) -> str:
    """Return a file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def style() -> str:
    """Return the style sheet of results, and what the page adds to it."""
    return _html("style.css") + resource("page.css")


def heading(title: str) -> str:
    """Return the head of the page."""
    return _html("heading.html", title=title)


def chips(texts: Sequence[str]) -> str:
    """Queries to try by a click."""
    return _html("chips.html", texts=texts)


def welcome(insert: bool) -> str:
    """Say what can be done, before the first search.

    :param insert: whether there is a tab to insert by.
    """
    return _html("welcome.html", insert=insert)


def found(shown: Found) -> str:
    """Hits, each with its image, score, relevance and path; pages; and that nothing matches."""
    hits = shown.hits
    return _html(
        "found.html",
        view=view(hits),
        asked=shown.asked,
        folders={hit.id: near(hit.path).rpartition(name_of(hit.path))[0] for hit in hits},
        first=hits.first_rank,
        last=hits.first_rank + len(hits) - 1,
        has_previous=shown.at > 0,
        has_next=shown.may_go_on,
    )


def inserted(run: Run, settings: Mapping[str, Any], error: str = "") -> str:
    """Return how far a run is, or how it ended, and what failed.

    :param error: what ended it before its end, in one sentence.
    """
    failed = run.report.failed[:FAILURES]
    return _html(
        "inserted.html",
        run=run,
        summary=run.report.summary(),
        skipped=run.report.skipped.summary() if run.is_over else "",
        budget=run.report.budget() if run.is_over else "",
        done=run.report.total,
        failed=[_failure(one, run.source, settings) for one in failed],
        left=len(run.report.failed) - len(failed),
        error=error,
    )


def refused(sentence: str) -> str:
    """Return an error, in one sentence."""
    return _html("refused.html", sentence=sentence)


def _failure(one: Outcome, source: str, settings: Mapping[str, Any]) -> dict[str, str]:
    whole = source.rstrip("/") + "/"
    name = one.path[len(whole) :] if one.path.startswith(whole) else name_of(one.path)
    stage = getattr(one.reason, "stage", "")
    return {"name": name, "stage": stage, "reason": plainly(one.reason, settings, one.path)}


def _html(template: str, **shown: Any) -> str:
    return _environment().get_template(template).render(**shown)


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, PackageLoader

    from t2i_pipelines.search.render import environment

    shared = environment()
    own = PackageLoader("t2i_pipelines.ui")
    return shared.overlay(loader=ChoiceLoader([own, PackageLoader("t2i_pipelines.search")]))
