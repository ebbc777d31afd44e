"""``POST /v1/search``, as JSON or as a form with an image's file."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from t2i_pipelines.serve.documents import problems, schema_of
from t2i_pipelines.serve.models import SearchRequest, SearchResponse
from t2i_pipelines.serve.problems import Refusal
from t2i_pipelines.serve.service import Service

JSON, FORM = "application/json", "multipart/form-data"
STRUCTURED = ("where", "output_fields")
"""Fields that are JSON in a form, too."""


def router(service: Service) -> APIRouter:
    """The route."""
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
        """Hits of words, an expression, a stored image or one of your own; or of several queries at once.

        As JSON, or as a form whose `image` is an image's file. What comes at the same time with the same
        options is embedded and searched at once. `429` tells after how many seconds to try again.
        """
        found = await service.find(await read(request))
        return SearchResponse(results=[service.pictures.result(hits) for hits in found])

    return routes


async def read(request: Request) -> SearchRequest:
    """The request in either form.

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


async def _value(form: FormData, name: str) -> Any:
    value = form[name]
    if isinstance(value, UploadFile):
        if name != "image":
            raise Refusal(422, f"{name!r:.80} is a file; only image may be one")
        return b64encode(await value.read())
    if name in STRUCTURED:
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as err:
            raise Refusal(422, f"{name} is not JSON: {err}") from err
    return value
