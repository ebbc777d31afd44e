"""Results, runs and errors as HTML. All text is escaped, images are thumbnails, and nothing links out.

Errors are one sentence without paths or secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from t2i_pipelines.images import is_remote
from t2i_pipelines.images.address import is_http
from t2i_pipelines.search.render import State, Thumbnail, is_gone, name_of, near, printable
from t2i_pipelines.search.view import (
    NEAREST,
    NO_MATCH,
    NOTHING_LEFT,
    NOTHING_MORE,
    NOTHING_STORED,
    Tile,
    view,
)
from t2i_pipelines.types import Hit
from t2i_pipelines.ui.address import written
from t2i_pipelines.ui.finding import Found, Run, Start

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


def how_to_insert() -> str:
    """Say what inserting does, before the first."""
    return _html("how_to_insert.html")


def chips(texts: Sequence[str]) -> str:
    """Queries to try by a click."""
    return _html("chips.html", texts=texts)


@dataclass(frozen=True)
class Shown:
    """A hit, as the page shows it.

    :ivar source: of its small image: a ``data:`` URI, or an address of this page; empty where there is none.
    :ivar size: of the small image, (width, height) in pixels; None where it is not known.
    :ivar stands_in: what stands in the place of an image that is not shown.
    :ivar web: the address of an image on the web, which the page does not fetch; else empty.
    :ivar match: how well it matches; empty where it was not searched for.
    :ivar kind: what ``match`` tells.
    :ivar percent: length of the bar.
    :ivar fields: names and values that stand below it.
    :ivar details: all that is known of it.
    :ivar rank: from 1; 0 where it was not searched for.
    """

    id: str
    name: str
    path: str
    folder: str
    source: str
    size: tuple[int, int] | None
    stands_in: str
    web: str
    match: str
    kind: str
    percent: int
    fields: list[tuple[str, str]]
    details: list[tuple[str, str]]
    rank: int = 0
    similar: list[Shown] = field(default_factory=list)


def waiting() -> str:
    """Return what stands in the place of results until the first are there."""
    return _html("waiting.html")


def start(shown: Start, link: str | None, insert: bool) -> str:
    """Some images of the collection, how many there are, and what can be done.

    :param link: address of what is shown.
    :param insert: whether there is a tab to insert by.
    """
    hits = [_shown(tile, (), ranked=False) for tile in view(shown.hits).tiles]
    filtered = shown.wanted.where or shown.wanted.filter
    if hits:
        heading = "Some that fit the filters" if filtered else "A few of your images"
        advice = "Type what an image should show, or upload an image to find others like it. "
        advice += "Words are compared with the images themselves, not with file names or captions."
    elif filtered:
        heading, advice = "No image fits the filters", "Remove one of them."
    else:
        heading = "There are no images here yet"
        advice = "Add a folder of yours in the tab Insert." if insert else "Add some: t2i insert FOLDER"
    about = f"{shown.total:,} image{'' if shown.total == 1 else 's'}, model {shown.model_name}"
    return _html("start.html", link=link, hits=hits, heading=heading, advice=advice, about=about)


def filters(
    columns: Sequence[str], column: str, values: Sequence[tuple[Any, int]], where: Sequence[tuple[str, Any]]
) -> str:
    """Return menus of columns and of the values of one, and what was chosen.

    :param values: of ``column``, each with how many images have it.
    """
    offered = [
        {"told": written(value), "text": printable(value, 80), "count": number} for value, number in values
    ]
    chosen = [printable(f"{name}: {value}", 80) for name, value in where]
    return _html("filters.html", columns=columns, column=column, values=offered, chosen=chosen)


def viewer() -> str:
    """Return the dialog that shows an image enlarged, still empty."""
    return _html("viewer.html")


def numbered(html: object, turn: int) -> object:
    """Return a result so that the browser knows which question it answers."""
    return f'<div data-turn="{int(turn)}">{html}</div>' if isinstance(html, str) else html


VERDICTS = {
    NOTHING_STORED: "There are no images here yet.",
    NOTHING_LEFT: "No image fits. Remove a filter, or show weaker matches too.",
    NOTHING_MORE: "There are no further images.",
    NO_MATCH: "Nothing matches. Try other words, or show weaker matches too.",
    NEAREST: "Probably nothing matches. These come closest.",
}
"""What the page says in place of the words of reports."""


def found(shown: Found, link: str | None, fields: Sequence[str] = ()) -> str:
    """Hits, each with its image, match, name and near duplicates; pages; and that nothing matches.

    :param link: address of what is shown; None for an uploaded image.
    :param fields: columns that stand below each image, ``*`` for all; the enlarged view has all.
    """
    hits = shown.hits
    seen = view(hits)
    return _html(
        "found.html",
        link=link,
        asked=shown.asked,
        hits=[_shown(tile, fields, shown.similar.get(tile.hit.id, ())) for tile in seen.tiles],
        verdict=VERDICTS.get(seen.verdict, seen.verdict),
        first=hits.first_rank,
        last=hits.first_rank + len(hits) - 1,
        has_previous=shown.at > 0,
        has_next=shown.may_go_on,
    )


FACTS = ("size", "mtime", "digest", "vector")
"""Columns of every row that are no metadata."""

FIELDS, DETAILS = 3, 100
"""Columns that stand below an image, and in the enlarged view."""

INSTEAD = {
    "missing": "The file is gone.",
    "remote": "This image is on the web.",
    "unreadable": "The file cannot be read.",
}
"""What stands in the place of an image, by its state."""

LONGEST_FIELD, LONGEST_DETAIL = 100, 2_000
"""Characters of a value there."""


def _shown(tile: Tile, fields: Sequence[str], similar: Sequence[Hit] = (), *, ranked: bool = True) -> Shown:
    hit = tile.hit
    metadata = [name for name in hit.fields if name not in FACTS]
    below = metadata if "*" in fields else [name for name in fields if name in hit.fields]
    is_rated = hit.relevance is not None
    return Shown(
        id=hit.id,
        name=tile.name,
        path=hit.path,
        folder=near(hit.path).rpartition(name_of(hit.path))[0],
        source=tile.image.uri,
        size=tile.image.fitted if tile.image.uri else None,
        stands_in=INSTEAD.get(tile.image.state, ""),
        web=hit.path if is_http(hit.path) else "",
        match=tile.relevance if is_rated else f"{hit.score:.2f}",
        kind="match" if is_rated else "similarity",
        percent=tile.percent,
        fields=[(name, printable(hit.fields[name], LONGEST_FIELD)) for name in below[:FIELDS]],
        details=_details(hit, metadata),
        rank=tile.rank if ranked else 0,
        similar=[_similar(one) for one in similar],
    )


def _similar(hit: Hit) -> Shown:
    """Return a near duplicate, whose image the browser asks for when it is to be seen."""
    state: State = "remote" if is_remote(hit.path) else "missing" if is_gone(hit.path) else "shown"
    shown = _shown(Tile(0, hit, Thumbnail(state)), (), ranked=False)
    source = f"image/small?id={quote(hit.id, safe='')}" if state == "shown" else ""
    return replace(shown, source=source)


def _details(hit: Hit, metadata: Sequence[str]) -> list[tuple[str, str]]:
    told = [(printable(name, 80), printable(hit.fields[name], LONGEST_DETAIL)) for name in metadata[:DETAILS]]
    if (left := len(metadata) - DETAILS) > 0:
        told.append((f"{left:,} more columns", "not shown"))
    size, changed = int(hit.fields.get("size") or -1), int(hit.fields.get("mtime") or -1)
    told += [("Path", printable(hit.path))]
    told += [("File size", _bytes(size))] if size >= 0 else []
    if changed > 0:
        told.append(("File changed", f"{datetime.fromtimestamp(changed / 1e9).astimezone():%Y-%m-%d %H:%M}"))
    return told


def _bytes(size: int) -> str:
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def inserted(run: Run, settings: Mapping[str, Any], error: str = "") -> str:
    """Return how far a run is, or how it ended, and what failed.

    :param error: what ended it before its end, in one sentence.
    """
    failed = run.report.failed[:FAILURES]
    return _html(
        "inserted.html",
        run=run,
        summary=_summary(run),
        skipped=run.skipped.summary() if run.is_over else "",
        done=run.report.total,
        failed=[_failure(one, run.source, settings) for one in failed],
        left=len(run.report.failed) - len(failed),
        error=error,
    )


COUNTED = {
    "inserted": "added",
    "updated": "changed and added again",
    "reused": "copies of images that were there",
    "unchanged": "there already",
    "skipped": "repeated and skipped",
    "failed": "could not be added",
}
"""Statuses of inputs, in plain words."""


def _summary(run: Run) -> str:
    """Return how many images became what, so far or in the end."""
    counts = run.report.counts.copy()  # one moment's: the run goes on meanwhile
    parts = [f"{counts[one]:,} {words}" for one, words in COUNTED.items() if counts[one] or one == "inserted"]
    total = sum(counts[one] for one in COUNTED)
    of = "" if run.total is None else f" of {run.total:,}"
    if run.is_stopped and not run.is_over:
        return f"Stopping; images that were read already are still added. {total:,}{of}: {', '.join(parts)}"
    if not run.is_over:
        return f"{total:,}{of} images{' so far' if not of else ''}: {', '.join(parts)}"
    if run.error is not None:
        return f"It ended after {total:,}{of} images: {', '.join(parts)}."
    if run.is_stopped and total != run.total:
        return f"Stopped after {total:,}{of} images: {', '.join(parts)}. Insert it again to go on."
    return f"Done. {total:,} image{'' if total == 1 else 's'}: {', '.join(parts)}."


def refused(sentence: str) -> str:
    """Return an error, in one sentence."""
    return _html("refused.html", sentence=sentence)


STAGES = {
    "read": "not readable",
    "decode": "not an image",
    "encode": "not understood by the model",
    "insert": "not stored",
}
"""Where an image failed, in plain words."""


def _failure(one: Outcome, source: str, settings: Mapping[str, Any]) -> dict[str, str]:
    whole = source.rstrip("/") + "/"
    name = one.path[len(whole) :] if one.path.startswith(whole) else name_of(one.path)
    stage = STAGES.get(getattr(one.reason, "stage", ""), "")
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
