"""``/v1/images/{id}``: what is stored, its file, its thumbnail, and its end."""

from __future__ import annotations

from fastapi import APIRouter, Response

from t2i_pipelines.serve.documents import problems
from t2i_pipelines.serve.models import StoredImage
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.service import Service

CONTENT = {
    "Cache-Control": "private, max-age=3600",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
"""Headers for files of unknown origin, whatever type they claim to be."""

BINARY = {"schema": {"type": "string", "format": "binary"}}


def router(service: Service) -> APIRouter:
    """The routes. An id may hold slashes, so those with an end of their own come first."""
    routes = APIRouter(tags=["images"], responses=problems(401, 404, 422, 429, 500, 503))

    @routes.get(
        "/v1/images/{id:path}/thumbnail",
        summary="A small image",
        response_class=Response,
        responses={200: {"content": {"image/webp": BINARY}}},
    )
    async def thumbnail(id: str) -> Response:
        """WebP, its longer side 256 pixels at most, its size 24 kB."""
        with service.metrics.stage("thumbnail"):
            content = await service.run(service.pictures.thumbnail, id)
        return Response(content, media_type="image/webp", headers=CONTENT)

    @routes.get(
        "/v1/images/{id:path}/file",
        summary="The image",
        response_class=Response,
        responses={200: {"content": {"image/*": BINARY}}},
    )
    async def file(id: str) -> Response:
        """The file's own bytes."""
        found = await service.run(service.pictures.file, id)
        return Response(found.content, media_type=found.media_type, headers=CONTENT)

    @routes.get("/v1/images/{id:path}", summary="What is stored of an image", response_model=StoredImage)
    async def image(id: str) -> StoredImage:
        """Its path, its metadata, and where its file and thumbnail are."""
        return await service.run(service.pictures.stored, id)

    @routes.delete(
        "/v1/images/{id:path}",
        summary="Take an image out of the collection",
        status_code=204,
        responses=problems(403),
    )
    async def delete(id: str) -> None:
        """It is no longer found. Its file stays."""
        if service.options.read_only:
            raise Refusal(403, "this service only reads", code="read_only")
        await service.run(service.pictures.delete, id)

    return routes
