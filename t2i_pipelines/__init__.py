"""Towhee pipelines for text-to-image search: type words, get the matching pictures."""

from t2i_pipelines.bulk import insert_bulk
from t2i_pipelines.collection import close
from t2i_pipelines.copying import export_collection, import_collection
from t2i_pipelines.encoders import ModelInfo, models, recommend
from t2i_pipelines.errors import T2IError
from t2i_pipelines.hardening import harden
from t2i_pipelines.hit import Hit
from t2i_pipelines.pipelines import (
    build_insert_pipeline,
    build_search_pipeline,
    insert_steps,
    search_steps,
)
from t2i_pipelines.quantize import quantize
from t2i_pipelines.query import Img, Like, Q
from t2i_pipelines.report import InsertReport, retry
from t2i_pipelines.results import Hits
from t2i_pipelines.searcher import Searcher
from t2i_pipelines.syncing import sync

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
