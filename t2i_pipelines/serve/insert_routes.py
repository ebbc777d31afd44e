"""The routes of inserts and their jobs.

::

    POST /v1/insert           GET /v1/jobs/{id}
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Response

from t2i_pipelines.serve.jobs import Job
from t2i_pipelines.serve.problems import Refusal, problems, refusal_of
from t2i_pipelines.serve.schemas import InsertRequest, JobError, JobReport, SkippedFiles
from t2i_pipelines.serve.service import Service


def insert_routes(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["insert"])

    @routes.post(
        "/v1/insert",
        summary="Insert images",
        status_code=202,
        response_model=JobReport,
        responses=problems(401, 403, 408, 413, 422, 429),
    )
    async def insert(request: InsertRequest, response: Response) -> JobReport:
        """Return a job that inserts them. Running it again is safe: unchanged files are skipped.

        `Location` is where to look how it is doing. What is accepted is finished, also when the service is
        ending.
        """
        if service.options.read_only:
            raise Refusal(403, "this service only reads", code="read_only")
        service.reader.check_insert(request)
        job = service.jobs.accept(
            Job(partial(service.reader.records, request), request.source, request.refresh)
        )
        response.headers["Location"] = f"{service.options.root_path}/v1/jobs/{job.id}"
        return report(job, service)

    @routes.get(
        "/v1/jobs/{id}",
        summary="How an insert is doing",
        response_model=JobReport,
        responses=problems(401, 404, 422, 429),
    )
    async def look(id: str) -> JobReport:
        """Return what became of its inputs so far, and which failed."""
        job = service.jobs.find(id)
        if job is None:
            raise Refusal(
                404, f"no job has the id {id!r:.80}; ended ones are forgotten in time", code="job_not_found"
            )
        return report(job, service)

    return routes


def report(job: Job, service: Service) -> JobReport:
    """Return a job as clients see it."""
    error = None
    if job.error is not None:
        refusal = refusal_of(job.error, service.roots)
        error = JobError(code=refusal.code, detail=refusal.detail)
    return JobReport(
        id=job.id,
        status=job.status,
        source=job.source,
        counts={status: count for status, count in job.report.counts.items() if count},
        skipped=[SkippedFiles(**one) for one in job.skipped.as_list()],
        failed=[service.images.failed(one) for one in list(job.report.failed)],
        seconds_by_stage=job.report.stages,
        error=error,
        created=job.created,
        started=job.started,
        finished=job.finished,
    )
