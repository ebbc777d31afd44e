"""Check a request, and read what it names: queries, images and sources."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import reduce
from operator import add
from typing import Any, cast

from t2i_pipelines.config.args import SearchArgs
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ImageDecodeError, QueryError, SourceError
from t2i_pipelines.images import is_remote, records
from t2i_pipelines.images.address import is_http, scheme
from t2i_pipelines.images.fetch import fetch
from t2i_pipelines.images.record import record_of
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.search.query import Img, Like, Q, Query, check_text, is_address, parse
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.serve.schemas import Asked, Condition, InsertRequest, SearchRequest
from t2i_pipelines.types import Record, Skipped

IMAGES = 8
"""Images that an expression may name."""

CONDITIONS = 1 << 16
"""Characters of JSON that ``where`` may have: some thousand ids to choose from."""

MOST_CONDITIONS = 64
"""Conditions that ``where`` may have: the time to read them grows with their square."""

COMPARED = {"diversity": 200, "collapse": 800}
"""Hits of a query that are chosen with an option that compares them: together they take up to a second."""

HIDDEN = frozenset({"path", "vector", "digest"})
"""Columns that clients neither see nor ask about: where this machine keeps its files, and what is large."""

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")


FETCHES = 8
"""Images that requests fetch at a time. Others are answered meanwhile: they have threads of their own."""

FETCH_SECONDS = 10.0
"""Seconds that the images of a request may take to come."""


class Web:
    """Fetches what a request names, in one try. Thread-safe."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(FETCHES)

    def read(self, url: str, until: float) -> bytes:
        """Return the bytes of an image on a public address.

        :param until: when it must have come, by ``time.monotonic()``.
        :raises ImageDecodeError: If it does not come.
        :raises Refusal: If as many as may be fetched are on their way.
        """
        if not self._free.acquire(blocking=False):
            raise Refusal(
                429,
                f"{FETCHES} images are being fetched, of at most {FETCHES}; try again in 1 s",
                retry_after=1,
            )
        try:
            return fetch(url, only_public=True, within=max(0.001, until - time.monotonic()))
        finally:
            self._free.release()


