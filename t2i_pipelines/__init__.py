"""Towhee pipelines for text-to-image search: type words, get the matching images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.collection import close
from t2i_pipelines.encoders import ModelInfo, models, recommend
from t2i_pipelines.errors import T2IError
from t2i_pipelines.pipelines.build import (
    build_insert_pipeline,
    build_search_pipeline,
    insert_steps,
    search_steps,
)
from t2i_pipelines.pipelines.report import InsertReport, retry
from t2i_pipelines.pipelines.searcher import Searcher
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Img, Like, Q
from t2i_pipelines.types import Hit

if TYPE_CHECKING:
    from t2i_pipelines.encoders.quantize import quantize
    from t2i_pipelines.jobs.backup import export_collection, import_collection
    from t2i_pipelines.jobs.bulk import insert_bulk
    from t2i_pipelines.jobs.sync import sync

__version__ = "0.1.0"

__all__ = [
    "Hit",
    "Hits",
    "Img",
    "InsertReport",
    "Like",
    "ModelInfo",
    "Q",
    "Searcher",
    "T2IError",
    "build_insert_pipeline",
    "build_search_pipeline",
    "close",
    "export_collection",
    "harden",
    "import_collection",
    "insert_bulk",
    "insert_steps",
    "models",
    "quantize",
    "recommend",
    "retry",
    "search_steps",
    "sync",
]

_ON_DEMAND = {
    "export_collection": "jobs.backup",
    "import_collection": "jobs.backup",
    "insert_bulk": "jobs.bulk",
    "quantize": "encoders.quantize",
    "sync": "jobs.sync",
}
"""Functions whose modules are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name == "jobs":
        return import_module(f"{__name__}.jobs")
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
