"""Parts of the OpenAPI document that FastAPI does not write by itself."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from t2i_pipelines.serve.problems import MEDIA_TYPE, Problem

_WHEN = {
    401: "No key, or not the right one.",
    404: "There is no such thing.",
    408: "The request did not come in time.",
    413: "The request is too large.",
    415: "The request is of another type.",
    422: "Something about the request is wrong; `code` and `detail` tell what.",
    429: "Too much at a time; `Retry-After` tells when to try again.",
    503: "The database does not answer; try again.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems as responses of a route; 400 and 421, which the server may find wrong anywhere, are added."""
    schema = schema_of(Problem)
    return {
        status: {
            "description": _WHEN.get(status, HTTPStatus(status).phrase),
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in sorted({400, 421, *statuses})
    }


_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model that refers to nothing outside itself."""
    schema = model.model_json_schema()
    defined = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(defined[part["$ref"].removeprefix("#/$defs/")])
        return {name: inlined(one) for name, one in part.items()}

    found: dict[str, Any] = inlined(schema)
    return found
