"""What other processes write."""

from __future__ import annotations

import time

from t2i_pipelines.collection.collection import Collection


def written_elsewhere(collection: Collection) -> None:
    """Let reads of the next seconds see what other processes have stored: they ask for the newest state.

    A server tells a process the time of that process's own writes only.
    """
    collection._connection.deletions[collection.name] = time.monotonic()
