"""Build the pipelines, search without one, and report what an insert did."""

from t2i_pipelines.pipelines.build import (
    OUTCOME_COLUMNS,
    build_insert_pipeline,
    build_search_pipeline,
    insert_steps,
    search_steps,
)
from t2i_pipelines.pipelines.report import InsertReport, retry
from t2i_pipelines.pipelines.searcher import Searcher

__all__ = [
    "OUTCOME_COLUMNS",
    "InsertReport",
    "Searcher",
    "build_insert_pipeline",
    "build_search_pipeline",
    "insert_steps",
    "retry",
    "search_steps",
]
