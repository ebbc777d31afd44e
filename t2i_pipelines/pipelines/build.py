"""Build the insert and search pipelines.

::

    insert   source -> read_source -> skip_unchanged -> prefetch -> image_decode
                                                     -> clip -> normalize -> milvus_insert
    search   query -> read_query --------------------> clip -> normalize -> milvus_search
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar, Unpack

from t2i_pipelines import operators  # noqa: F401
from t2i_pipelines._towhee.door import Pipeline, RuntimePipeline, ops, pipe, register_pipeline
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.settings import DEFAULT_MODEL, Decoding, Settings, Target
from t2i_pipelines.encoders import load_encoder, model_of
from t2i_pipelines.errors import ConfigError, StoreTimeoutError, StoreUnavailableError
from t2i_pipelines.operators.search import AS_STORED
from t2i_pipelines.types import Outcome, Pace

OUTCOME_COLUMNS = ("path", "id", "status", "reason")

_Build = TypeVar("_Build", bound=Callable[..., Any])


def shows_settings(build: _Build) -> _Build:
    """Let ``help()`` and editors show each setting and its default, in place of ``**settings``."""
    declared = signature(build)
    own = [one for one in declared.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    settings = [
        Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(Settings)
    ]
    build.__signature__ = declared.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return build


@shows_settings
def build_insert_pipeline(**settings: Unpack[SettingsArgs]) -> RuntimePipeline:
    """Build the pipeline that inserts images: ``insert(source)``.

    A source is a folder (searched recursively), a glob, a table (CSV, TSV, JSON lines, Parquet) with a
    ``path`` or ``url`` column, WebDataset tars, a URL, or a list of paths, URLs or rows; see
    :func:`t2i_pipelines.images.records`. The result has one row an input, ``(path, id, status, reason)``;
    status is ``inserted``, ``updated``, ``unchanged`` or ``failed``. Running it twice changes nothing.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises ConfigError: If a setting is wrong; models and collections are opened by the first call.
    """
    return harden(insert_steps(pipe.input("source"), **settings).output(*OUTCOME_COLUMNS))


@shows_settings
def build_search_pipeline(**settings: Unpack[SettingsArgs]) -> RuntimePipeline:
    """Build the pipeline that finds images: ``search("a white dog").get()``.

    A query is words (a str), an image (a ``Path``, bytes, a PIL image or a uint8 array), the ``Like(id)`` of
    a stored one, or a sum of these; see :mod:`t2i_pipelines.search.query`. The result is ``[query, hits]``,
    hits best first, ``[]`` where nothing is stored. A list of queries is embedded and searched at once and
    gives a list of lists. :class:`t2i_pipelines.Searcher` is the same without Towhee's pipeline around it.

    ``model_name="auto"`` is the model of the collection, looked up for each query: it follows a name
    that :func:`~t2i_pipelines.jobs.reembed.reembed` moves to the collection of another model.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises ConfigError: If a setting is wrong; models and collections are opened by the first call.
    """
    return harden(search_steps(pipe.input("query"), **settings).output("query", "hits"))


@shows_settings
def insert_steps(p: Pipeline, *, source: str = "source", **settings: Unpack[SettingsArgs]) -> Pipeline:
    """Append the steps of inserting to a pipeline of your own.

    :param p: a pipeline that is not closed yet, after ``pipe.input(...)``.
    :param source: the column that holds the source.
    :return: the pipeline, with columns ``path``, ``id``, ``status`` and ``reason``, one row an input. Close
        it by ``harden(....output(...))``.
    """
    return _outcome_steps(p, insert_arguments(*checked(settings)), source)


def run_insert(
    source: object,
    given: dict[str, dict[str, Any]],
    tell: Callable[[Outcome], object],
    pace: Pace = nullcontext,
) -> None:
    """Insert a source, and call ``tell`` with each outcome as soon as it is known.

    :param given: see :func:`insert_arguments`.
    :param pace: gives a context manager that each step works within on each batch; it may wait, so that
        others have the processor meanwhile.
    """
    # lambdas, since Towhee deep-copies any other callable with all that it holds
    given = {**given, "read_source": {**given["read_source"], "pace": lambda: pace()}}
    steps = _outcome_steps(pipe.input("source"), given, "source")
    harden(steps.map(OUTCOME_COLUMNS, (), lambda *row: tell(Outcome(*row))).output())(source)


def _outcome_steps(p: Pipeline, given: dict[str, dict[str, Any]], source: str) -> Pipeline:
    return (
        vector_steps(p, given, source=source)
        .map("batch", "batch", ops.t2i.milvus_insert(**given["milvus_insert"]))
        .flat_map("batch", OUTCOME_COLUMNS, ops.t2i.outcomes())
    )


def vector_steps(p: Pipeline, given: dict[str, dict[str, Any]], *, source: str = "source") -> Pipeline:
    """Return the steps of inserting up to the vectors, into the column ``batch``.

    See :func:`insert_arguments`.
    """
    return (
        p.flat_map(source, "batch", ops.t2i.read_source(**given["read_source"]))
        .map("batch", "batch", ops.t2i.skip_unchanged(**given["skip_unchanged"]))
        .map("batch", "batch", ops.t2i.prefetch(**given["prefetch"]))
        .map("batch", "batch", ops.t2i.image_decode(**given["image_decode"]))
        .map("batch", "batch", ops.t2i.clip(**given["clip"]))
        .map("batch", "batch", ops.t2i.normalize(**given["normalize"]))
    )


@shows_settings
def search_steps(
    p: Pipeline,
    *,
    query: str = "query",
    vector: str = "query_vec",
    hits: str = "hits",
    **settings: Unpack[SettingsArgs],
) -> Pipeline:
    """Append the steps of searching to a pipeline of your own.

    :param p: a pipeline that is not closed yet, after ``pipe.input(...)``.
    :param query: the column that holds what is searched for.
    :param vector: the column that gets its vector, (D,) float32 of length 1; not with ``model_name="auto"``.
    :param hits: the column that gets the list of hits.
    :return: the pipeline, with the column ``hits``. Close it by ``harden(....output(...))``.
    """
    if vector in (query, hits):
        raise ConfigError(f"vector={vector!r} is the column of the query or of the hits; name another one")
    read, embed, find = search_arguments(settings)
    if find["target"].model_name == AS_STORED:
        return p.map(query, hits, ops.t2i.milvus_follow(read=read, embed=embed, find=find))
    return (
        p.map(query, vector, ops.t2i.read_query(**read))
        .map(vector, vector, ops.t2i.clip(**embed))
        .map(vector, vector, ops.t2i.normalize())
        .map((vector, query), hits, ops.t2i.milvus_search(**find))
    )


def insert_arguments(target: Target, chosen: Settings) -> dict[str, dict[str, Any]]:
    """Return the arguments of each operator of inserting, by its name, in order, from :func:`checked`."""
    on_error = {"on_error": chosen.on_error}
    return {
        "read_source": {"batch_size": chosen.batch_size, "exclude": tuple(chosen.exclude), **on_error},
        "skip_unchanged": {"target": target, "refresh": chosen.refresh},
        "prefetch": {},
        "image_decode": {"model": target, "decoding": chosen.part(Decoding), **on_error},
        "clip": {"model": target, "modality": "image", **on_error},
        "normalize": on_error,
        "milvus_insert": {"target": target, **on_error},
    }


def search_arguments(settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what ``read_query``, ``clip`` and ``milvus_search`` are made with; refuses what is wrong."""
    target, chosen = checked(settings, follows=True)
    return (
        {"target": target, "decoding": chosen.part(Decoding)},
        {"model": target, "modality": "text", "templates": chosen.templates},
        {"target": target, "options": chosen.part(SearchOptions), "rated": not chosen.templates},
    )