class Reader:
    """Reads requests. Thread-safe; its methods decode and fetch, so they belong into threads.

    :param decode: the decoder of inserts; one image a core is decoded at a time.
    :param web: fetches.
    """

    def __init__(self, options: ServeOptions, roots: Roots, decode: ImageDecode, web: Web) -> None:
        self._options, self._roots, self._decode, self._web = options, roots, decode, web
        self._decoders = threading.Semaphore(os.cpu_count() or 1)

    def query(self, asked: Asked, until: float) -> str | Query:
        """Return a query, its images decoded.

        :param until: when those on the web must have come, by ``time.monotonic()``.
        :raises QueryError: If it is none, or names an image that it may not.
        :raises ImageDecodeError: If the image that came with it cannot be read.
        :raises Refusal: If it is too long.
        """
        parts: list[Query] = []
        for name in ("text", "expression", "like"):
            self.check_length(name, getattr(asked, name) or "")
        if asked.text is not None:
            if (asked.expression, asked.like, asked.image) == (None, None, None):
                return check_text(asked.text)
            parts.append(Q(asked.text))
        if asked.expression is not None:
            left = iter(range(IMAGES))
            parts.append(parse(asked.expression, lambda text: self._named(text, left, until)))
        if asked.like is not None:
            parts.append(Like(asked.like))
        if asked.image is not None:
            parts.append(self._img(asked.image))
        return reduce(add, parts)

    def _named(self, text: str, left: Iterator[int], until: float) -> Img | None:
        """Return the image that an expression names.

        None where it is words. Files elsewhere are not looked at.
        """
        if not is_address(text):
            return None
        if next(left, None) is None:
            raise QueryError(f"an expression may name {IMAGES} images at most")
        if is_http(text):
            self._check_urls()
            content = self._web.read(text, until)
        elif text.startswith("./"):
            content = self._roots.read(self._roots.locate(text))
        else:
            raise QueryError(
                f"{text!r:.80} is no image that may be searched for; those in a folder that is served are "
                "./NAME/file.jpg; words go into double quotes"
            )
        return self._img(content)

    def _img(self, content: bytes) -> Img:
        with self._decoders:
            return Img(self._decode.many([content])[0])

    def _check_urls(self) -> None:
        if not self._options.allow_urls:
            raise Refusal(403, "images on the web are not allowed here", code="urls_not_allowed")

    def check_length(self, name: str, text: str) -> None:
        """Pass a text that is short enough.

        :raises Refusal: If it is not.
        """
        if len(text) > self._options.max_query:
            raise Refusal(
                422,
                f"{name} has {len(text):,} characters; at most {self._options.max_query:,} are read",
                code="query_too_long",
            )

    def search_options(self, request: SearchRequest) -> SearchArgs:
        """Return what a search is asked for beside its queries, checked.

        :raises ConfigError: If an option is wrong.
        :raises Refusal: If the request is larger than allowed, or asks about what is hidden.
        """
        self.check_number(len(request.asked))
        wanted, shown = request.options, tuple(request.output_fields)
        self.check_page(wanted["limit"], "hits", "offset")
        condition = self.condition(wanted["filter"], wanted["where"], {*shown, wanted["group_by"]})
        options = cast(SearchArgs, {**wanted, **condition, "output_fields": shown})
        SearchOptions.of(**options)
        _check_depth(len(request.asked), wanted, self._options)
        return options

    def check_number(self, queries: int) -> None:
        """Pass a request of few enough queries.

        :raises Refusal: If it has more.
        """
        if queries > self._options.max_queries:
            raise Refusal(
                422,
                f"{queries} queries; a request may have {self._options.max_queries}",
                code="too_many_queries",
            )

    def check_page(self, limit: int, what: str, further: str) -> None:
        """Pass a page that is short enough.

        :param what: is on the page.
        :param further: the parameter that asks for the next page.
        :raises Refusal: If it is longer.
        """
        if limit > self._options.max_page:
            raise Refusal(
                422,
                f"limit is {limit}; a page has {self._options.max_page} {what}, {further} gives the next",
                code="page_too_large",
            )

    def condition(
        self, filter: str, where: Mapping[str, Any] | None, named: Set[str | None] = frozenset()
    ) -> dict[str, Any]:
        """Return ``filter`` and ``where`` as a collection takes them.

        :param named: further columns that the request names.
        :raises Refusal: If one of them is too long, or a column is hidden.
        """
        self.check_length("filter", filter)
        found = _where(where)
        if len(json.dumps(found)) > CONDITIONS:
            raise Refusal(422, f"where is longer than {CONDITIONS:,} characters", code="query_too_long")
        count = sum(len(one) if isinstance(one, list) else 1 for one in (found or {}).values())
        if count > MOST_CONDITIONS:
            raise Refusal(
                422,
                f"where has {count:,} conditions; at most {MOST_CONDITIONS} are read; `in` takes many values",
                code="query_too_long",
            )
        check_hidden({*(found or ()), *named, *re.findall(r"\w+", _QUOTED.sub("", filter))})
        return {"filter": filter, "where": found}

    def texts(self, inputs: Sequence[str]) -> list[str]:
        """Return texts that are to be embedded, checked.

        :raises QueryError: If one is empty.
        :raises Refusal: If one is too long.
        """
        for text in inputs:
            self.check_length("input", text)
        return [check_text(text) for text in inputs]

    def images(self, inputs: Sequence[str], until: float) -> list[Query]:
        """Return images that are to be embedded, decoded.

        :param inputs: URLs, data URIs or base64.
        :param until: when those on the web must have come, by ``time.monotonic()``.
        :raises QueryError: If one is none of these.
        :raises ImageDecodeError: If one cannot be read.
        :raises Refusal: If one is on the web where that is not allowed.
        """
        return [self._img(self._content(one, until)) for one in inputs]

    def _content(self, written: str, until: float) -> bytes:
        """Return the bytes of an image that is written as a URL, a data URI or in base64."""
        if is_http(written):
            self._check_urls()
            return self._web.read(written, until)
        encoded = written
        if written.startswith("data:"):
            head, _, encoded = written.partition(",")
            if not head.endswith(";base64"):
                raise QueryError(f"the data URI {written!r:.80} is not in base64")
        try:
            return b64decode(encoded, validate=True)
        except ValueError as err:
            raise QueryError(
                f"{written!r:.80} is no image: give a data URI or base64, or a URL where URLs are allowed: "
                f"{err}"
            ) from err

    def check_insert(self, request: InsertRequest) -> None:
        """Pass what may be inserted; nothing is opened.

        :raises QueryError: If the source is in no folder that is served.
        :raises SourceError: If a URL is none.
        :raises Refusal: If URLs are not allowed.
        """
        if request.source is not None:
            self._roots.locate(request.source)
            return
        self._check_urls()
        if wrong := [url for url in request.urls or () if not is_http(url)]:
            raise SourceError(f"urls must begin with http:// or https://, got {wrong[0]!r:.80}")

    def records(self, request: InsertRequest, skipped: Skipped) -> Iterator[Record]:
        """Read what to insert. A row that leads elsewhere fails; others are read through the roots.

        :param skipped: takes the counts of files that the source skips.
        :raises SourceError: If there is nothing to insert.
        """
        self.check_insert(request)
        if request.source is None:
            return map(self._guarded, map(record_of, request.urls or ()))
        return map(self._guarded, records(self._roots.locate(request.source), skipped=skipped))

    def _guarded(self, record: Record) -> Record:
        address = record.path
        if record.content is not None and self._roots.admits(address):
            return record
        if is_http(address) and self._options.allow_urls:
            record.ahead = lambda: fetch(address, only_public=True)
        elif self._roots.admits(address):
            record.ahead = lambda: self._roots.read(address)
        elif address:
            record.content = None
            where = "on the web" if is_remote(address) or scheme(address) else "elsewhere"
            record.fail(
                ImageDecodeError(f"cannot read image {address}: it is {where}, which is not allowed here")
            )
        return record


