"""The routes of inserts and their jobs.

::

    POST /v1/insert           JSON, or a form with files of images
    GET  /v1/jobs             newest first
    GET  /v1/jobs/{id}        DELETE
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from t2i_pipelines.serve.jobs import Job, Key
from t2i_pipelines.serve.problems import Refusal, problems, schema_of
from t2i_pipelines.serve.schemas import (
    InsertRequest,
    JobList,
    JobReport,
    JobStatus,
    UploadForm,
)
from t2i_pipelines.serve.service import Service
from t2i_pipelines.serve.uploads import Form, Uploads, read_form

JSON, FORM = "application/json", "multipart/form-data"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A value of your choice for each insert, such as a UUID. The same request with the same "
        "value returns the same job, for 24 hours, also after a restart.",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


def insert_routes(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["insert"])
    form = schema_of(UploadForm)
    form["properties"]["image"]["items"] = {"type": "string", "format": "binary"}
    content = {JSON: {"schema": schema_of(InsertRequest)}, FORM: {"schema": form}}

    @routes.post(
        "/v1/insert",
        summary="Insert images",
        status_code=202,
        response_model=JobReport,
        responses=problems(401, 403, 408, 413, 415, 422, 429, 500, 507),
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def insert(
        request: Request, response: Response, idempotency_key: IdempotencyKey = None
    ) -> JobReport:
        """Return a job that inserts them. Running it again is safe: unchanged files are skipped.

        Send JSON to insert from a served folder or the web, or a form with image files as `image` and their
        metadata as `fields`. Equal files are stored once; sent again, they are `unchanged`.

        `Location` is the address of the job. Accepted jobs are finished, also when the service ends.
        """
        check_writable(service)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        name = (idempotency_key or "").strip('"')
        key = partial(Key, name, client=getattr(request.state, "key", "")) if name else None
        if kind == JSON:
            job, digest = _of_json(await request.body(), service)
            accepted = await service.run(service.jobs.accept, job, None if key is None else key(digest))
        elif kind == FORM:
            accepted = await _upload(request, service, key)
        else:
            raise Refusal(415, f"an insert is {JSON} or {FORM}, not {kind or 'without a type'!r:.80}")
        response.headers["Location"] = f"{service.options.root_path}/v1/jobs/{accepted.id}"
        return accepted

    @routes.get(
        "/v1/jobs",
        summary="Inserts, newest first",
        response_model=JobList,
        responses=problems(401, 422, 429),
    )
    async def latest(
        status: Annotated[JobStatus | None, Query(description="Only inserts with this status.")] = None,
        limit: Annotated[int, Query(description="Maximum number of inserts.", ge=1, le=100)] = 20,
    ) -> JobList:
        """The latest 1,000 ended inserts are kept, and those with an `Idempotency-Key` for 24 hours."""
        return JobList(jobs=await service.run(service.jobs.latest, status, limit))

    @routes.get(
        "/v1/jobs/{id}",
        summary="Status of an insert",
        response_model=JobReport,
        responses=problems(401, 404, 422, 429),
    )
    async def look(id: str) -> JobReport:
        """Return the counts of its inputs by outcome so far, and the failures."""
        return await service.run(service.jobs.find, id)

    @routes.delete(
        "/v1/jobs/{id}",
        summary="Cancel an insert",
        status_code=202,
        response_model=JobReport,
        responses=problems(401, 403, 404, 409, 422, 429),
    )
    async def cancel(id: str) -> JobReport:
        """A waiting insert is `cancelled` at once, a running one after the images in progress.

        Images that are stored by then stay; `counts` has their number.
        """
        check_writable(service)
        return await service.run(service.jobs.cancel, id)

    return routes


def check_writable(service: Service) -> None:
    """Pass if the service may be changed.

    :raises Refusal: If it only reads.
    """
    if service.options.read_only:
        raise Refusal(403, "this service only reads", code="read_only")


def _of_json(body: bytes, service: Service) -> tuple[Job, str]:
    try:
        asked = InsertRequest.model_validate_json(body)
    except ValidationError as err:
        found = [{**one, "loc": ("body", *one["loc"])} for one in err.errors(include_url=False)]
        raise RequestValidationError(found) from err
    service.reader.check_insert(asked)
    digest = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
    return Job(partial(service.reader.records, asked), asked.source, asked.refresh), digest


async def _upload(request: Request, service: Service, key: Callable[[str], Key] | None) -> JobReport:
    if service.uploads is None:
        raise Refusal(
            403,
            "this service keeps no uploads: start it with --uploads FOLDER, or insert from a folder that is "
            "served",
            code="uploads_not_allowed",
        )
    form = await read_form(request)
    try:
        return await service.run(_accept, service, service.uploads, form, key)
    finally:
        await form.parts.close()


def _accept(service: Service, uploads: Uploads, form: Form, key: Callable[[str], Key] | None) -> JobReport:
    if key is None:
        service.jobs.check_room()  # before anything is written
    upload = uploads.stage(form.files, form.rows)
    job = Job(upload.records, None, refresh=False, upload=upload, id=upload.id)
    try:
        accepted = service.jobs.accept(job, None if key is None else key(upload.fingerprint))
    except BaseException:
        upload.discard()
        raise
    if accepted.id != job.id:
        upload.discard()
    return accepted
