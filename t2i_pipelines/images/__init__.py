"""Where pictures come from, and how they are read."""

from t2i_pipelines.images.decode import decode
from t2i_pipelines.images.read import digest, read
from t2i_pipelines.images.source import SUFFIXES, count, records

__all__ = ["SUFFIXES", "count", "decode", "digest", "read", "records"]
