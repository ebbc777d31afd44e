"""Where images come from, and how they are read."""

from t2i_pipelines.images.address import is_remote, normal
from t2i_pipelines.images.decode import checked_array, decode, image_suffixes, pixels_of
from t2i_pipelines.images.files import digest, read
from t2i_pipelines.images.isolate import decode_isolated
from t2i_pipelines.images.record import brief
from t2i_pipelines.images.source import count, distinct_records, listed, path_key, records

__all__ = [
    "brief",
    "checked_array",
    "count",
    "decode",
    "decode_isolated",
    "digest",
    "distinct_records",
    "image_suffixes",
    "is_remote",
    "listed",
    "normal",
    "path_key",
    "pixels_of",
    "read",
    "records",
]
