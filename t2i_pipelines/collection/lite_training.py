"""Keeps FAISS from warning, on standard error, that a small segment of Milvus Lite has few rows to train on.

An index of one list learns nothing from them anyway: it is the exact comparison.
"""

from __future__ import annotations

from typing import Any


class _Faiss:
    """The module ``faiss``, whose IVF indexes need one row only."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name not in ("IndexIVFFlat", "IndexIVFScalarQuantizer"):
            return found

        def make(*arguments: Any) -> Any:
            index = found(*arguments)
            index.cp.min_points_per_centroid = 1
            return index

        return make


def quieten() -> None:
    """Do so for the whole process, once."""
    from milvus_lite.index import faiss_ivf_flat, faiss_ivf_sq8

    for module in (faiss_ivf_flat, faiss_ivf_sq8):
        if not isinstance(module.faiss, _Faiss):
            module.faiss = _Faiss(module.faiss)