def checked(settings: Any, *, follows: bool = False) -> tuple[Target, Settings]:
    """Check the settings, and find the model. Return what the operators share, and all settings.

    Paths are made absolute, so that a later change of folder moves neither database nor model.

    :param follows: the model may be that of the collection, whatever it is at the moment.
    """
    chosen = Settings.of(**settings)
    checkpoint = chosen.checkpoint_path
    path = None if checkpoint is None else str(Path(checkpoint).expanduser().absolute())
    target = replace(chosen.part(Target), uri=parse_uri(chosen.uri).uri, checkpoint_path=path)
    collection = open_collection(**target.place)
    if chosen.model_name is None:
        name, path = _stored_model(collection, path)
        target = replace(target, model_name=name, checkpoint_path=path)
    if target.model_name != AS_STORED:
        load_encoder(*target.lookup)
    elif not follows:
        raise ConfigError(
            f"model_name {AS_STORED!r} is for searches that follow a swap; here, name the model, or leave it "
            "out to take that of the collection"
        )
    return target, chosen


def _stored_model(collection: Collection, checkpoint_path: str | None) -> tuple[str, str | None]:
    """Return the model of a collection, else the default; the first call tells of a Milvus that is away.

    :raises StoreError: If the database cannot be opened for another reason, as by a process that has it.
    """
    try:
        space = collection.space()
    except (StoreUnavailableError, StoreTimeoutError):
        space = None
    return (DEFAULT_MODEL, checkpoint_path) if space is None else model_of(space, checkpoint_path)


def _built_from_config(build: Callable[..., RuntimePipeline]) -> Callable[..., RuntimePipeline]:
    """Let ``AutoPipes.pipeline(name, config=...)`` build: from a :class:`Settings`, a mapping, or nothing."""

    def build_from(config: Settings | dict[str, Any] | None = None) -> RuntimePipeline:
        chosen = replace(config) if isinstance(config, Settings) else Settings.of(**(config or {}))
        return build(**asdict(chosen))

    return build_from


register_pipeline("text_image_insert", Settings, _built_from_config(build_insert_pipeline))
register_pipeline("text_image_search", Settings, _built_from_config(build_search_pipeline))
