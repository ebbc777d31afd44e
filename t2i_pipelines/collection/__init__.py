"""The store: one Milvus collection of images, on Milvus Lite or on a server, the same code.

::

    collection = open_collection(uri="milvus.db")
    collection.prepare(space)                  # writer: make it, or check that the model is the same
    collection.upsert(rows)
    collection.flush()                         # once a run
    collection.search(vectors, limit=10)       # N queries -> N lists of hits
    close()                                    # another process may open the file now
"""

from t2i_pipelines.collection.collection import (
    Collection,
    check_exists,
    close,
    collection_names,
    open_collection,
)
from t2i_pipelines.collection.rows import Ledger

__all__ = ["Collection", "Ledger", "check_exists", "close", "collection_names", "open_collection"]
