"""From what a client asks for to what is searched for and inserted; nothing here trusts it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

from t2i_pipelines.config.search import SearchArgs, SearchOptions
from t2i_pipelines.errors import ImageDecodeError, QueryError, SourceError
from t2i_pipelines.images import is_remote, records
from t2i_pipelines.images.address import is_http, scheme
from t2i_pipelines.images.fetch import fetch
from t2i_pipelines.images.sources.record import record_of
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.search.query import Img, Like, Q, Query, check_text
from t2i_pipelines.search.query_line import is_address, parse
from t2i_pipelines.serve.models import Asked, Condition, InsertRequest, SearchRequest
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.types import Record, Skipped

PICTURES = 8
"""Images that an expression may name."""

CONDITIONS = 1 << 16
"""Characters of JSON that ``where`` may have: some thousand ids to choose from."""

HIDDEN = frozenset({"path", "vector", "digest"})
"""Columns that clients neither see nor ask about: where this machine keeps its files, and what is large."""

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")


class Reader:
    """Reads requests. Thread-safe; its methods decode and fetch, so they belong into threads.

    :param decode: the decoder of inserts.
    """

    def __init__(self, options: ServeOptions, roots: Roots, decode: ImageDecode) -> None:
        self._options, self._roots, self._decode = options, roots, decode

    def query(self, asked: Asked) -> str | Query:
        """A query, its images decoded.

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
            left = iter(range(PICTURES))
            parts.append(parse(asked.expression, lambda text: self._named(text, left)))
        if asked.like is not None:
            parts.append(Like(asked.like))
        if asked.image is not None:
            parts.append(self._img(asked.image))
        return reduce(add, parts)

    def _named(self, text: str, left: Iterator[int]) -> Img | None:
        """The image that an expression names; None where it is words. Files elsewhere are not looked at."""
        if not is_address(text):
            return None
        if next(left, None) is None:
            raise QueryError(f"an expression may name {PICTURES} images at most")
        if is_http(text):
            self._check_urls()
            content = fetch(text, only_public=True)
        elif text.startswith("./"):
            content = self._roots.read(self._roots.locate(text))
        else:
            raise QueryError(
                f"{text!r:.80} is no image that may be searched for; those in a folder that is served are "
                "./NAME/file.jpg; words go into double quotes"
            )
        return self._img(content)

    def _img(self, content: bytes) -> Img:
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
        """What a search is asked for beside its queries, checked.

        :raises ConfigError: If an option is wrong.
        :raises Refusal: If the request is larger than allowed, or asks about what is hidden.
        """
        allowed = self._options
        if len(request.asked) > allowed.max_queries:
            raise Refusal(
                422,
                f"{len(request.asked)} queries; a request may have {allowed.max_queries}",
                code="too_many_queries",
            )
        if request.limit > allowed.max_page:
            raise Refusal(
                422,
                f"limit is {request.limit}; a page has {allowed.max_page} hits, offset gives the next",
                code="page_too_large",
            )
        self.check_length("filter", request.filter)
        if len(json.dumps(where := _where(request))) > CONDITIONS:
            raise Refusal(422, f"where is longer than {CONDITIONS:,} characters", code="query_too_long")
        _check_hidden(request)
        options = SearchArgs(
            limit=request.limit,
            offset=request.offset,
            filter=request.filter,
            where=where,
            output_fields=tuple(request.output_fields),
            radius=request.radius,
            range_filter=request.range_filter,
            group_by=request.group_by,
            collapse=request.collapse,
            diversity=request.diversity,
            min_relevance=request.min_relevance,
        )
        SearchOptions.of(**options)
        return options

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


def _check_hidden(request: SearchRequest) -> None:
    named = {*(request.where or ()), *request.output_fields, request.group_by}
    named |= set(re.findall(r"\w+", _QUOTED.sub("", request.filter)))
    if hidden := sorted(HIDDEN & named):
        raise Refusal(422, f"{hidden[0]} can be neither asked about nor shown", code="hidden_field")


def _where(request: SearchRequest) -> dict[str, Any] | None:
    if request.where is None:
        return None
    return {
        field: [(one.op, one.value) for one in value]
        if isinstance(value, list)
        else [(value.op, value.value)]
        if isinstance(value, Condition)
        else value
        for field, value in request.where.items()
    }
