"""Which index a collection has at which size, and how deep it is searched.

Measured on 100,000 images as ``t2i_mini`` embeds them, for captions (``benchmarks/search_index.py``):
vectors of words lie beside those of images, not among them, and an index that is built for neighbours finds
them badly. HNSW with the usual ``ef`` of 64 has a recall@10 of 0.83, IVF that probes a tenth of its lists one
of 0.93. So all rows are compared where that is quick, and a graph is denser and searched deeper than usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2i_pipelines.config.search import MAX_LIMIT

LITE = {"AUTOINDEX": -1, "FLAT": 0, "IVF_FLAT": 5_000}
"""Of Milvus Lite, with the number of rows from which each is used. IVF has one list there and is FAISS's
exact comparison; FLAT is done by NumPy and five times slower. In 8 bits a number (IVF_SQ8) it misses more
than one in a hundred. AUTOINDEX, a graph, is what earlier versions of this library made."""

SERVER = {"FLAT": 0, "HNSW": 100_000}
"""Of a server: up to there HNSW is not quicker, at the same recall."""

QUANTIZED = {"HNSW_SQ": 1_000_000}
"""From Milvus 2.5 on: a graph over 8 bits a number, and the best of what it finds compared in 16."""

GRAPH = {"M": 32, "efConstruction": 400}
REFINED = {"sq_type": "SQ8", "refine": True, "refine_type": "FP16"}
"""8 bits alone miss more than one in a hundred of the best ten."""
REFINE_K = 2
RABITQ_REFINE_K = 4
"""Of one bit a number: Milvus's page of IVF_RABITQ tells to try 1 to 5."""
LARGEST_EF, LARGEST_NPROBE = 32768, 65536


def ladder(*, is_lite: bool, version: tuple[int, int]) -> Mapping[str, int]:
    """Index types, each with the number of rows from which it is used, rising."""
    if is_lite:
        return LITE
    return SERVER | QUANTIZED if version >= (2, 5) else SERVER


def choice(rows: int, steps: Mapping[str, int]) -> str:
    """The index type for that many rows."""
    return [index_type for index_type, start in steps.items() if rows >= start][-1]


def outgrown(index_type: str, rows: int, steps: Mapping[str, int]) -> str | None:
    """The index type that should take this one's place, None if it may stay.

    Never a smaller one, and never in place of one that is not on the ladder: that was chosen explicitly.
    """
    wanted = choice(rows, steps)
    return wanted if steps.get(index_type, rows + 1) < steps[wanted] else None


def build_params(index_type: str, *, is_lite: bool) -> dict[str, Any]:
    """How the index is built."""
    params: dict[str, Any] = {}
    if index_type == "HNSW_SQ" and not is_lite:
        params = GRAPH | REFINED
    elif index_type.startswith("HNSW"):
        params = dict(GRAPH)
    elif index_type.startswith("IVF"):
        params = {"nlist": 1 if is_lite else 1024}
        if index_type == "IVF_RABITQ":
            params |= {"refine": True, "refine_type": "SQ8"}
    # Milvus Lite overlooks parameters unless they are in a field of their own
    return {"params": params} if is_lite and params else params


@dataclass(frozen=True)
class Depth:
    """How an index of some type is searched.

    :ivar rungs: numbers of hits that it is asked for; see
        :class:`~t2i_pipelines.collection.ranking.Rankings`.
    :ivar exact: it misses no row.
    """

    index_type: str
    is_lite: bool
    rungs: tuple[int, ...]
    exact: bool

    def params(self, rung: int, *, filtered: bool) -> dict[str, int]:
        """Milvus's search parameters for a rung.

        :param filtered: rows are left out. Milvus Lite walks the graph over them as over all others, and
            finds the fewer the more are left out; a server compares all that are left if they are few.
        """
        if self.index_type.startswith("HNSW"):
            refined = {"refine_k": REFINE_K} if self.index_type == "HNSW_SQ" and not self.is_lite else {}
            return {"ef": LARGEST_EF if self.is_lite and filtered else 2 * rung} | refined
        if self.index_type.startswith("IVF"):
            refined = {"refine_k": RABITQ_REFINE_K} if self.index_type == "IVF_RABITQ" else {}
            return {"nprobe": LARGEST_NPROBE if self.is_lite else 128} | refined
        if self.index_type == "DISKANN":
            return {"search_list": 2 * rung}
        return {}


def depth(index_type: str, *, is_lite: bool) -> Depth:
    """How an index of this type is searched."""
    if index_type == "AUTOINDEX" and is_lite:
        index_type = "HNSW"  # what it is there
    exact = index_type == "FLAT" or (is_lite and index_type.startswith("IVF"))
    rungs = (2048, MAX_LIMIT) if exact else (512, 4096, MAX_LIMIT)
    return Depth(index_type, is_lite, rungs, exact)
