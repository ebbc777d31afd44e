"""The routes of what is stored: images, one or many, and the columns of their metadata.

::

    GET    /v1/images                   pages of them; DELETE by filter
    GET    /v1/images/{id}              its file, thumbnail; PATCH, DELETE
    GET    /v1/count
    GET    /v1/columns                  and /v1/columns/{name}/values
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from t2i_pipelines.serve.problems import Refusal, problems
from t2i_pipelines.serve.requests import check_hidden
from t2i_pipelines.serve.schemas import (
    Columns,
    ColumnValues,
    ImageFilter,
    ImagesCount,
    ImagesDeleted,
    ImagesRequest,
    ImagesResponse,
    ImageUpdate,
    StoredImage,
)
from t2i_pipelines.serve.service import Service

VALUES_AT_MOST = 1000
"""Values of a column that one request may ask for."""


def check_writable(service: Service) -> None:
    """Pass a request that changes what is stored.

    :raises Refusal: If the service only reads.
    """
    if service.options.read_only:
        raise Refusal(403, "this service only reads", code="read_only")


def stored_routes(service: Service) -> APIRouter:
    """Return the routes of many images."""
    routes = APIRouter(tags=["images"], responses=problems(401, 404, 422, 429, 500, 503))

    @routes.get("/v1/images", summary="Pages of the images that are stored", response_model=ImagesResponse)
    async def page(asked: Annotated[ImagesRequest, Query()]) -> ImagesResponse:
        """Return images in the order of their ids, which is no order that means anything.

        `next_cursor` asks for the next page. An image that is stored all the while comes exactly once,
        whatever is inserted or deleted meanwhile. Ask for all pages with the same `filter` and `where`.
        """
        service.reader.check_page(asked.limit, "images", "cursor")
        condition = service.reader.condition(asked.filter, asked.where, set(asked.output_fields))
        return await service.scan(service.images.page, asked, condition)

    @routes.delete(
        "/v1/images",
        summary="Take the images out of the collection that meet a filter",
        response_model=ImagesDeleted,
        responses=problems(403),
    )
    async def delete(asked: Annotated[ImageFilter, Query()]) -> ImagesDeleted:
        """Return how many were deleted. Without a condition nothing is, and the answer is `422`.

        Their files stay. All images meet the filter `id != ""`.
        """
        check_writable(service)
        condition = service.reader.condition(asked.filter, asked.where)
        return ImagesDeleted(deleted=await service.scan(service.images.delete_by_filter, condition))

    @routes.get("/v1/count", summary="How many images are stored", response_model=ImagesCount)
    async def count(asked: Annotated[ImageFilter, Query()]) -> ImagesCount:
        """Return how many there are, or how many of them meet `filter` and `where`."""
        condition = service.reader.condition(asked.filter, asked.where)
        return ImagesCount(count=await service.scan(service.images.count, condition))

    @routes.get("/v1/columns", summary="The columns of the metadata", response_model=Columns)
    async def columns() -> Columns:
        """Return the columns that the first images have, in the order of the ids, with their types.

        Each image may have columns of its own. `rows` is how many were looked at.
        """
        return await service.scan(service.images.columns)

    @routes.get(
        "/v1/columns/{name:path}/values",
        summary="The commonest values of a column",
        response_model=ColumnValues,
    )
    async def values(
        name: Annotated[str, Path(max_length=255, description="Of a column.", examples=["year"])],
        limit: Annotated[int, Query(ge=1, le=VALUES_AT_MOST, description="Values, at most.")] = 20,
    ) -> ColumnValues:
        """Return values with how many of the first images have them; of a list, each item counts.

        `rows` is how many images were looked at, 10,000 at most.
        """
        check_hidden({name})
        return await service.scan(service.images.values, name, limit)

    return routes


BINARY = {"schema": {"type": "string", "format": "binary"}}

KNOWN: dict[int | str, dict[str, Any]] = {304: {"description": "It is what `If-None-Match` names."}}


def images_routes(service: Service) -> APIRouter:
    """Return the routes of one image. An id may hold slashes: those with an end of their own come first."""
    routes = APIRouter(tags=["images"], responses=problems(401, 404, 422, 429, 500, 503))

    @routes.get(
        "/v1/images/{id:path}/thumbnail",
        summary="A small image",
        response_class=Response,
        responses={200: {"content": {"image/webp": BINARY}}, **KNOWN},
    )
    async def thumbnail(id: str) -> Response:
        """WebP, its longer side 256 pixels at most, its size 24 kB."""
        with service.metrics.stage("thumbnail"):
            return await service.run(service.images.thumbnail, id)

    @routes.get(
        "/v1/images/{id:path}/file",
        summary="The image",
        response_class=Response,
        responses={200: {"content": {"image/*": BINARY}}, 206: {"content": {"image/*": BINARY}}, **KNOWN},
    )
    async def file(id: str) -> Response:
        """Return the file's own bytes, or the `Range` of them that is asked for."""
        return await service.run(service.images.file, id)

    @routes.get("/v1/images/{id:path}", summary="What is stored of an image", response_model=StoredImage)
    async def image(id: str) -> StoredImage:
        """Its path, its metadata, and where its file and thumbnail are."""
        return await service.run(service.images.stored, id)

    @routes.delete(
        "/v1/images/{id:path}",
        summary="Take an image out of the collection",
        status_code=204,
        responses=problems(403),
    )
    async def delete(id: str) -> None:
        """It is no longer found. Its file stays."""
        check_writable(service)
        await service.run(service.images.delete, id)

    @routes.patch(
        "/v1/images/{id:path}",
        summary="Change the metadata of an image",
        response_model=StoredImage,
        responses=problems(403, 408, 413),
    )
    async def update(id: str, request: ImageUpdate) -> StoredImage:
        """Set or remove columns, and return what is stored then. Its vector, path and id stay.

        An insert of the same file with the same metadata as before leaves the change; one of a changed file,
        or with other metadata, replaces all metadata.
        """
        check_writable(service)
        await service.run(service.images.update, id, request.fields)
        return await service.run(service.images.stored, id)

    return routes
