"""Small texts that are kept with a collection, beside its rows: neither counted nor found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2i_pipelines.errors import CollectionNotFoundError

if TYPE_CHECKING:
    from t2i_pipelines.collection.collection import Collection


def state(collection: Collection) -> object:
    """Return the state of the collection for :func:`is_same`, None if there is no collection."""
    return collection._entry()


def is_same(collection: Collection, before: object, now: object) -> bool:
    """Whether the collection was not dropped and made again between two states; nor closed, if it is local.

    A local one looks the same after that, but is looked up only after that.
    """
    is_local = collection._connection.address.path is not None
    return before is now if is_local else before == now


def read_note(collection: Collection, name: str) -> str | None:
    """A text that was kept; None without it, or without collection.

    :raises StoreError: If the database does not answer.
    """
    if collection._entry() is None:
        return None
    try:
        found = collection._call("describe_collection")
    except CollectionNotFoundError:  # dropped meanwhile, from elsewhere
        return None
    text = (found.get("properties") or {}).get(name)
    return None if text is None else str(text)


def write_note(collection: Collection, name: str, text: str) -> None:
    """Keep a text with the collection, in its properties; in place of one of that name.

    :raises StoreError: If the database refuses, for want of the right to change a collection for one.
    """
    collection._write("alter_collection_properties", properties={name: text})
