"""Stored images, as far as they may be shown."""

from __future__ import annotations

import hashlib
import os
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice
from threading import Lock, Semaphore
from typing import Any, BinaryIO
from urllib.parse import quote

from cachetools import LRUCache
from fastapi.responses import FileResponse, Response
from PIL import Image as Pillow
from starlette.datastructures import Headers
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Receive, Scope, Send

from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.collection import SAMPLE
from t2i_pipelines.config.search import MAX_LIMIT
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode
from t2i_pipelines.images.address import is_http, scheme
from t2i_pipelines.images.decode import identify
from t2i_pipelines.images.shrink import MARGIN
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.render import LONGEST, Thumbnail, shrunk
from t2i_pipelines.serve.options import ServeOptions
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.requests import FETCH_SECONDS, HIDDEN, Web
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.serve.schemas import (
    Column,
    Columns,
    ColumnValues,
    FailedInput,
    Found,
    ImagesRequest,
    ImagesResponse,
    Links,
    Result,
    StoredImage,
    ValueCount,
)
from t2i_pipelines.types import Hit, Outcome

CONTENT = {
    # asked for again each time, and answered 304 until it changes
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
}
"""Headers for files of unknown origin, whatever type they claim to be."""

THUMBNAILS = 64 << 20
"""Bytes of thumbnails that are remembered."""

UNSIGNED = "TGA"
"""A format that many a file could be said to be in; it is shown as a thumbnail only."""

_TYPES = {"HEIF": "image/heif", "QOI": "image/qoi", "DDS": "image/vnd-ms.dds"}
"""Media types of formats for which Pillow has none."""


def media_type_of(header: Pillow.Image) -> str:
    """Return the media type of an image; empty if its file is not shown."""
    kind = header.format or ""
    return "" if kind == UNSIGNED else _TYPES.get(kind, Pillow.MIME.get(kind, ""))


class _Known(Response):
    """Answers 304 to who has it already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compare ``If-None-Match``, and send it if need be."""
        if StaticFiles().is_not_modified(self.headers, Headers(scope=scope)):
            await NotModifiedResponse(self.headers)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Loaded(_Known):
    """An image in memory."""

    def __init__(self, content: bytes, media_type: str) -> None:
        tag = hashlib.sha256(content).hexdigest()[:32]
        super().__init__(content, media_type=media_type, headers={**CONTENT, "ETag": f'"{tag}"'})