def compared_by(options: Mapping[str, Any]) -> list[str]:
    """Return the options among these that compare the hits of a query with each other."""
    return [name for name in COMPARED if name in options and options[name] != getattr(SearchOptions, name)]


def _check_depth(queries: int, wanted: Mapping[str, Any], allowed: ServeOptions) -> None:
    """Pass a request for few enough hits, skipped ones included: others wait meanwhile."""
    hits, most = wanted["offset"] + wanted["limit"], allowed.max_queries * allowed.max_page
    if queries * hits > most:
        raise Refusal(
            422,
            f"{queries * hits:,} hits to look for; at most {most:,} are, of all queries, those that offset "
            "skips included",
            code="page_too_deep",
        )
    for option in compared_by(wanted):
        most = int(COMPARED[option] / queries**0.5)
        if hits > most:
            raise Refusal(
                422,
                f"{hits:,} hits that differ; at most {most} are chosen with {option}, those that offset "
                "skips included",
                code="page_too_deep",
            )


def check_hidden(named: Set[str | None]) -> None:
    """Pass names of columns that clients may know.

    :raises Refusal: For the first that they may not.
    """
    if hidden := sorted(HIDDEN & named):
        raise Refusal(422, f"{hidden[0]} can be neither asked about nor shown", code="hidden_field")


def _where(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    return {
        field: [(one.op, one.value) for one in value]
        if isinstance(value, list)
        else [(value.op, value.value)]
        if isinstance(value, Condition)
        else value
        for field, value in given.items()
    }
