"""Search and insert as the page asks for it: words, images, similar images, further pages; and progress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Any

from t2i_pipelines.config.search import check_filter
from t2i_pipelines.errors import QueryError, SourceError
from t2i_pipelines.images import count, listed
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.pipelines.searcher import Asked, Searcher
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Img, Like
from t2i_pipelines.search.render import name_of
from t2i_pipelines.search.view import Part, parts

MOST = 50
"""Hits of one page of results."""


@dataclass(frozen=True)
class Wanted:
    """What stands beside the query.

    :ivar limit: hits a page, 1 to ``MOST``.
    :ivar min_relevance: 0 to 1.
    :ivar filter: a Milvus filter expression.
    """

    limit: int = 10
    min_relevance: float = 0.0
    filter: str = ""


@dataclass(frozen=True)
class Found:
    """What is shown.

    :ivar asked: the query, for the heading.
    :ivar query: the query.
    :ivar without: id of the image that others are to be like; empty without one.
    :ivar pages: those that were looked at, from the first on.
    :ivar at: which of them is shown, from 0.
    """

    asked: tuple[Part, ...]
    query: Asked
    without: str
    pages: tuple[Hits, ...]
    at: int = 0

    @property
    def hits(self) -> Hits:
        """The page that is shown."""
        return self.pages[self.at]

    @property
    def may_go_on(self) -> bool:
        """Whether a page may follow."""
        options = self.hits.options
        return options is not None and len(self.hits) == options.limit


class Finder:
    """Answers the page by a searcher, under the conditions that the searcher itself has.

    :param search: its ``filter`` and ``where`` hold beside what is typed.
    """

    def __init__(self, search: Searcher) -> None:
        self.search = search
        self._own: dict[str, Any] = dict(search.settings)

    def words(self, text: str, wanted: Wanted) -> Found:
        """Return the hits for words."""
        return self._find(text, wanted, tuple(parts(text)))

    def image(self, content: bytes, name: str, wanted: Wanted) -> Found:
        """Return the hits for an image.

        :param content: of its file.
        :param name: what it is called, for the heading and for errors.
        """
        query = Img(content)
        try:
            return self._find(query, wanted, _like(parts(query), name))
        except QueryError as err:
            raise QueryError(str(err).replace("<bytes>", name)) from err

    def like(self, shown: Found, rank: int, wanted: Wanted) -> Found:
        """Others like a hit, and not the hit itself.

        :param rank: of the hit, as it is shown.
        :raises QueryError: If there is no such hit.
        """
        hits = shown.hits
        if not 0 <= rank - hits.first_rank < len(hits):
            raise QueryError(f"no hit of rank {rank} is shown; search again")
        hit = hits[rank - hits.first_rank]
        asked = _like(parts(Like(hit.id), {hit.id: hit.path}, hits.fetched), name_of(hit.path))
        return self._find(Like(hit.id), wanted, asked, hit.id)

    def again(self, shown: Found, wanted: Wanted) -> Found:
        """Return the hits for the same query, of other wishes."""
        return self._find(shown.query, wanted, shown.asked, shown.without)

    def page(self, shown: Found, step: int) -> Found:
        """Return the page before, or the one that follows, by a search for the same vector.

        :param step: -1 or 1.
        """
        at = max(0, shown.at + step)
        if at < len(shown.pages):
            return replace(shown, at=at)
        return replace(shown, pages=(*shown.pages, shown.hits.more()), at=len(shown.pages))

    def _find(self, query: Asked, wanted: Wanted, asked: tuple[Part, ...], without: str = "") -> Found:
        hits = self.search(
            query,
            limit=wanted.limit,
            min_relevance=wanted.min_relevance,
            filter=self._filter(wanted.filter),
            where=self._where(without),
        )
        return Found(asked, query, without, (hits,))

    def _filter(self, typed: str) -> str:
        own = check_filter(self._own.get("filter", ""))
        typed = check_filter(typed)
        return f"({own}) and ({typed})" if own and typed else own or typed

    def _where(self, without: str) -> dict[str, Any] | None:
        own = dict(self._own.get("where") or {})
        if without:
            asked = own.get("id", [])
            own["id"] = [*(asked if isinstance(asked, list) else [asked]), ("!=", without)]
        return own or None


def _like(asked: list[Part], name: str) -> tuple[Part, ...]:
    """Return an image as it is asked for: shown, and named."""
    shown = [part for part in asked if part.image is not None and part.image.uri]
    return Part("Like"), *shown, Part(name)


EVERY = 0.3
"""Seconds between two looks at a run."""


@dataclass
class Run:
    """One run of inserting.

    :ivar source: what is inserted.
    :ivar total: inputs, None if unknown.
    :ivar report: of the run so far.
    :ivar error: what ended the run before its end.
    """

    source: str
    total: int | None = None
    report: InsertReport = field(default_factory=InsertReport)
    error: Exception | None = None
    ended: Event = field(default_factory=Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended.is_set()


def insert(source: str, settings: dict[str, Any]) -> Iterator[Run]:
    """Insert what is at ``source``, and give the run again and again until it is over.

    Once started it goes on, also where its progress is not asked for.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises SourceError: If no source is named, or there is nothing at it.
    """
    source = source.strip()
    if not source:
        raise SourceError("name a folder, a glob, a table or an image to insert")
    images = listed(source, exclude=settings.get("exclude", ()))
    run = Run(source, count(images))
    Thread(target=_go, args=(run, images, settings), name="t2i-ui-insert", daemon=True).start()
    while not run.ended.wait(EVERY):
        yield run
    yield run


def _go(run: Run, images: object, settings: dict[str, Any]) -> None:
    try:
        run_insert(images, insert_arguments(*checked(settings)), run.report.add)
    except Exception as err:
        run.error = err
    finally:
        run.ended.set()
