"""Where pictures come from, and how they are read."""

from t2i_pipelines.images.decode import decode, digest, read
from t2i_pipelines.images.source import SUFFIXES, records

__all__ = ["SUFFIXES", "decode", "digest", "read", "records"]
