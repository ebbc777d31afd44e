"""What crosses the borders between processes: a batch, with its place in the source."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from t2i_pipelines.errors import T2IError
from t2i_pipelines.types import Batch

COLUMN = "shipment"


@dataclass
class Shipment:
    """One row of a Ray dataset, and one block: Ray must not split or join what is identified by position.

    :ivar part: which part of the source it is from.
    :ivar start: how many records of that part came before it.
    :ivar batch: records, with pixels as (H, W, 3) uint8 from decoding to encoding, then with their vector.
    :ivar total: how many records the part has, in a last shipment without any; else None.
    :ivar stages: stage -> seconds for which a process was busy with it.
    :ivar skipped: what the source left out of the part, in its last shipment.
    :ivar error: ends the run; an error that is raised there would come as one of Ray's.
    """

    part: int
    start: int
    batch: Batch = field(default_factory=Batch)
    total: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
    skipped: list[tuple[tuple[str, str], int]] = field(default_factory=list)
    error: T2IError | None = None

    def count(self, stages: Mapping[str, float]) -> None:
        """Add seconds."""
        for stage, seconds in stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds


def packed(shipment: Shipment) -> Any:
    """A ``pyarrow.Table`` of one row with the pickled shipment."""
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([pickle.dumps(shipment, 5)], pa.large_binary())})


def unpacked(table: Any) -> Shipment:
    """What :func:`packed` made, read where Ray holds it."""
    (row,) = table[COLUMN]
    shipment: Shipment = pickle.loads(row.as_buffer())
    return shipment
