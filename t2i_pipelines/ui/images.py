"""The images of hits as files: small, enlarged, and as they are stored. No other file of this machine."""

from __future__ import annotations

import io
from threading import BoundedSemaphore
from urllib.parse import quote

from PIL import Image as Pillow
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError, T2IError
from t2i_pipelines.images import is_remote, read
from t2i_pipelines.images.decode import identify
from t2i_pipelines.search.render import LONGEST, Thumbnail, load, name_of
from t2i_pipelines.ui.finding import Finder

VIEW = 2_048
"""Longer side of an enlarged image, in pixels."""

QUALITY = 88
"""Of an enlarged image, as WebP has it."""

AT_ONCE = 4
"""Images that are decoded at the same time; each may take ``max_pixels`` times 3 bytes."""

SHOWN = frozenset({"AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP"})
"""Formats that browsers show."""

HEADERS = {
    "cache-control": "private, max-age=60",
    "content-security-policy": "default-src 'none'; img-src 'self'; sandbox",
    "cross-origin-resource-policy": "same-origin",
}
"""Of files that others made: a browser runs nothing that is in them."""


class Images:
    """Answers ``image/KIND?id=ID`` for images that the page's searcher finds, by its own conditions.

    ``small`` is for lists, ``view`` is enlarged; both are decoded and encoded again, upright, without the
    metadata of the camera. ``original`` and ``download`` are the bytes of the file.
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._turns = BoundedSemaphore(AT_ONCE)
        known = {name: value for name, value in dict(finder.search.settings).items() if name in DECODING}
        self._decoding = Decoding.of(**known)

    @property
    def routes(self) -> list[Route]:
        """The one route."""
        return [Route("/image/{kind}", self._answer, methods=["GET"])]

    def _answer(self, request: Request) -> Response:
        try:
            with self._turns:
                return self.answer(request.path_params["kind"], request.query_params.get("id", ""))
        except T2IError:
            return Response("This image cannot be shown.", 404, HEADERS, "text/plain")

    def answer(self, kind: str, id: str) -> Response:
        """Return an image.

        :param kind: ``small``, ``view``, ``original`` or ``download``.
        :raises ImageDecodeError: If no such image is stored, its file is gone or no image, or it is remote:
            this page makes no request to another host.
        """
        hit = self._finder.hit(id) if id else None
        if hit is None or is_remote(hit.path):
            raise ImageDecodeError(f"no image with the id {id!r:.100} can be shown")
        if kind == "small":
            return Response(Thumbnail.of(load(hit.path, LONGEST)).content, 200, HEADERS, "image/webp")
        if kind == "view":
            return _view(hit.path)
        content = read(hit.path, self._decoding.max_bytes)
        # the file may be another one than when it was inserted
        format = identify(content, self._decoding.max_pixels).format or ""
        if kind == "original" and format not in SHOWN:
            return _view(hit.path)
        how = "attachment" if kind == "download" else "inline"
        name = quote(name_of(hit.path), safe="")
        headers = {**HEADERS, "content-disposition": f"{how}; filename*=UTF-8''{name}"}
        return Response(content, 200, headers, Pillow.MIME.get(format, "application/octet-stream"))


DECODING = frozenset(Decoding.__dataclass_fields__)


def _view(path: str) -> Response:
    buffer = io.BytesIO()
    load(path, VIEW).save(buffer, "WEBP", quality=QUALITY, method=2)
    return Response(buffer.getvalue(), 200, HEADERS, "image/webp")
