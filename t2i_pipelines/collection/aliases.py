"""One name for several collections in turn, each for another model.

An alias stands for one collection, and the collection notes beside which others it stands, of the same
images for other models. Vectors of a model are searched for in the collection of that model alone, whatever
the alias stands for at that moment: who searches goes on undisturbed when it is moved, with the model that he
has. Milvus moves an alias at once; others notice within :data:`~.catalog.RECHECK` seconds.

The name of a collection can become an alias too: the collection is renamed. For some milliseconds there is
none of that name; processes that use this library have been given the new name before, and use that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from t2i_pipelines.collection import catalog, lite, schema
from t2i_pipelines.collection.catalog import BESIDE, LONGEST, RENAMED, Catalog, Entry, generation
from t2i_pipelines.collection.connection import SLOW
from t2i_pipelines.errors import CollectionNotFoundError, ModelMismatchError, StoreError
from t2i_pipelines.types import Space

if TYPE_CHECKING:
    from t2i_pipelines.collection.collection import Collection


def name_for(collection: Collection, space: Space, *, beside: bool = True) -> str:
    """Return the real name of the collection that holds vectors of ``space`` under this name.

    :param collection: by a name that may be an alias, or not be there: then its own name is the answer.
    :param beside: accept an earlier target of the alias, too. Only to read: few search there any more.
    :raises ModelMismatchError: If there is none for that model.
    """
    entry = collection.entry()
    if entry is None:
        return collection.name
    try:
        schema.check_same(entry.space, space, collection.where)
    except ModelMismatchError:
        for name in entry.beside if beside else ():
            if _is_for(collection, name, space):
                return name
        raise
    return entry.real_name


def space_of(collection: Collection) -> Space | None:
    """Return the space of the latest alias target, None without collection."""
    entry = collection.entry()
    return entry.space if entry is not None else None


def entry_of(collection: Collection) -> Entry | None:
    """Return the alias target from the database. Complete a renaming that was interrupted.

    :raises StoreError: If the database does not answer.
    """
    collection.catalog.forget()
    entry = collection.entry()
    # a renaming that was cut short is found by its new name only
    if (entry is None or entry.real_name != collection.name) and _end_renaming(collection):
        collection.catalog.forget()
        entry = collection.entry()
    return entry


def make_alias(collection: Collection) -> str:
    """Make the name of a collection an alias for it; gives its real name. Of an alias, does nothing.

    Takes :data:`~.catalog.RECHECK` seconds on a server, while other processes learn the new name. Their
    searches continue.

    :raises CollectionNotFoundError: If there is none of that name.
    :raises StoreError: If the database refuses.
    """
    if (entry := entry_of(collection)) is None:
        raise CollectionNotFoundError(f"there is no {collection.where}")
    if entry.real_name != collection.name:
        return entry.real_name
    real_name = generation(collection.name, entry.space)
    if _ask(collection, "has_collection", real_name):
        raise StoreError(
            f"{collection.where} would be called {real_name!r}, which is there already; drop that one"
        )
    collection.write("alter_collection_properties", properties={RENAMED: real_name})
    wait_for_others(collection)
    connection = collection.connection
    connection.renamed[collection.name] = real_name
    with connection.kept_open(), connection.loading, connection.writing(collection.catalog.timeout):
        _ask(collection, "rename_collection", collection.name, real_name)
        _ask(collection, "create_alias", real_name, collection.name)
        _ask(collection, "load_collection", real_name)
        collection.catalog.forget()
    wait_for_others(collection)
    return real_name


def move(collection: Collection, real_name: str) -> None:
    """Switch the alias to another collection, and note each in the other."""
    entry = entry_of(collection)
    assert entry is not None
    _note_beside(collection, real_name, [entry.real_name, *entry.beside])
    _note_beside(collection, entry.real_name, [real_name, *entry.beside])
    with collection.connection.writing(collection.catalog.timeout):
        _ask(collection, "alter_alias", real_name, collection.name)
    collection.catalog.forget()


def wait_for_others(collection: Collection) -> None:
    """Until all who use this library have seen the last change of names. A local database has no others."""
    if collection.connection.address.is_shared:
        time.sleep(catalog.RECHECK + 1)


@contextmanager
def newest(collection: Collection) -> Iterator[None]:
    """Let reads within the block see what other processes have written, too."""
    collection.entry()  # looks its real name up
    name, deletions = collection.catalog.real_name, collection.connection.deletions
    deletions[name] = math.inf
    try:
        yield
    finally:
        deletions[name] = time.monotonic()


def _note_beside(collection: Collection, real_name: str, names: list[str]) -> None:
    others = ",".join(name for name in dict.fromkeys(names) if name != real_name)
    with collection.connection.writing(collection.catalog.timeout):
        _ask(collection, "alter_collection_properties", real_name, properties={BESIDE: others})
    collection.connection.entries.pop(real_name, None)


def _is_for(collection: Collection, name: str, space: Space) -> bool:
    entry = Catalog(collection.connection, name, collection.catalog.timeout).ready()
    if entry is None:
        return False
    with suppress(ModelMismatchError):
        schema.check_same(entry.space, space, collection.where)
        return True
    return False


def _end_renaming(collection: Collection) -> bool:
    """Make the alias where a collection lost this name to one that was not made; return whether it was."""
    path = collection.connection.address.path
    if path is not None and not lite.exists(path):
        return False
    with suppress(CollectionNotFoundError):
        _ask(collection, "describe_collection", collection.name)
        return False
    for name in _ask(collection, "list_collections"):
        if not name.startswith(f"{collection.name[: LONGEST - 13]}_"):
            continue
        with suppress(CollectionNotFoundError, StoreError):
            found = _ask(collection, "describe_collection", name)
            space = schema.read_space(found, "")
            noted = (found.get("properties") or {}).get(RENAMED)
            if noted == name == generation(collection.name, space):
                _ask(collection, "create_alias", name, collection.name)
                return True
    return False


def _ask(collection: Collection, method: str, *arguments: str, **more: Any) -> Any:
    doing = " ".join([method, *arguments])
    return collection.connection.call(method, *arguments, doing=doing, timeout=SLOW, **more)
