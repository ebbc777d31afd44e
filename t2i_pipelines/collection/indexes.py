"""Which index a collection has at which size, and how deep it is searched.

Measured on 100,000 pictures as ``t2i_mini`` embeds them, for captions (``benchmarks/search_index.py``):
vectors of words lie beside those of pictures, not among them, and an index that is built for neighbours finds
them badly. HNSW with the usual ``ef`` of 64 has a recall@10 of 0.83, IVF that probes a tenth of its lists one
of 0.93. So all rows are compared where that is quick, and a graph is denser and searched deeper than usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2i_pipelines.search_options import MAX_LIMIT

AUTO = "AUTO"
"""Chosen by the number of rows, and again when that has grown. Not Milvus's AUTOINDEX."""

LITE = {"AUTOINDEX": -1, "FLAT": 0, "IVF_FLAT": 5_000, "IVF_SQ8": 1_000_000}
"""Of Milvus Lite, with the number of rows from which each is used. IVF has one list there and is FAISS's
exact comparison, in 32 or 8 bits a number; FLAT is done by NumPy and five times slower. AUTOINDEX, a graph,
is what earlier versions of this library made."""

SERVER = {"FLAT": 0, "HNSW": 100_000}
"""Of a server: up to there HNSW is not quicker, at the same recall."""

QUANTIZED = {"HNSW_SQ": 1_000_000}
"""From Milvus 2.5 on: 8 bits a number, 0.7 GB a million 512-d vectors in place of 2.3."""

GRAPH = {"M": 32, "efConstruction": 400}
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

    Never a smaller one, and never in place of one that is not on the ladder: somebody chose that.
    """
    wanted = choice(rows, steps)
    return wanted if steps.get(index_type, rows + 1) < steps[wanted] else None


def build_params(index_type: str, *, is_lite: bool) -> dict[str, Any]:
    """How the index is built."""
    params = {}
    if index_type.startswith("HNSW"):
        params = dict(GRAPH)
    elif index_type.startswith("IVF"):
        params = {"nlist": 1 if is_lite else 1024}
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
            return {"ef": LARGEST_EF if self.is_lite and filtered else 2 * rung}
        if self.index_type.startswith("IVF"):
            return {"nprobe": LARGEST_NPROBE if self.is_lite else 128}
        return {}


def depth(index_type: str, *, is_lite: bool) -> Depth:
    """How an index of this type is searched."""
    if index_type == "AUTOINDEX" and is_lite:
        index_type = "HNSW"  # what it is there
    exact = index_type == "FLAT" or (is_lite and index_type.startswith("IVF"))
    rungs = (2048, MAX_LIMIT) if exact else (512, 4096, MAX_LIMIT)
    return Depth(index_type, is_lite, rungs, exact)
