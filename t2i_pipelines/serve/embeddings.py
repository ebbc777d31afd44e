"""The route of embeddings: vectors of texts and images in the form of OpenAI's API and of Infinity's.

::

    POST /v1/embeddings
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter

from t2i_pipelines.search.query import Query
from t2i_pipelines.serve.problems import Refusal, problems
from t2i_pipelines.serve.requests import FETCH_SECONDS
from t2i_pipelines.serve.schemas import Embedding, EmbeddingsRequest, EmbeddingsResponse, Usage
from t2i_pipelines.serve.service import Service
from t2i_pipelines.types import Vector


def embeddings_routes(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["embeddings"])

    @routes.post(
        "/v1/embeddings",
        summary="Embed texts or images",
        response_model=EmbeddingsResponse,
        responses=problems(401, 403, 404, 408, 413, 422, 429, 500, 503),
    )
    async def embeddings(request: EmbeddingsRequest) -> EmbeddingsResponse:
        """Return the normalised vector of each input, as a search uses it.

        OpenAI's clients take `.../v1` as `base_url`. The dot product of two vectors is their cosine. Texts
        are inserted into the templates of the service, if it has any.
        """
        service.reader.check_number(len(request.inputs))
        service.batches.check_room(len(request.inputs))
        in_thread = service.run if request.modality == "text" else service.read
        queries, model, tokens = await in_thread(read, service, request)
        data = [
            Embedding(index=at, embedding=written(vector, request.encoding_format))
            for at, vector in enumerate(await service.embed(list(queries)))
        ]
        usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
        return EmbeddingsResponse(data=data, model=model, usage=usage)

    return routes


def read(service: Service, request: EmbeddingsRequest) -> tuple[Sequence[str | Query], str, int]:
    """Return what is embedded, its images decoded; the name of the model; and the number of tokens."""
    space = service.encoder.space
    check_model(request, space.model_name, str(service.model_name), space.dim)
    if request.modality == "text":
        return service.reader.texts(request.inputs), space.model_name, count_tokens(service, request.inputs)
    with service.metrics.stage("decode"):
        images = service.reader.images(request.inputs, time.monotonic() + FETCH_SECONDS)
    return images, space.model_name, 0


def check_model(request: EmbeddingsRequest, model: str, given: str, dim: int) -> None:
    """Pass a request for this service's model, as it is.

    :param model: the name of this service's model; ``given``: as its settings spell it.
    :param dim: the length of its vectors.
    :raises Refusal: If it asks for another, or for vectors of another length.
    """
    if request.model is not None and request.model not in (model, given):
        raise Refusal(
            404,
            f"this service embeds by {model!r}, not by {request.model!r:.140}; send that name, or none",
            code="model_not_found",
        )
    if request.dimensions not in (None, dim):
        raise Refusal(
            422,
            f"the vectors of this model have {dim} dimensions, not {request.dimensions}; send {dim}, or none",
            code="wrong_dimensions",
        )


def count_tokens(service: Service, texts: Sequence[str]) -> int:
    """Return how many tokens the texts have; 0 of a model that does not count them."""
    count = getattr(service.encoder, "count_tokens", None)
    return 0 if count is None else int(count(texts))


def written(vector: Vector, encoding_format: str) -> list[float] | str:
    """Return a vector as numbers, or as base64 of float32, little-endian."""
    array = np.asarray(vector, "<f4")
    return b64encode(array.tobytes()).decode() if encoding_format == "base64" else array.tolist()
