"""One search result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class Hit(tuple[Any, ...]):
    """One search result. Unpacks and indexes as ``(id, score, path, *fields.values())``.

    :ivar id: primary key.
    :ivar score: cosine similarity in [-1, 1], higher is better.
    :ivar path: where the picture is.
    :ivar fields: the further ``output_fields`` that were asked for, in that order.
    :ivar relevance: in [0, 1], calibrated for the model on the collection; None where nothing was calibrated.
    """

    id: str
    score: float
    path: str
    fields: Mapping[str, Any]
    relevance: float | None

    def __new__(
        cls,
        id: str,
        score: float,
        path: str,
        fields: Mapping[str, Any] | None = None,
        relevance: float | None = None,
    ) -> Self:
        """Build from its parts; ``fields`` and ``relevance`` may be left out."""
        fields = dict(fields or {})
        hit = super().__new__(cls, (id, score, path, *fields.values()))
        hit.id, hit.score, hit.path, hit.fields, hit.relevance = id, score, path, fields, relevance
        return hit

    def __getnewargs__(self) -> tuple[str, float, str, Mapping[str, Any], float | None]:
        """Let hits be pickled and copied."""
        return self.id, self.score, self.path, self.fields, self.relevance

    def __repr__(self) -> str:
        relevance = "" if self.relevance is None else f", relevance={self.relevance:.2f}"
        fields = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        return f"Hit(id={self.id!r}, score={self.score:.3f}{relevance}, path={self.path!r}{fields})"