class Opened(_Known, FileResponse):
    """An open file: what was checked is what is sent, wherever its name leads meanwhile."""

    def __init__(self, file: BinaryIO, media_type: str) -> None:
        self._file, handle = file, file.fileno()
        path, stat = f"/dev/fd/{handle}", os.fstat(handle)
        super().__init__(path, media_type=media_type, headers=CONTENT, stat_result=stat)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or the range that is asked for, and close it."""
        with self._file:
            await super().__call__(scope, receive, send)


class Images:
    """Reads images that are stored and in a root, or on the web where URLs are allowed. Thread-safe.

    :param collection: gives the one that is searched.
    :ivar hits: thumbnails that were remembered; :ivar misses: those that were made.
    """

    def __init__(
        self,
        roots: Roots,
        collection: Callable[[], Collection],
        decoding: Decoding,
        options: ServeOptions,
        web: Web,
    ) -> None:
        self._roots, self._collection, self._options, self._web = roots, collection, options, web
        self._decoding = replace(decoding, truncated="accept")
        self._kept: LRUCache[tuple[str, str], bytes] = LRUCache(THUMBNAILS, getsizeof=len)
        self._lock = Lock()
        self._decoders = Semaphore(os.cpu_count() or 1)  # each may take hundreds of megabytes
        self.hits = self.misses = 0

    def stored(self, id: str) -> StoredImage:
        """Return what is stored under an id.

        :raises Refusal: If nothing is.
        """
        return self._stored(self._row(id, ["path", "size", "mtime", "*"]), ["*"])

    def _stored(self, row: dict[str, Any], wanted: Sequence[str]) -> StoredImage:
        fields = {name: value for name, value in row.items() if "*" in wanted or name in wanted}
        shown = {name: value for name, value in fields.items() if name not in HIDDEN and name != "id"}
        id, path = row["id"], self._roots.shown(row["path"])
        return StoredImage(id=id, path=path, fields=shown, links=self._links(id))

    def delete(self, id: str) -> None:
        """Delete an image; its file stays.

        :raises Refusal: If there is none.
        """
        self._row(id, ["path"])
        self._collection().delete([id])

    def update(self, id: str, changes: dict[str, Any]) -> None:
        """Change metadata of an image.

        :raises Refusal: If there is none.
        :raises ConfigError: If a name is reserved, or a value cannot be stored.
        """
        if not self._collection().update(id, changes):
            raise _unknown(id)

    def page(self, asked: ImagesRequest, condition: dict[str, Any]) -> ImagesResponse:
        """Return a page of the images that meet a condition.

        :param condition: ``filter`` and ``where``.
        :raises Refusal: If the cursor is none.
        :raises ConfigError: If the condition is wrong.
        """
        collection, limit = self._collection(), asked.limit
        pages = collection.scan(
            ["path", "size", "mtime", *collection.metadata_fields],
            after=_after(asked.cursor),
            page_rows=min(limit + 1, MAX_LIMIT),
            **condition,
        )
        rows = list(islice(chain.from_iterable(pages), limit + 1))
        images = [self._stored(row, asked.output_fields) for row in rows[:limit]]
        return ImagesResponse(
            images=images, next_cursor=_cursor(images[-1].id) if len(rows) > limit else None
        )

    def delete_by_filter(self, condition: dict[str, Any]) -> int:
        """Take the images that meet a condition out of the collection, and return how many."""
        return self._collection().delete_by_filter(**condition)

    def count(self, condition: dict[str, Any]) -> int:
        """Return how many images meet a condition."""
        return self._collection().count(**condition)

    def columns(self) -> Columns:
        """Return the columns of the metadata."""
        collection = self._collection()
        found, stored = collection.columns(rows=SAMPLE), collection.count()
        columns = [Column.model_validate({"name": name, "type": kind}) for name, kind in found.items()]
        return Columns(columns=columns, rows=min(stored, SAMPLE), complete=stored <= SAMPLE)

    def values(self, column: str, limit: int) -> ColumnValues:
        """Return the commonest values of a column.

        :raises ConfigError: If it is none of the metadata.
        """
        found = self._collection().values(column, limit=limit)
        counts = [ValueCount(value=value, count=count) for value, count in found.counts]
        return ColumnValues(column=column, values=counts, rows=found.rows, complete=found.complete)

    def file(self, id: str) -> Response:
        """Return a stored image; the file in a root as a stream.

        :raises Refusal: If there is none, or it may not be shown, or is no image any more.
        """
        address = self._row(id, ["path"])["path"]
        if scheme(address):
            content = self._content(address)
            return Loaded(content, self._media_type(content))
        with ExitStack() as opened:
            try:
                file = opened.enter_context(self._roots.open(address))
            except ImageDecodeError as err:
                raise _not_shown() from err
            kind = self._media_type(file.read())
            opened.pop_all()
        return Opened(file, kind)

    def _media_type(self, content: bytes) -> str:
        try:
            kind = media_type_of(identify(content, self._decoding.max_pixels))
        except Exception as err:  # whatever the header has: it is no image
            raise _not_shown() from err
        if not kind:
            raise _not_shown()
        return kind

    def thumbnail(self, id: str) -> Response:
        """Return a small image, WebP, its longer side 256 pixels at most.

        :raises Refusal: As :meth:`file` does.
        """
        row = self._row(id, ["path", "digest"])
        key = (id, row["digest"])
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                self.hits += 1
                return Loaded(known, "image/webp")
            self.misses += 1
        made = Thumbnail.of(self._decoded(row["path"], id, LONGEST)).content
        with self._lock:
            self._kept[key] = made
        return Loaded(made, "image/webp")

    def small(self, id: str, longest: int) -> Pillow.Image:
        """Return a stored image, RGB, its longer side ``longest`` pixels at most.

        :raises Refusal: As :meth:`file` does.
        """
        return self._decoded(self._row(id, ["path"])["path"], id, longest)

    def _decoded(self, address: str, id: str, longest: int) -> Pillow.Image:
        content = self._content(address)
        with self._decoders:
            try:
                pixels = decode(content, id, self._decoding, lambda: longest // MARGIN)
            except ImageDecodeError as err:
                raise _not_shown() from err
            return shrunk(Pillow.fromarray(pixels), longest)

    def result(self, hits: Hits) -> Result:
        """Hits as clients see them."""
        return Result(hits=[self._found(hit) for hit in hits], no_match=hits.no_match)

    def failed(self, outcome: Outcome) -> FailedInput:
        """Return a failed input as clients see it."""
        return FailedInput(
            path=self._roots.shown(outcome.path),
            id=outcome.id,
            stage=getattr(outcome.reason, "stage", ""),
            reason=self._roots.cleaned(str(outcome.reason)),
            filename=_filename(outcome),
        )

    def _found(self, hit: Hit) -> Found:
        return Found(
            id=hit.id,
            score=hit.score,
            relevance=hit.relevance,
            path=self._roots.shown(hit.path),
            fields={name: value for name, value in hit.fields.items() if name not in HIDDEN},
            links=self._links(hit.id),
        )

    def _links(self, id: str) -> Links:
        """Return where an image is served."""
        image = f"{self._options.root_path}/v1/images/{quote(id, safe='')}"
        return Links(image=image, file=f"{image}/file", thumbnail=f"{image}/thumbnail")

    def _row(self, id: str, fields: list[str]) -> dict[str, Any]:
        row = self._collection().rows([id], fields).get(id)
        if row is None:
            raise _unknown(id)
        return row

    def _content(self, address: str) -> bytes:
        try:
            if is_http(address) and self._options.allow_urls:
                return self._web.read(address, time.monotonic() + FETCH_SECONDS)
            return self._roots.read(address)
        except ImageDecodeError as err:
            raise _not_shown() from err


def _filename(outcome: Outcome) -> str | None:
    name = getattr(outcome.reason, "metadata", {}).get("filename")
    return name if isinstance(name, str) else None


AFTER = "after "
"""What a cursor begins with, so that other texts in base64 are none."""


def _cursor(id: str) -> str:
    return urlsafe_b64encode(f"{AFTER}{id}".encode()).decode().rstrip("=")


def _after(cursor: str | None) -> str:
    """Return the id that a page comes after; empty for the first page."""
    if cursor is None:
        return ""
    try:
        text = b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    if not text.startswith(AFTER):
        raise Refusal(422, f"{cursor!r:.80} is no cursor; send next_cursor as it came", code="invalid_cursor")
    return text.removeprefix(AFTER)


def _unknown(id: str) -> Refusal:
    return Refusal(404, f"no image has the id {id!r:.140}", code="image_not_found")


def _not_shown() -> Refusal:
    return Refusal(
        404,
        "this image cannot be shown: its file is gone, is no image, or is in no folder that is served",
        code="image_not_shown",
    )
