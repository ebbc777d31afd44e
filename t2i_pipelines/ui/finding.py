"""Search, browse and insert as the page asks for it: words, images, similar images, pages, and progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Event, Thread
from typing import Any

import numpy as np

from t2i_pipelines.collection.duplicates import usual
from t2i_pipelines.config.search import check_field, check_filter
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, QueryError, SourceError
from t2i_pipelines.images import count, listed, records
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.pipelines.searcher import Asked, Searcher
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Img, Like
from t2i_pipelines.search.render import name_of
from t2i_pipelines.search.view import Part, parts
from t2i_pipelines.types import Hit, Record, Skipped, Vector

MOST = 50
"""Hits of one page of results."""

SAMPLED = 12
"""Images that the start shows."""

SIMILAR = 8
"""Near duplicates that are folded into one hit; a hit may have more, which "More like this" finds."""

MEASURED = 64
"""Images whose nearest neighbour is looked for, to learn from which cosine two count as near duplicates."""

LOOKED_AT = 2_000
"""Rows that are read for the columns and their values."""

VALUES = 30
"""Values of a column that can be chosen."""

PLAIN: dict[str, Any] = {
    "offset": 0,
    "radius": None,
    "range_filter": None,
    "group_by": None,
    "collapse": None,
    "diversity": 0.0,
    "min_relevance": 0.0,
}
"""Options that look for an image by itself, whatever the searcher's own are."""


@dataclass(frozen=True)
class Wanted:
    """The options of a search.

    :ivar limit: hits a page, 1 to ``MOST``.
    :ivar min_relevance: 0 to 1.
    :ivar filter: a Milvus filter expression.
    :ivar where: columns and values that were chosen: of several values of one column, any.
    :ivar fold: show near duplicates as one hit.
    """

    limit: int = 10
    min_relevance: float = 0.0
    filter: str = ""
    where: tuple[tuple[str, Any], ...] = ()
    fold: bool = True


@dataclass(frozen=True)
class Found:
    """What is shown.

    :ivar asked: the query, for the heading.
    :ivar query: the query.
    :ivar like: id of the image that others are to be like; empty without one.
    :ivar wanted: the options.
    :ivar hits: the page that is shown.
    :ivar similar: near duplicates of a hit, by the id of the hit.
    :ivar at: which page this is, from 0.
    """

    asked: tuple[Part, ...]
    query: Asked
    like: str
    wanted: Wanted
    hits: Hits
    similar: Mapping[str, Sequence[Hit]] = field(default_factory=dict)
    at: int = 0

    @property
    def may_go_on(self) -> bool:
        """Whether a page may follow."""
        return len(self.hits) == self.wanted.limit


@dataclass(frozen=True)
class Start:
    """What is shown before the first search.

    :ivar hits: some images, chosen at random.
    :ivar wanted: the options that they meet.
    :ivar total: stored images that meet them.
    :ivar model_name: the model that compares words and images.
    """

    hits: Hits
    wanted: Wanted
    total: int
    model_name: str


