"""What a contender is once its model is loaded, and the table that the others' vectors go into."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from benchmarks.peers.plan import BATCH
from t2i_pipelines.errors import StoreError
from t2i_pipelines.types import Image, Matrix, Vector

COLLECTION = "image_collection"


class Started(Protocol):
    """A contender, ready to be measured."""

    def insert(self, paths: Sequence[str]) -> None:
        """Files on disk -> rows in Milvus Lite."""
        ...

    def embed_text(self, text: str) -> Vector:
        """One query -> (D,) float32."""
        ...


class Encoding(Started, Protocol):
    """A contender whose encoder can be measured alone."""

    def encode(self, pictures: Image) -> Matrix:
        """(N, S, S, 3) uint8, S being what the model sees -> (N, D) float32."""
        ...


class Table:
    """The tutorial's collection: automatic ids, cosine, one further column for the path.

    It is made by the first insert.
    """

    def __init__(self, uri: str, dim: int) -> None:
        self._uri, self._dim = uri, dim

    @cached_property
    def _client(self) -> Any:
        from pymilvus import MilvusClient

        client = MilvusClient(uri=self._uri)
        client.create_collection(
            COLLECTION, dimension=self._dim, auto_id=True, enable_dynamic_field=True, metric_type="COSINE"
        )
        return client

    def insert(self, paths: Sequence[str], vectors: Sequence[Any] | np.ndarray) -> None:
        """Insert in one call."""
        rows = [{"vector": vector, "path": path} for path, vector in zip(paths, vectors, strict=True)]
        self._client.insert(COLLECTION, rows)


class Batched(ABC):
    """A contender that turns a batch of files, or of images, into vectors at once."""

    def __init__(self, uri: str, dim: int) -> None:
        self._table = Table(uri, dim)

    def insert(self, paths: Sequence[str]) -> None:
        """Insert batch by batch."""
        for at in range(0, len(paths), BATCH):
            batch = paths[at : at + BATCH]
            self._table.insert(batch, self.embed_files(batch))

    def encode(self, pictures: Image) -> Matrix:
        """Embed batch by batch."""
        parts = [self.embed_pictures(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)]
        return np.concatenate(parts)

    @abstractmethod
    def embed_files(self, paths: Sequence[str]) -> Matrix:
        """One batch of files."""

    @abstractmethod
    def embed_pictures(self, pictures: Image) -> Matrix:
        """One batch of images."""


def stored_vectors(uri: str, paths: Sequence[str]) -> Matrix:
    """What Milvus Lite holds for these paths, (N, D), in their order.

    :raises StoreError: If one of them is not there exactly once.
    """
    from pymilvus import MilvusClient

    client = MilvusClient(uri=uri)
    client.load_collection(COLLECTION)
    found: list[dict[str, Any]] = []
    for at in range(0, len(paths), BATCH):
        among = f"path in {json.dumps(paths[at : at + BATCH])}"
        found += client.query(COLLECTION, filter=among, output_fields=["path", "vector"])
    by_path = {row["path"]: row["vector"] for row in found}
    if len(found) != len(paths) or by_path.keys() != set(paths):
        raise StoreError(f"{len(paths)} images were inserted, {len(found)} rows are there")
    return np.array([by_path[path] for path in paths], np.float32)
