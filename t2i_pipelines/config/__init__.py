"""Declare and check settings."""

from t2i_pipelines.config.search import SearchArgs, SearchOptions
from t2i_pipelines.config.settings import DEFAULT_MODEL, Decoding, Settings, SettingsArgs
from t2i_pipelines.config.storage import Storage, StorageArgs

__all__ = [
    "DEFAULT_MODEL",
    "Decoding",
    "SearchArgs",
    "SearchOptions",
    "Settings",
    "SettingsArgs",
    "Storage",
    "StorageArgs",
]
