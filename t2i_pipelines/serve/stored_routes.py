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

    @routes.get("/v1/images", summary="List stored images", response_model=ImagesResponse)
    async def page(asked: Annotated[ImagesRequest, Query()]) -> ImagesResponse:
        """Return a page of images, ordered by id.

        `next_cursor` requests the next page. An image that stays stored is returned exactly once, whatever
        is inserted or deleted meanwhile. Request all pages with the same `filter` and `where`.
        """
        service.reader.check_page(asked.limit, "images", "cursor")
        condition = service.reader.condition(asked.filter, asked.where, set(asked.output_fields))
        return await service.scan(service.images.page, asked, condition)

    @routes.delete(
        "/v1/images",
        summary="Delete the images that match a filter",
        response_model=ImagesDeleted,
        responses=problems(403),
    )
    async def delete(asked: Annotated[ImageFilter, Query()]) -> ImagesDeleted:
        """Remove them from the collection, and return their number.

        Files are not deleted. A condition is required; the filter `id != ""` matches all images.
        """
        check_writable(service)
        condition = service.reader.condition(asked.filter, asked.where)
        return ImagesDeleted(deleted=await service.scan(service.images.delete_by_filter, condition))

    @routes.get("/v1/count", summary="Number of stored images", response_model=ImagesCount)
    async def count(asked: Annotated[ImageFilter, Query()]) -> ImagesCount:
        """Count all images, or those that match `filter` and `where`."""
        condition = service.reader.condition(asked.filter, asked.where)
        return ImagesCount(count=await service.scan(service.images.count, condition))

    @routes.get("/v1/columns", summary="The columns of the metadata", response_model=Columns)
    async def columns() -> Columns:
        """Return the columns of the first images, ordered by id, with their types.

        Each image may have its own columns. `rows` is the number of images that were read.
        """
        return await service.scan(service.images.columns)

    @routes.get(
        "/v1/columns/{name:path}/values",
        summary="The most common values of a column",
        response_model=ColumnValues,
    )
    async def values(
        name: Annotated[str, Path(max_length=255, description="Name of a column.", examples=["year"])],
        limit: Annotated[int, Query(ge=1, le=VALUES_AT_MOST, description="Maximum number of values.")] = 20,
    ) -> ColumnValues:
        """Return values with the number of images that have them. Items of a list count separately.

        `rows` is the number of images that were read, 10,000 at most.
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
        """Return a WebP of at most 256 pixels a side and 24 kB."""
        with service.metrics.stage("thumbnail"):
            return await service.run(service.images.thumbnail, id)

    @routes.get(
        "/v1/images/{id:path}/file",
        summary="The image",
        response_class=Response,
        responses={200: {"content": {"image/*": BINARY}}, 206: {"content": {"image/*": BINARY}}, **KNOWN},
    )
    async def file(id: str) -> Response:
        """Return the bytes of the file, or the requested `Range` of them."""
        return await service.run(service.images.file, id)

    @routes.get("/v1/images/{id:path}", summary="A stored image", response_model=StoredImage)
    async def image(id: str) -> StoredImage:
        """Return its path, its metadata, and the links of its file and thumbnail."""
        return await service.run(service.images.stored, id)

    @routes.delete(
        "/v1/images/{id:path}",
        summary="Delete an image",
        status_code=204,
        responses=problems(403),
    )
    async def delete(id: str) -> None:
        """Remove it from the collection. Its file is not deleted."""
        check_writable(service)
        await service.run(service.images.delete, id)

    @routes.patch(
        "/v1/images/{id:path}",
        summary="Change the metadata of an image",
        response_model=StoredImage,
        responses=problems(403, 408, 413),
    )
    async def update(id: str, request: ImageUpdate) -> StoredImage:
        """Set or remove columns, and return the result. Vector, path and id are unchanged.

        Inserting the same file with the same metadata again keeps the change. Inserting a changed file, or
        other metadata, replaces all metadata.
        """
        check_writable(service)
        await service.run(service.images.update, id, request.fields)
        return await service.run(service.images.stored, id)

    return routes
