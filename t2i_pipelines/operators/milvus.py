"""Skip stored files, insert into Milvus, and search it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.collection.aliases import name_for
from t2i_pipelines.collection.rows import Ledger
from t2i_pipelines.config.args import SearchArgs
from t2i_pipelines.config.checks import check_known
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.settings import DEFAULT_MODEL, Target
from t2i_pipelines.encoders import load_encoder, load_space
from t2i_pipelines.errors import (
    ConfigError,
    ImageDecodeError,
    StoreError,
    VectorError,
)
from t2i_pipelines.images import digest, path_key
from t2i_pipelines.operators.base import ItemOperator, Operator
from t2i_pipelines.search.hits import Again, Hits, ManyHits
from t2i_pipelines.search.relevance import rate
from t2i_pipelines.types import (
    KEPT,
    Batch,
    Hit,
    Matrix,
    OnError,
    Record,
    Space,
    Stage,
    Vector,
    content_of,
)


class InCollection(Operator):
    """A collection, and the model that it belongs to.

    :param target: collection and model, checked already; in place of the other arguments, which are those of
        :class:`~t2i_pipelines.config.settings.Target`.
    """

    def __init__(
        self, *, target: Target | None = None, model_name: str = DEFAULT_MODEL, **settings: Any
    ) -> None:
        if target is not None and settings:
            raise ConfigError(f"give a target or settings, not both; got {', '.join(settings)} as well")
        self.target = Target.of(model_name=model_name, **settings) if target is None else target

    @cached_property
    def collection(self) -> Collection:
        """Opened by the first use in the process; equal settings share one."""
        return open_collection(**self.target.place)

    @property
    def space(self) -> Space:
        """The space of the model's vectors."""
        return load_space(*self.target.lookup)

    def answering(self, *, beside: bool = True) -> Collection:
        """Return the collection of the model, by its real name where it is asked for by an alias.

        So the alias may be moved to the collection of another model at any moment: vectors of this one are
        compared with vectors of this one, and who searches goes on. See :mod:`..collection.aliases`.

        :param beside: accept an earlier target of the alias, too. Only to read.
        :raises ModelMismatchError: If no target of the name is of this model.
        """
        name = name_for(self.collection, self.space, beside=beside)
        if name == self.collection.name:
            return self.collection
        return open_collection(**{**self.target.place, "collection_name": name})

    @contextmanager
    def looked_up(self, *, beside: bool = True) -> Iterator[Collection]:
        """Yield the collection of the model as :meth:`answering` does, looked up once for the block."""
        with self.collection.looked_up():
            collection = self.answering(beside=beside)
            with collection.looked_up():
                yield collection


class SkipUnchanged(InCollection):
    """``ops.t2i.skip_unchanged``: skip files that are stored and unchanged.

    A file counts as unchanged when size, time of change and metadata are those that are stored. Where
    these differ and the content does not, the stored vector is kept and the rest of the row renewed.
    Of a URL neither size nor time is known before it is fetched, so one that is stored counts as unchanged.

    :param refresh: skip nothing: compare the content, of URLs and files alike.
    """

    def __init__(self, *, refresh: bool = False, **place: Any) -> None:
        super().__init__(**place)
        self.refresh = refresh

    def __call__(self, batch: Batch) -> Batch:
        """Look a batch up, and end records whose rows are the same as ``unchanged``."""
        if pending := batch.pending:
            with batch.clock.busy("load"):
                space = self.space
            with batch.clock.busy("look up", pending):
                self._look_up(pending, space)
        return batch

    def _look_up(self, pending: list[Record], space: Space) -> None:
        with self.looked_up(beside=False) as collection:
            if not collection.verify(space):
                return
            ledger = collection.ledger([record.id for record in pending])
        for record in pending:
            if stored := ledger.get(record.id):
                record.stored_digest = stored.digest
                if not self.refresh and _is_same(record, stored):
                    record.status, record.content = "unchanged", None


def _is_same(record: Record, stored: Ledger) -> bool:
    """Return whether nothing needs to be read; bytes that came with the record are compared as well."""
    if (record.size, record.mtime) != (stored.size, stored.mtime):
        return False
    known = "" if record.content is None else digest(record.content)
    return stored.digest.startswith(known) and stored.digest.endswith(record.digest)


