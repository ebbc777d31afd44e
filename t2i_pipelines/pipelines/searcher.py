"""Searching without a pipeline around it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast, overload

from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.collection.duplicates import Member
from t2i_pipelines.config.args import SearchArgs, SettingsArgs
from t2i_pipelines.config.settings import Model, Settings
from t2i_pipelines.errors import ConfigError, QueryError
from t2i_pipelines.operators.search import AS_STORED, MilvusFollow, SearchSteps
from t2i_pipelines.pipelines.build import search_arguments, shows_settings
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Query
from t2i_pipelines.types import Image, Vector

if TYPE_CHECKING:
    from PIL.Image import Image as Pillow

Asked: TypeAlias = "str | Query | os.PathLike[str] | bytes | Pillow | Image"
"""What can be searched for; see :mod:`t2i_pipelines.search.query`."""


Templates: TypeAlias = "str | Sequence[str] | None"

ALWAYS_SHOWN = ("model_name", "uri", "collection_name", "limit")
"""Settings that a searcher shows though they are the default."""


class Searcher:
    """Finds images: ``searcher("a white dog", limit=5)``. Thread-safe.

    It calls the operators of :func:`~t2i_pipelines.build_search_pipeline` itself, so it finds the same. Every
    searcher and pipeline of a process shares one model, one connection, and the texts embedded lately.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :ivar settings: those that it was made with; model, collection and decoding are written out.
    :raises ConfigError: If a setting is wrong; model and collection are opened by the first call.
    """

    settings: SettingsArgs

    @shows_settings
    def __init__(self, **settings: Unpack[SettingsArgs]) -> None:
        read, embed, find = search_arguments(settings)
        target = find["target"]
        model, decoding = asdict(target.part(Model)), asdict(read["decoding"])
        self.settings = cast("SettingsArgs", {**settings, **target.place, **model, **decoding})
        follows = target.model_name == AS_STORED
        self._follow = MilvusFollow(read, embed, find) if follows else None
        self._steps = SearchSteps(read, embed, find)

    def __repr__(self) -> str:
        """Model, database, collection and limit, then what else was chosen; never a token or password."""
        chosen = {**self.settings, "uri": str(parse_uri(self.settings["uri"]))}
        declared = {one.name: one for one in fields(Settings) if one.name != "token"}
        values = {name: chosen.get(name, declared[name].default) for name in declared}
        others = [name for name in declared if name not in ALWAYS_SHOWN]
        shown = [name for name in others if values[name] != declared[name].default]
        return f"<Searcher: {', '.join(f'{name}={values[name]!r}' for name in (*ALWAYS_SHOWN, *shown))}>"

    def now(self) -> Searcher:
        """Itself; with ``model_name="auto"`` one by the model that the collection is of at the moment.

        :raises CollectionNotFoundError: If there is no collection that would tell.
        """
        if self._follow is None:
            return self
        settings = {**self.settings, "model_name": self._follow.model_name()}
        return Searcher(**cast("SettingsArgs", settings))

    @property
    def collection(self) -> Collection:
        """The collection that is searched, by its real name; see :mod:`t2i_pipelines.collection.aliases`.

        :raises ModelMismatchError: If another model made it.
        """
        return self.now()._steps.milvus.answering()

    @overload
    def __call__(
        self, query: list[Asked], *, templates: Templates = None, **options: Unpack[SearchArgs]
    ) -> list[Hits]: ...
    @overload
    def __call__(
        self, query: Asked, *, templates: Templates = None, **options: Unpack[SearchArgs]
    ) -> Hits: ...
    def __call__(
        self, query: Asked | list[Asked], *, templates: Templates = None, **options: Unpack[SearchArgs]
    ) -> Hits | list[Hits]:
        """Return the hits of a query, best first; of a list of queries a list, by one encode and one search.

        ``[]`` where nothing is stored, be the collection empty or not there at all.

        :param templates: texts that each text is put into, in place of those of the searcher.
        :param options: in place of those that the searcher was made with; see
            :class:`~t2i_pipelines.config.SearchOptions`.
        :raises QueryError: If a query is nothing that can be searched for; see
            :mod:`t2i_pipelines.search.query`.
        :raises ConfigError: If an option is wrong.
        :raises ModelMismatchError: If another model made the collection.
        """
        if templates is not None:
            settings = {**self.settings, "templates": templates}
            return Searcher(**cast("SettingsArgs", settings))(query, **options)
        search = self._steps if self._follow is None else self._follow
        return cast("Hits | list[Hits]", search(query, self._steps.milvus.asked(options)))

    @overload
    def find(self, vector: list[Vector], query: Any = None, **options: Unpack[SearchArgs]) -> list[Hits]: ...
    @overload
    def find(self, vector: Vector, query: Any = None, **options: Unpack[SearchArgs]) -> Hits: ...
    def find(
        self, vector: Vector | list[Vector], query: Any = None, **options: Unpack[SearchArgs]
    ) -> Hits | list[Hits]:
        """Return the second half of a search.

        The hits of what :meth:`embed` made of ``query``; of a list a list.

        :param query: as for the call; without it hits have no relevance.
        :raises ConfigError: If an option is wrong.
        :raises ModelMismatchError: If another model made the collection.
        """
        self._check_named()
        return self._steps.milvus(vector, query, self._steps.milvus.asked(options))

    def iterate(
        self, query: Asked, *, batch_size: int = 1000, **options: Unpack[SearchArgs]
    ) -> Iterator[Hits]:
        """Return every hit of one query, best first, in lists of ``batch_size``, past Milvus's 16,384.

        :param batch_size: hits a list, 1 to 16,384.
        :param options: in place of those that the searcher was made with. A ``limit`` given here ends the
            iteration after that many hits.
        :raises QueryError: If the query is nothing that can be searched for, or a list.
        :raises ConfigError: If an option is wrong.
        :raises ModelMismatchError: If another model made the collection.
        """
        if isinstance(query, list):
            raise QueryError(f"iterate takes one query; got a list of {len(query)}")
        now = self.now()
        milvus = now._steps.milvus
        pages = milvus.iterate(now.embed(query), query, milvus.asked(options), batch_size)
        return pages if "limit" not in options else _first(pages, options["limit"])

    def duplicates(
        self, threshold: float | None = None, *, filter: str = "", where: Mapping[str, Any] | None = None
    ) -> list[list[Member]]:
        """Return groups of near copies among the stored images, of two and more, the largest first.

        Each has a cosine of at least ``threshold`` to another of its group; every two are compared.

        :param threshold: -1 to 1. Without it, one that fits model and images, see
            :func:`~t2i_pipelines.collection.duplicates.usual_threshold`.
        :param filter: with ``where``, which images; as for a search.
        :raises ConfigError: If one of them is wrong.
        """
        return self.collection.duplicates(threshold, filter=filter, where=where)

    @overload
    def embed(self, query: list[Asked]) -> list[Vector]: ...
    @overload
    def embed(self, query: Asked) -> Vector: ...
    def embed(self, query: Asked | list[Asked]) -> Vector | list[Vector]:
        """Return what is searched for: (D,) float32 of length 1; of a list of queries a list.

        :raises QueryError: If a query is nothing that can be searched for.
        """
        self._check_named()
        return cast("Vector | list[Vector]", self._steps.embed(query))

    def _check_named(self) -> None:
        if self._follow is not None:
            raise ConfigError(
                "model_name='auto' may be another model when the hits are found than when the query is "
                "embedded; let searcher.now() do both"
            )


def _first(pages: Iterator[Hits], limit: int) -> Iterator[Hits]:
    """Yield pages up to ``limit`` hits in all."""
    for page in pages:
        if limit <= len(page):
            yield page[:limit]
            return
        limit -= len(page)
        yield page
