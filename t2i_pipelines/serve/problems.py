"""Report errors as problem details (RFC 9457), each with a stable code, also in the OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from asgi_correlation_id import correlation_id
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import Scope

from t2i_pipelines import errors
from t2i_pipelines.errors import T2IError
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.roots import Roots

MEDIA_TYPE = "application/problem+json"
AGAIN_SECONDS = 1
"""``Retry-After`` where the database does not answer."""

ERRORS = 20
"""Fields that an answer lists as wrong, at most; ``LONGEST``: characters of each name and reason."""

LONGEST = 300

EMBEDDINGS = "/v1/embeddings"

log = logging.getLogger("t2i_pipelines.serve")


class _Meaning(NamedTuple):
    status: int
    code: str
    said: str = ""
    """What clients get in place of the message, which is for the operator of the service."""


_BUSY = "the database does not answer; try again"
_OURS = "the service is not set up as it should be; its log tells more"

MEANINGS: Mapping[type[T2IError], _Meaning] = {
    errors.T2IError: _Meaning(500, "internal_error", _OURS),
    errors.ConfigError: _Meaning(422, "invalid_option"),
    errors.UnknownModelError: _Meaning(500, "unknown_model", _OURS),
    errors.UnknownOperatorError: _Meaning(500, "unknown_operator", _OURS),
    errors.QueryError: _Meaning(422, "invalid_query"),
    errors.SourceError: _Meaning(422, "invalid_source"),
    errors.ImageDecodeError: _Meaning(422, "unreadable_image"),
    errors.EncodeError: _Meaning(500, "cannot_embed", "the model cannot embed this"),
    errors.CheckpointError: _Meaning(500, "model_unavailable", _OURS),
    errors.FinetuneError: _Meaning(500, "training_failed", _OURS),
    errors.DeletionRefusedError: _Meaning(409, "deletion_refused"),
    errors.SwapRefusedError: _Meaning(409, "swap_refused"),
    errors.CopyError: _Meaning(500, "copy_failed", _OURS),
    errors.ClusterError: _Meaning(500, "cluster_failed", _OURS),
    errors.MissingExtraError: _Meaning(500, "not_installed", _OURS),
    errors.StoreError: _Meaning(500, "store_failed", "the database refused this or failed"),
    errors.StoreUnavailableError: _Meaning(503, "store_unavailable", _BUSY),
    errors.StoreAuthError: _Meaning(503, "store_refuses_service", _OURS),
    errors.StoreTimeoutError: _Meaning(503, "store_timeout", _BUSY),
    errors.StoreLockedError: _Meaning(503, "store_locked", "another process has the database; try again"),
    errors.StoreFormatError: _Meaning(500, "store_unreadable", _OURS),
    errors.CollectionNotFoundError: _Meaning(404, "collection_not_found", "nothing is stored yet"),
    errors.ModelMismatchError: _Meaning(500, "model_mismatch", "the collection is of another model"),
    errors.VectorError: _Meaning(422, "no_vector", "what was asked for has no vector to compare"),
}
"""What each of our errors is over HTTP; of one that is not here, what its base is."""

STATUS_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    421: "wrong_host",
    422: "invalid_request",
    429: "too_busy",
    500: "internal_error",
    503: "unavailable",
}
"""The codes of what the service itself finds wrong, by status."""


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Too Many Requests",
                    "status": 429,
                    "detail": "256 queries are waiting already; try again in 2 s",
                    "code": "too_busy",
                    "request_id": "3f6c1e7a9b0d4c52a8e4f1d2c3b4a596",
                }
            ]
        }
    )

    type: str = Field(default="about:blank", description="Always about:blank: `code` tells what it is.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong with this request, and the way out.")
    code: str = Field(description="What went wrong, in a word that stays the same.")
    errors: list[dict[str, Any]] | None = Field(None, description="Of `invalid_request`: each field and why.")
    request_id: str | None = Field(None, description="By which the log names this request: `X-Request-ID`.")
    message: str | None = Field(None, description="Of embeddings: `detail`, as OpenAI's clients name it.")


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, detail: str, *, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code = status, detail, code or STATUS_CODES[status]
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after)))
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


def meaning_of(err: T2IError) -> _Meaning:
    """Return what an error is over HTTP."""
    return next(MEANINGS[kind] for kind in type(err).__mro__ if kind in MEANINGS)


def refusal_of(err: Exception, roots: Roots) -> Refusal:
    """Return any error as a refusal. What is kept from clients is logged."""
    if isinstance(err, Refusal):
        return err
    if isinstance(err, T2IError):
        meaning = meaning_of(err)
        if meaning.said:
            log.warning("%s: %s", meaning.code, err)
        return Refusal(
            meaning.status,
            meaning.said or roots.cleaned(str(err)),
            code=meaning.code,
            retry_after=AGAIN_SECONDS if meaning.status == 503 else None,
        )
    log.error("%s", err, exc_info=err)
    return Refusal(500, "something went wrong here, and is in the log")


def answer(
    refusal: Refusal, metrics: Metrics, errors: list[dict[str, Any]] | None = None, path: str = ""
) -> JSONResponse:
    """Return a refusal as a response; it is counted.

    :param path: of the request.
    """
    metrics.failures.labels(refusal.code).inc()
    title = HTTPStatus(refusal.status).phrase
    body = Problem(
        title=title,
        status=refusal.status,
        detail=refusal.detail,
        code=refusal.code,
        errors=errors,
        request_id=correlation_id.get(),
        message=refusal.detail if path == EMBEDDINGS else None,
    )
    return JSONResponse(
        body.model_dump(exclude_none=True), refusal.status, refusal.headers, media_type=MEDIA_TYPE
    )


def route_path(scope: Scope) -> str:
    """Return the path below the root path: the router looks at no other."""
    root, path = scope.get("root_path", ""), str(scope["path"])
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def add_handlers(app: Starlette, metrics: Metrics, roots: Roots) -> None:
    """Let every error of a route become a problem."""

    async def ours(request: Request, err: Exception) -> JSONResponse:
        return answer(refusal_of(err, roots), metrics, path=route_path(request.scope))

    async def invalid(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, RequestValidationError)
        found = [
            {"field": _field(one["loc"]), "reason": str(one["msg"])[:LONGEST]}
            for one in err.errors()[:ERRORS]
        ]
        told = "; ".join(f"{one['field']}: {one['reason']}" for one in found[:3])
        return answer(Refusal(422, roots.cleaned(told)), metrics, found, route_path(request.scope))

    async def of_http(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, HTTPException)
        code = STATUS_CODES.get(err.status_code, STATUS_CODES[400 if err.status_code < 500 else 500])
        refusal = Refusal(err.status_code, str(err.detail), code=code)
        refusal.headers |= dict(err.headers or {})
        return answer(refusal, metrics, path=route_path(request.scope))

    app.add_exception_handler(Refusal, ours)
    app.add_exception_handler(T2IError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)


def _field(place: Sequence[Any]) -> str:
    """Return a field's path; names that clients made up are cut."""
    return ".".join(map(str, place))[:LONGEST]


_WHEN = {
    401: "No key, or not the right one.",
    403: "The key has no scope for this, the service only reads, or the page is of another site.",
    404: "There is no such thing.",
    408: "The request did not come in time.",
    413: "The request is too large.",
    415: "The request is of another type.",
    422: "Something about the request is wrong; `code` and `detail` tell what.",
    429: "Too much at a time; `Retry-After` tells when to try again.",
    503: "The database does not answer; try again.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems as responses of a route; 400, 403 and 421, which are found before any route, are added."""
    schema = schema_of(Problem)
    return {
        status: {
            "description": _WHEN.get(status, HTTPStatus(status).phrase),
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in sorted({400, 403, 421, *statuses})
    }


_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a model that refers to nothing outside itself."""
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
