"""Where hits are, for people."""

from __future__ import annotations

import os

from t2i_pipelines.images.address import scheme


def name_of(path: str) -> str:
    """The last part of a path, of a URL, or of the name of a file in a tar; never empty."""
    if scheme(path) == "tar":
        path = path.partition("::")[0]
    elif scheme(path):
        path = path.partition("?")[0].partition("#")[0]
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def near(path: str) -> str:
    """The path as seen from the folder that this process works in, where that is shorter."""
    if "://" in path:
        return path
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path
