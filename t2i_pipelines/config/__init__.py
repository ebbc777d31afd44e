"""Declare and check settings."""

from t2i_pipelines.config.args import SearchArgs, SettingsArgs, StorageArgs
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.settings import DEFAULT_MODEL, Decoding, Settings
from t2i_pipelines.config.storage import Storage

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
