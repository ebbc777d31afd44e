"""The store: one Milvus collection of images, on Milvus Lite or on a server, the same code.

::

    collection = open_collection(uri="milvus.db")
    collection.prepare(space)                  # writer: make it, or check that the model is the same
    collection.upsert(rows)
    collection.flush()                         # once a run
    collection.search(vectors, limit=10)       # N queries -> N lists of hits
    close()                                    # another process may open the file now
"""

from __future__ import annotations

import os
from typing import Unpack
from weakref import WeakValueDictionary

from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines.collection import lite
from t2i_pipelines.collection.collection import Collection
from t2i_pipelines.collection.connection import Address, connection_to, parse_uri
from t2i_pipelines.collection.rows import Ledger
from t2i_pipelines.collection.schema import check_index_type, check_name
from t2i_pipelines.config.args import StorageArgs
from t2i_pipelines.config.storage import Storage, check_supported
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError

__all__ = ["Collection", "Ledger", "check_exists", "close", "collection_names", "open_collection"]

_lock = Lock()
_opened: WeakValueDictionary[tuple[object, ...], Collection] = WeakValueDictionary()
"""Collections that are open, or that something refers to."""


def open_collection(
    uri: str | os.PathLike[str] = "milvus.db",
    token: str = "",
    collection_name: str = "image_collection",
    timeout: float = 30.0,
    **stored: Unpack[StorageArgs],
) -> Collection:
    """Return the collection of these settings: equal settings, the same object. Open nothing yet.

    :param uri: a file that ends in ``.db`` (Milvus Lite), or a server such as
        ``http://localhost:19530``. In tests also ``memory://NAME``: see :mod:`t2i_pipelines.testing`.
    :param token: ``user:password`` or an API key; Milvus Lite needs none.
    :param timeout: seconds that one call to the server may take.
    :param stored: used when the collection is made: ``index_type``, ``vector_type``, ``mmap``,
        ``partition_key``, ``replica_number``; see :class:`~t2i_pipelines.config.Storage`. A server is asked
        whether it knows them only then.
    :raises ConfigError: If one of them cannot work.
    """
    address = parse_uri(uri)
    check_name(collection_name)
    storage = Storage.of(**stored)
    check_index_type(storage.index_type, local=address.path is not None)
    if address.path is not None:
        check_supported(storage, None, str(address))
    if not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise ConfigError(f"timeout must be a number of seconds above 0, got {timeout!r}")
    key = (address.uri, token, collection_name, float(timeout), storage)
    with _lock:
        collection = _opened.get(key)
        if collection is None:
            collection = _opened[key] = Collection(
                connection_to(address, token),
                collection_name=collection_name,
                timeout=float(timeout),
                storage=storage,
            )
        return collection


def collection_names(uri: str | os.PathLike[str] = "milvus.db", token: str = "") -> list[str]:
    """Return the names of the collections of a database, sorted.

    :raises CollectionNotFoundError: If a local database is not there.
    :raises StoreError: If the database does not answer.
    """
    address = parse_uri(uri)
    check_database(address)
    found = connection_to(address, token).call("list_collections", doing="listing collections", timeout=30.0)
    return sorted(found)


def check_database(address: Address) -> None:
    """Refuse a local database that is not there.

    :raises CollectionNotFoundError: With the command that makes one.
    """
    if address.path is not None and not lite.exists(address.path):
        raise CollectionNotFoundError(
            f"there is no database {address}; insert images first: t2i insert FOLDER --uri {address}"
        )


def check_exists(
    uri: str | os.PathLike[str] = "milvus.db", token: str = "", collection_name: str = "image_collection"
) -> None:
    """Refuse a collection that is not there.

    :raises CollectionNotFoundError: Says whether the database or the collection is missing, and which
        collections there are.
    """
    if open_collection(uri, token, collection_name).space() is not None:
        return
    address = parse_uri(uri)
    names = ", ".join(collection_names(uri, token)) or "none"
    raise CollectionNotFoundError(
        f"there is no collection {collection_name!r} at {address}; its collections: {names} "
        "(collection_name, --collection-name)"
    )


def close(uri: str | os.PathLike[str] | None = None) -> None:
    """Close every collection, or those at ``uri``. They open again when they are used again.

    A Milvus Lite database is released: another process may open it right after.
    """
    wanted = None if uri is None else parse_uri(uri).uri
    with _lock:
        chosen = [c for key, c in list(_opened.items()) if wanted is None or key[0] == wanted]
    for collection in chosen:
        collection.close()