class MilvusInsert(InCollection, ItemOperator):
    """``ops.t2i.milvus_insert``: rows into the collection, which is made at the first insert.

    Takes a batch; a row or a list of rows (mappings with ``path``, ``vector``, and further columns); or
    two columns, paths and vectors. An ``id`` that is stored is replaced, so inserting twice changes nothing.
    """

    stage: ClassVar[Stage] = "insert"

    def __init__(self, *, on_error: OnError = "record", **place: Any) -> None:
        super().__init__(**place)
        self.on_error = on_error

    def __call__(self, data: Any, vector: Any = None) -> Any:
        """Insert; gives the batch back, or the id of each row."""
        if vector is None or isinstance(data, Batch):
            return super().__call__(data)
        if isinstance(data, list):
            return self.many([{"path": path, "vector": one} for path, one in zip(data, vector, strict=True)])
        return self.many([{"path": data, "vector": vector}])[0]

    def work(self, batch: Batch) -> None:
        """Insert the unfinished records, and settle those that wait for a vector."""
        with self.looked_up(beside=False) as collection:
            self.fill(batch.unfinished)
            for record in batch:
                if record.twins is not None:
                    record.twins.settle(record)
            if batch.last:
                collection.finish()

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N rows -> N ids.

        :raises ConfigError: If a row has no ``path`` or no ``vector``.
        :raises VectorError: If a vector does not fit the collection.
        """
        rows = [_row(item) for item in items]
        with self.looked_up(beside=False) as collection:
            collection.prepare(self.space)
            collection.upsert(rows)
        return [row["id"] for row in rows]

    def fill(self, records: list[Record]) -> None:
        """Insert the records of a batch, in one call where all are sound."""
        if not records:
            return
        with self.looked_up(beside=False) as collection:
            collection.prepare(self.space)
            for record in records:
                record.stage = "insert"
            _dedupe_batch(records)
            self._take_over([record for record in records if record.twin is not None], collection)
            sound = [record for record in records if record.status is None]
            try:
                collection.upsert([_row_of(record) for record in sound])
            except (VectorError, ConfigError):
                self._insert_singly(sound, collection)
        for record in sound:
            if record.status is None:
                record.finish()

    def _take_over(self, records: list[Record], collection: Collection) -> None:
        """Give each record the vector of its twin."""
        twins = [record.twin for record in records if record.twin is not None]
        wanted = [twin.id for twin in twins if twin.vector is None and twin.status != "failed"]
        stored = collection.rows(wanted, ["digest", "vector"]) if wanted else {}
        for record, twin in zip(records, twins, strict=True):
            row = stored.get(twin.id)
            if twin.vector is not None:
                record.vector = twin.vector
            elif twin.status == "failed":
                # the same bytes fail for the same reason
                reason = twin.reason.removesuffix(KEPT).replace(twin.path, record.path)
                record.stage = twin.stage
                self.reject(record, ImageDecodeError(reason))
            elif row is not None and content_of(row["digest"]) == content_of(record.digest):
                record.vector = np.asarray(row["vector"], np.float32)
            else:
                gone = f"cannot insert {record.path}: the row {twin.id!r} with the same bytes is gone"
                self.reject(record, StoreError(f"{gone}, another writer changed it; run it again"))

    def _insert_singly(self, records: list[Record], collection: Collection) -> None:
        for record in records:
            try:
                collection.upsert([_row_of(record)])
            except (VectorError, ConfigError) as err:
                self.reject(record, type(err)(f"cannot insert {record.path}: {err}"))


def _dedupe_batch(records: list[Record]) -> None:
    """Let the first of several with one content count as the one that was embedded.

    Which of those in a batch was, is chance: they are read at the same time.
    """
    place = {id(record): number for number, record in enumerate(records)}
    for number, record in enumerate(records):
        twin = record.twin
        if twin is not None and place.get(id(twin), -1) > number:
            record.vector, record.twin, twin.twin = twin.vector, None, record


def _row_of(record: Record) -> dict[str, Any]:
    return {
        **record.metadata,
        "id": record.id,
        "vector": record.vector,
        "path": record.path,
        "size": record.size,
        "mtime": record.mtime,
        "digest": record.digest,
    }


def _row(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping) or "path" not in item or "vector" not in item:
        raise ConfigError(f"a row is a mapping with a path and a vector; got {item!r:.80}")
    path = str(item["path"])
    return {"id": path_key(path), "size": -1, "mtime": -1, "digest": "", **item, "path": path}


OPTIONS = frozenset(one.name for one in fields(SearchOptions))


class MilvusSearch(InCollection):
    """``ops.t2i.milvus_search``: a vector, or a list of vectors -> hits, best first.

    :param rated: give hits their relevance, which is known for words without templates.
    :param options: which hits, checked already; in place of arguments of
        :class:`~t2i_pipelines.config.SearchOptions`.
    """

    def __init__(self, rated: bool = True, options: SearchOptions | None = None, **arguments: Any) -> None:
        self._rated = rated
        super().__init__(**{name: value for name, value in arguments.items() if name not in OPTIONS})
        given = {name: arguments[name] for name in OPTIONS & arguments.keys()}
        if options is not None and given:
            raise ConfigError(f"give options or settings, not both; got {', '.join(given)} as well")
        self.options = SearchOptions(**given) if options is None else options

    def asked(self, more: SearchArgs) -> SearchOptions:
        """Return the options with others in place of some.

        :raises ConfigError: If one is unknown or wrong.
        """
        if not more:
            return self.options
        check_known(SearchOptions, dict(more))
        return replace(self.options, **more)

    def __call__(
        self, vectors: Any, queries: Any = None, options: SearchOptions | None = None
    ) -> Hits | list[Hits]:
        """(D,) float32 -> hits; N vectors -> N lists of hits. ``[]`` where nothing is stored.

        :param queries: the query of each vector, for ``Hits.query``.
        :param options: in place of those of the operator.
        :raises ModelMismatchError: If another model made the collection.
        """
        if not len(vectors):
            return []
        matrix = np.atleast_2d(np.asarray(vectors, np.float32))
        asked = self.options if options is None else options
        if np.ndim(vectors) == 1:
            return self._find(matrix, [queries], asked)[0]
        return ManyHits(self._find(matrix, queries or [None] * len(matrix), asked))

    def iterate(
        self, vector: Vector, query: Any, options: SearchOptions, batch_size: int = 1000
    ) -> Iterator[Hits]:
        """(D,) float32 -> all hits, best first, in lists of ``batch_size``; see ``Collection.iterate``.

        :raises ModelMismatchError: If another model made the collection.
        :raises ConfigError: If an option is wrong.
        """
        collection = self.answering()
        there = collection.verify(self.space)
        pages = collection.iterate(vector, options, batch_size) if there else iter(())
        return self._pages(pages, vector, query, options, collection)

    def _pages(
        self,
        pages: Iterator[list[Hit]],
        vector: Vector,
        query: Any,
        options: SearchOptions,
        collection: Collection,
    ) -> Iterator[Hits]:
        for number, page in enumerate(pages):
            hits = Hits(page, query=query)
            if self._rated:
                rate([hits], vector[None], options, collection, lambda: load_encoder(*self.target.lookup))
            if number:
                hits.no_match = None  # the best hit is on the first page
            if hits:
                yield hits
            if len(hits) < len(page):  # of too little relevance, as all that follow
                return

    def _find(self, matrix: Matrix, queries: Sequence[Any], options: SearchOptions) -> list[Hits]:
        with self.looked_up() as collection:
            there = collection.verify(self.space)
            rows = collection.search(matrix, options) if there else [[] for _ in matrix]
            found = [
                Hits(hits, query=query, options=options, again=self._again(vector, query))
                for hits, query, vector in zip(rows, queries, matrix, strict=True)
            ]
            if self._rated:
                rate(found, matrix, options, collection, lambda: load_encoder(*self.target.lookup))
        return found

    def _again(self, vector: Vector, query: Any) -> Again:
        return lambda options: self._find(vector[None], [query], options)[0]