class Finder:
    """Answers the page by a searcher, under the conditions that the searcher itself has.

    :param search: its ``filter`` and ``where`` hold beside what is typed and chosen.
    """

    def __init__(self, search: Searcher) -> None:
        self.search = search
        self._own: dict[str, Any] = dict(search.settings)
        self._alike: float | None = None
        self._types: dict[str, str] = {}
        self._random = np.random.default_rng()

    @property
    def is_limited(self) -> bool:
        """Whether the searcher has conditions of its own, so that some rows are not to be known of."""
        return bool(self._own.get("filter") or self._own.get("where"))

    def words(self, text: str, wanted: Wanted, at: int = 0) -> Found:
        """Return the hits for words.

        :param at: which page, from 0.
        """
        return self._find(text, wanted, tuple(parts(text)), at=at)

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

    def like(self, id: str, wanted: Wanted, at: int = 0) -> Found:
        """Return the images that are like a stored one, without that one.

        :param at: which page, from 0.
        :raises QueryError: If it is not stored, or the searcher's own conditions leave it out.
        """
        if (hit := self.hit(id)) is None:
            raise QueryError("that image is no longer in the collection; search for another one")
        asked = _like(parts(Like(id), {id: hit.path}), name_of(hit.path))
        return self._find(Like(id), wanted, asked, id, at)

    def again(self, shown: Found, wanted: Wanted) -> Found:
        """Return the first page for the same query, by other options."""
        return self._find(shown.query, wanted, shown.asked, shown.like)

    def page(self, shown: Found, step: int) -> Found:
        """Return the page before, or the one that follows.

        :param step: -1 or 1.
        """
        return self._find(shown.query, shown.wanted, shown.asked, shown.like, max(0, shown.at + step))

    def start(self, wanted: Wanted) -> Start:
        """Return a few images at random, how many there are, and the model. Cheap, however many there are.

        They are nearest to random vectors: a query by a limit gives the first rows, which often are alike.
        """
        try:
            now = self.search.now()
        except CollectionNotFoundError:
            return Start(Hits(), wanted, 0, str(self._own["model_name"]))
        found = self._nearest(now, self._directions(now, SAMPLED), 3, wanted)
        total = now.collection.count(filter=self._filter(wanted.filter), where=self._where(wanted))
        hits = _distinct(hit for rank in range(3) for one in found for hit in one[rank : rank + 1])
        return Start(Hits(hits[:SAMPLED]), wanted, total, str(now.settings["model_name"]))

    def hit(self, id: str) -> Hit | None:
        """Return a stored image with its metadata; None without, or where own conditions leave it out."""
        try:
            found = self.search(
                Like(id),
                limit=1,
                output_fields=["*"],
                filter=self._filter(""),
                where=self._where(Wanted(), ("id", id)),
                **PLAIN,
            )
        except QueryError:
            return None
        return found[0] if found else None

    def columns(self) -> list[str]:
        """Return the columns that can be filtered by, as those seen that were looked at."""
        if self.is_limited:
            return []
        self._types = self.search.collection.columns(rows=LOOKED_AT)
        return [name for name, kind in self._types.items() if kind != "object" and _can_be_named(name)]

    def values(self, column: str) -> list[tuple[Any, int]]:
        """Return the commonest values of a column, each with how many of the rows looked at have it.

        :raises QueryError: If the searcher has conditions of its own: rows that they leave out would show.
        """
        if self.is_limited:
            raise QueryError("this page shows a part of the collection only; its columns are not listed")
        return list(self.search.collection.values(column, limit=VALUES, rows=LOOKED_AT).counts)

    def forget(self) -> None:
        """Learn again from which cosine images count as near duplicates: rows were written."""
        self._alike = None

    def _find(
        self, query: Asked, wanted: Wanted, asked: tuple[Part, ...], like: str = "", at: int = 0
    ) -> Found:
        now = self._now()
        options: dict[str, Any] = {
            "limit": wanted.limit,
            "offset": at * wanted.limit,
            "min_relevance": wanted.min_relevance,
            "filter": self._filter(wanted.filter),
            "where": self._where(wanted, ("id", ("!=", like)) if like else None),
            "output_fields": ["*", "vector"] if wanted.fold else ["*"],
        }
        alike = self._threshold(now) if wanted.fold else None
        if alike is not None:
            options["collapse"] = alike
        try:
            hits = now(query, **options)
        except ConfigError as err:
            if not wanted.filter:
                raise
            raise QueryError(
                f"the filter {wanted.filter!r:.200} is not understood; write one such as year > 2015, or "
                "clear it and choose from the menus"
            ) from err
        similar = {} if alike is None else self._similar(now, hits, alike, wanted, like)
        return Found(asked, query, like, wanted, hits, similar, at)

    def _now(self) -> Searcher:
        try:
            return self.search.now()
        except CollectionNotFoundError:  # then nothing is found by any model
            return self.search

    def _similar(
        self, now: Searcher, hits: Hits, alike: float, wanted: Wanted, like: str
    ) -> dict[str, list[Hit]]:
        """Return the near duplicates of hits that the search left out for them."""
        vectors = [hit.fields["vector"] for hit in hits if "vector" in hit.fields]
        if len(vectors) < len(hits) or not vectors:
            return {}
        found = self._nearest(now, vectors, SIMILAR + 2, wanted, radius=max(-1.0, alike - 1e-6))
        taken, similar = {like, *(hit.id for hit in hits)}, {}
        for hit, near in zip(hits, found, strict=True):
            members = [one for one in near if one.id not in taken][:SIMILAR]
            taken |= {one.id for one in members}
            if members:
                similar[hit.id] = members
        return similar

    def _threshold(self, now: Searcher) -> float | None:
        """Return the cosine from which images count as near duplicates; None without images."""
        if self._alike is None:
            sample = _distinct(
                hit
                for one in self._nearest(now, self._directions(now, MEASURED), 1, Wanted(), fields=["vector"])
                for hit in one
            )
            if not sample:
                return None
            near = self._nearest(now, [hit.fields["vector"] for hit in sample], 2, Wanted(), fields=())
            pairs = [
                next((other.score for other in one if other.id != hit.id), -1.0)
                for hit, one in zip(sample, near, strict=True)
            ]
            self._alike = usual(np.asarray(pairs))
        return self._alike

    def _directions(self, now: Searcher, number: int) -> list[Vector]:
        space = now.collection.space()
        if space is None:
            return []
        drawn = self._random.standard_normal((number, space.dim)).astype(np.float32)
        return list(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))

    def _nearest(
        self,
        now: Searcher,
        vectors: list[Vector],
        limit: int,
        wanted: Wanted,
        *,
        fields: Sequence[str] = ("*",),
        radius: float | None = None,
    ) -> list[Hits]:
        if not vectors:
            return []
        options = {
            **PLAIN,
            "limit": limit,
            "radius": radius,
            "output_fields": list(fields),
            "filter": self._filter(wanted.filter),
            "where": self._where(wanted),
        }
        return now.find(vectors, **options)

    def _filter(self, typed: str) -> str:
        own = check_filter(self._own.get("filter", ""))
        typed = check_filter(typed)
        return f"({own}) and ({typed})" if own and typed else own or typed

    def _where(self, wanted: Wanted, more: tuple[str, Any] | None = None) -> dict[str, Any] | None:
        """Return own conditions and those chosen; all must hold."""
        chosen: dict[str, list[Any]] = {}
        for column, value in wanted.where:
            chosen.setdefault(column, []).append(value)
        if chosen.keys() - self._types.keys():
            self.columns()
        conditions = [
            (column, one)
            for column, values in chosen.items()
            for one in (
                [("contains", value) for value in values]
                if self._types.get(column) == "array"
                else [("in", values)]
            )
        ]
        asked = {
            column: list(one) if isinstance(one, list) else [one]
            for column, one in (self._own.get("where") or {}).items()
        }
        for column, one in [*conditions, *filter(None, [more])]:
            asked.setdefault(column, []).append(one)
        return asked or None


