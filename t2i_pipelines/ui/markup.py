"""Results and runs as HTML. All text is escaped, images are thumbnails, nothing leads elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.search.results.address import name_of, near
from t2i_pipelines.search.results.view import view
from t2i_pipelines.ui.finding import Found
from t2i_pipelines.ui.inserting import Run
from t2i_pipelines.ui.plainly import plainly

if TYPE_CHECKING:
    from jinja2 import Environment

    from t2i_pipelines.types import Outcome

FAILURES = 100
"""Failures that are listed."""


def resource(name: str) -> str:
    """A file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def style() -> str:
    """The style sheet of results, and what the page adds to it."""
    return _html("style.css") + resource("page.css")


def heading(title: str) -> str:
    """The head of the page."""
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
    """How far a run is, or how it ended, and what failed.

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
    """An error, in one sentence."""
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

    from t2i_pipelines.search.results.render import environment

    shared = environment()
    own = PackageLoader("t2i_pipelines.ui")
    return shared.overlay(loader=ChoiceLoader([own, PackageLoader("t2i_pipelines.search.results")]))
