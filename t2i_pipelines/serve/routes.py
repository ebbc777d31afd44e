"""The routes of search, health and metrics.

::

    POST /v1/search           JSON, or a form with the file of an image
    GET  /healthz, /readyz, /metrics
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response, params
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from t2i_pipelines.serve.middleware import VALUES, check_values
from t2i_pipelines.serve.problems import AGAIN_SECONDS, Refusal, problems, schema_of
from t2i_pipelines.serve.schemas import Health, SearchRequest, SearchResponse
from t2i_pipelines.serve.service import Service

JSON, FORM = "application/json", "multipart/form-data"
STRUCTURED = ("where", "output_fields")
"""Fields that are JSON in a form, too."""


def search_routes(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["search"])
    form = schema_of(SearchRequest)
    form["properties"] = {
        name: {"type": "string", "format": "binary", "description": "An image's file."}
        if name == "image"
        else {"type": "string", "contentMediaType": JSON, "description": one.get("description", "")}
        if name in STRUCTURED
        else one
        for name, one in form["properties"].items()
        if name != "queries"
    }
    content = {JSON: {"schema": schema_of(SearchRequest)}, FORM: {"schema": form}}

    @routes.post(
        "/v1/search",
        response_model=SearchResponse,
        responses=problems(401, 408, 413, 415, 422, 429, 500, 503),
        summary="Find images",
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def search(request: Request) -> SearchResponse:
        """Search by words, an expression, a stored image or an image file, or by several of these at once.

        Send JSON, or a form whose `image` is an image file. Concurrent requests with the same options are
        searched as one batch. `429` has the seconds to wait in `Retry-After`.
        """
        found = await service.find(await read(request))
        return SearchResponse(results=[service.images.result(hits) for hits in found])

    return routes


async def read(request: Request) -> SearchRequest:
    """Return the request in either form.

    :raises RequestValidationError: If it is not as it should be.
    :raises Refusal: If it is of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == JSON:
            return SearchRequest.model_validate_json(await request.body())
        if kind == FORM:
            return SearchRequest.model_validate(await _form(request))
    except ValidationError as err:
        found = [{**one, "loc": ("body", *one["loc"])} for one in err.errors(include_url=False)]
        raise RequestValidationError(found) from err
    raise Refusal(415, f"a search is {JSON} or {FORM}, not {kind or 'without a type'!r:.80}")


async def _form(request: Request) -> dict[str, Any]:
    try:
        async with request.form(max_files=1, max_fields=20) as form:
            return {name: await _value(form, name) for name in form}
    except MultiPartException as err:
        raise Refusal(400, f"the form cannot be read: {err.message}") from err
    except (LookupError, UnicodeError) as err:  # of a charset that is none, or not for this
        raise Refusal(400, f"the form's charset does not fit: {err!s:.200}") from err


async def _value(form: FormData, name: str) -> Any:
    value = form[name]
    if isinstance(value, UploadFile):
        if name != "image":
            raise Refusal(422, f"{name!r:.80} is a file; only image may be one")
        return b64encode(await value.read())
    if name in STRUCTURED:
        check_values([value.encode()], VALUES["/v1/search"])
        try:
            return from_json(value)
        except ValueError as err:
            raise Refusal(422, f"{name} is not JSON: {err}") from err
    return value


METRICS = "text/plain; version=0.0.4; charset=utf-8"


def state_routes(service: Service, locked: Sequence[params.Depends]) -> APIRouter:
    """Return the routes.

    :param locked: of what needs the key.
    """
    routes = APIRouter(tags=["state"], responses=problems())

    @routes.get("/healthz", summary="Check liveness")
    async def healthz() -> Health:
        """Answer without asking any other service."""
        return Health()

    @routes.get("/readyz", summary="Check readiness", responses=problems(503))
    async def readyz() -> Health:
        """Check that the model is loaded and the database answers."""
        if not await service.is_ready():
            raise Refusal(
                503,
                "the model is not loaded, or the database does not answer",
                code="not_ready",
                retry_after=AGAIN_SECONDS,
            )
        return Health()

    @routes.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401, 429)},
        dependencies=list(locked),
    )
    async def metrics() -> Response:
        """Latency by stage, queue, batch size, cache hits, failures."""
        return Response(service.metrics.text(), media_type=METRICS)

    return routes
