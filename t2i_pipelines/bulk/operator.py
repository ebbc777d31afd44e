"""The last step of a bulk load: as ``milvus_insert``, but new rows go into files."""

from __future__ import annotations

import threading
from hashlib import blake2b
from typing import Any

from t2i_pipelines.bulk.shipment import Shipment
from t2i_pipelines.errors import StoreError
from t2i_pipelines.operators.milvus import MilvusInsert
from t2i_pipelines.types import Record


class BulkInsert(MilvusInsert):
    """Hands batches to a shipment, and remembers the ids that are on their way: an import replaces none.

    :ivar waiting: id -> digest of path and content, of rows in files; 250 bytes a row.
    """

    def __init__(self, shipment: Shipment, **settings: Any) -> None:
        super().__init__(**settings)
        self.waiting: dict[str, bytes] = {}
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

    def _unique(self, records: list[Record]) -> list[Record]:
        """End records whose id came up earlier in the run, as those of one batch."""
        for record in records:
            earlier = self.waiting.get(record.id)
            if earlier is None:
                continue
            if earlier == same(record.path, record.digest):
                record.status = "unchanged"
            else:
                taken = f"id {record.id!r} of {record.path} is already that of another picture of this run"
                self.reject(record, StoreError(f"{taken}; ids must be unique"))
        return super()._unique([record for record in records if record.status is None])


class _Noting:
    """A shipment, whose ids are noted."""

    def __init__(self, shipment: Shipment, waiting: dict[str, bytes]) -> None:
        self._waiting = waiting
        self._shipment = shipment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shipment, name)

    def upsert(self, rows: list[dict[str, Any]]) -> None:
        """Take rows."""
        by_id = {row["id"]: row for row in rows}
        for id in self._shipment.upsert(rows):
            self._waiting[id] = same(by_id[id]["path"], by_id[id]["digest"])


def same(path: str, digest: str) -> bytes:
    """Equal for two rows of the same picture."""
    return blake2b(f"{path}\0{digest}".encode(errors="surrogatepass"), digest_size=16).digest()
