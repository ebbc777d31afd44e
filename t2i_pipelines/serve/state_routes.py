"""``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Response, params

from t2i_pipelines.serve.documents import problems
from t2i_pipelines.serve.models import Health
from t2i_pipelines.serve.problems import AGAIN_SECONDS, Refusal
from t2i_pipelines.serve.service import Service

METRICS = "text/plain; version=0.0.4; charset=utf-8"


def router(service: Service, locked: Sequence[params.Depends]) -> APIRouter:
    """The routes.

    :param locked: of what needs the key.
    """
    routes = APIRouter(tags=["state"], responses=problems())

    @routes.get("/healthz", summary="Whether the process lives")
    async def healthz() -> Health:
        """Answer without asking any other service."""
        return Health()

    @routes.get("/readyz", summary="Whether searches are answered", responses=problems(503))
    async def readyz() -> Health:
        """The model is loaded, and the database answers."""
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
        summary="For Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401, 429)},
        dependencies=list(locked),
    )
    async def metrics() -> Response:
        """Latency by stage, queue, batch size, cache hits, failures."""
        return Response(service.metrics.text(), media_type=METRICS)

    return routes
