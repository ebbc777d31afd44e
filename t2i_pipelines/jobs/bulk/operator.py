"""The last step of a bulk load: as ``milvus_insert``, but new rows go into files."""

from __future__ import annotations

import threading
from typing import Any

from t2i_pipelines.jobs.bulk.shipment import Shipment
from t2i_pipelines.operators.milvus import MilvusInsert
from t2i_pipelines.types import Record


class BulkInsert(MilvusInsert):
    """Hands batches to a shipment, and remembers the ids that are on their way: an import replaces none.

    :ivar waiting: ids of the rows in files.
    """

    def __init__(self, shipment: Shipment, **settings: Any) -> None:
        super().__init__(**settings)
        self.waiting: set[str] = set()
        self._shipment = shipment
        self._turn = threading.Lock()

    @property
    def collection(self) -> Any:
        """What takes the rows."""
        return _Noting(self._shipment, self.waiting)

    def answering(self, *, beside: bool = True) -> Any:
        """As ``collection``: the shipment has looked up whether the name is of this model."""
        return self.collection

    def fill(self, records: list[Record]) -> None:
        """Take the records of a batch."""
        with self._turn:
            super().fill(records)


class _Noting:
    """A shipment, whose ids are noted."""

    def __init__(self, shipment: Shipment, waiting: set[str]) -> None:
        self._waiting = waiting
        self._shipment = shipment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shipment, name)

    def upsert(self, rows: list[dict[str, Any]]) -> None:
        """Take rows."""
        self._waiting.update(self._shipment.upsert(rows))