def _can_be_named(column: str) -> bool:
    """Return whether a filter may hold the name: none with quotes or brackets."""
    try:
        return bool(check_field(column))
    except ConfigError:
        return False


def _distinct(hits: Iterable[Hit]) -> list[Hit]:
    return list({hit.id: hit for hit in hits}.values())


def _like(asked: list[Part], name: str) -> tuple[Part, ...]:
    """Return an image as it is asked for: shown, and named."""
    shown = [part for part in asked if part.image is not None and part.image.uri]
    return Part("Like"), *shown, Part(name)


BATCH = 8
"""Images a batch at most. Some batches are on their way at a time, and are inserted after Stop, too."""

EVERY = 0.3
"""Seconds between two looks at a run."""


@dataclass
class Run:
    """One run of inserting.

    :ivar source: what is inserted.
    :ivar total: inputs, None if unknown.
    :ivar report: of the run so far.
    :ivar skipped: files of the source that are not inserted.
    :ivar error: what ended the run before its end.
    """

    source: str
    total: int | None = None
    report: InsertReport = field(default_factory=InsertReport)
    skipped: Skipped = field(default_factory=Skipped)
    error: Exception | None = None
    ended: Event = field(default_factory=Event)
    stopped: Event = field(default_factory=Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended.is_set()

    @property
    def is_stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self.stopped.is_set()

    def until_stopped(self, source: Iterable[Record]) -> Iterator[Record]:
        """Return records until the run is stopped. Those read before are inserted, and counted."""
        return takewhile(lambda _: not self.is_stopped, source)


def insert(source: str, settings: dict[str, Any]) -> Iterator[Run]:
    """Insert what is at ``source``, and give the run again and again until it is over.

    Once started it goes on until it is stopped, also where its progress is not asked for. What was read
    before is still inserted: some batches, which are small for that.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises SourceError: If no source is named, or there is nothing at it.
    """
    source = source.strip()
    if not source:
        raise SourceError("name a folder, a table or an image to insert")
    exclude = settings.get("exclude", ())
    images = listed(source, exclude=exclude)
    run = Run(source, count(images))
    found = run.until_stopped(records(images, exclude=exclude, skipped=run.skipped))
    Thread(target=_go, args=(run, found, settings), name="t2i-ui-insert", daemon=True).start()
    while not run.ended.wait(EVERY):
        yield run
    yield run


def _go(run: Run, images: Iterator[Record], settings: dict[str, Any]) -> None:
    batch_size = min(BATCH, settings.get("batch_size", BATCH))
    try:
        run_insert(images, insert_arguments(*checked({**settings, "batch_size": batch_size})), run.report.add)
    except SourceError as err:
        run.error = None if run.is_stopped else err  # stopped before the first image
    except Exception as err:
        run.error = err
    finally:
        run.ended.set()
