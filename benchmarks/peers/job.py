"""What one process is to do, and what it measured. Both travel pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.inputs import Inputs
from benchmarks.peers.plan import Contender, Mode
from t2i_pipelines.types import Matrix

NO_VECTORS = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Job:
    """What one process is to do.

    :ivar mode: ``prepare`` measures nothing.
    :ivar baseline: bytes that are not the contender's memory; None for what the process has before the
        contender starts.
    """

    contender: Contender
    mode: Mode | Literal["prepare"]
    inputs: Inputs
    baseline: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What one process measured.

    :ivar speed: images a second.
    :ivar memory: bytes, the most that was in RAM while images were embedded, over the baseline.
    :ivar text_ms: milliseconds that each query took, one at a time.
    :ivar images: (N, D), the images' vectors: of mode ``insert`` those that Milvus Lite gives back.
    :ivar texts: (M, D), of ``inputs.QUERIES``.
    :ivar running: what the contender says it chose to run on.
    :ivar reason: why nothing was measured; empty if all is well.
    """

    speed: float = 0.0
    memory: int = 0
    text_ms: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    images: Matrix = field(default_factory=lambda: NO_VECTORS)
    texts: Matrix = field(default_factory=lambda: NO_VECTORS)
    running: str = ""
    reason: str = ""
