"""Know models by name, and keep those of a process loaded that were used last."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cachetools import LRUCache

from t2i_pipelines._towhee.locks import Lock, in_forked_child
from t2i_pipelines.encoders.models import PATHS, SUFFIXES, ModelInfo, bare, find, models
from t2i_pipelines.encoders.vectors import CachedTexts
from t2i_pipelines.errors import CheckpointError, UnknownModelError
from t2i_pipelines.types import Backend, Compute, Device, Encoder, Precision, Space

EncoderFactory: TypeAlias = Callable[[str | None, Compute], Encoder]
"""(checkpoint_path, compute) -> encoder. Cheap: weights are read when they are first used."""


class Loaded(NamedTuple):
    """A model in this process.

    :ivar encoder: the model.
    :ivar texts: its texts to vectors, the latest of which are remembered.
    """

    encoder: Encoder
    texts: CachedTexts


_factories: dict[str, EncoderFactory] = {}
LOADED_AT_MOST = 4
"""Models that stay loaded without a pipeline that uses them: those that were used last."""

_loaded: MutableMapping[tuple[str, str | None, Compute], Loaded] = LRUCache(LOADED_AT_MOST)
_inherited: list[Loaded] = []
"""The parent's models, in a forked child. Kept there: destroying one waits for threads that are gone."""
_lock = Lock()


def _leave_to_parent() -> None:
    _inherited.extend(_loaded.values())
    _loaded.clear()


in_forked_child(_leave_to_parent)


def register_encoder(model_name: str, factory: EncoderFactory) -> None:
    """Make a model known by name; a later registration takes the place of an earlier one.

    :param factory: called once per checkpoint and way to compute; the encoder it returns must be thread-safe.
    """
    with _lock:
        _factories[model_name] = factory
        _unload(model_name)


def unload(model_name: str | None = None) -> None:
    """Free the memory of a model, or of all; the next use loads it again.

    A pipeline that is running keeps its model until it ends.

    :param model_name: as it was given to a pipeline.
    """
    with _lock:
        _unload(None if model_name is None else _canonical(model_name))


def _unload(name: str | None) -> None:
    for key in [key for key in _loaded if name in (None, key[0])]:
        del _loaded[key]


def registered(model_name: str) -> EncoderFactory | None:
    """Return what was registered under a name, or under what that is an alias of; None if nothing was."""
    return _factories.get(_canonical(model_name))


def known_models() -> list[str]:
    """Names that ``model_name`` takes, sorted, without aliases."""
    return sorted({*_factories, *(info.name for info in models())})


def load_encoder(
    model_name: str,
    checkpoint_path: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
) -> Encoder:
    """Return the encoder of a model; the same object each time.

    :param model_name: a registered name; a name of :func:`models` in any spelling of open_clip, Immich,
        OpenAI or the hub; any repository of the hub, ``org/name``; or the path of a model.
    :param checkpoint_path: the model's file or folder, in place of those of the name.
    :param device: with ``precision`` and ``backend``, see :class:`~t2i_pipelines.types.Compute`.
    :raises UnknownModelError: If the name is unknown and no path; the message lists the known.
    :raises CheckpointError: If the model's files are missing; damage shows when they are first used.
    """
    return load(model_name, checkpoint_path, device, precision, backend).encoder


def load(
    model_name: str,
    checkpoint_path: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
) -> Loaded:
    """As :func:`load_encoder`, with the texts that the model has embedded lately."""
    place = None if checkpoint_path is None else _absolute(checkpoint_path)
    name = _canonical(model_name)
    compute = Compute(device, precision, backend)
    key = (name, place, compute)
    with _lock:
        if key not in _loaded:
            encoder = _factory_of(name)(place, compute)
            _loaded[key] = Loaded(encoder, CachedTexts(encoder))
        return _loaded[key]


def load_space(
    model_name: str,
    checkpoint_path: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
) -> Space:
    """Return what a model's vectors mean, with the path of its files where it is given by one."""
    space = load_encoder(model_name, checkpoint_path, device, precision, backend).space
    place = checkpoint_path or (None if _is_known(model_name) else model_name)
    return space if place is None else replace(space, checkpoint=_absolute(place))


def model_of(space: Space, checkpoint_path: str | os.PathLike[str] | None = None) -> tuple[str, str | None]:
    """Return the ``model_name`` and ``checkpoint_path`` that load the model of a collection.

    :param space: of the collection; it remembers the path of a model that was given by one.
    :param checkpoint_path: the model's files, where they have moved since.
    :raises CheckpointError: If the model has no known name, and its files are gone.
    """
    place = _absolute(checkpoint_path) if checkpoint_path else space.checkpoint
    if checkpoint_path is None and place and not Path(place).exists():
        if not _is_known(space.model_name):
            raise CheckpointError(
                f"the collection's model {space.model_name!r} was loaded from {place}, which is gone; give "
                f"its files, of weights {space.weights[:12]}, by checkpoint_path (--checkpoint-path), or "
                "re-embed the collection"
            )
        place = ""
    if _is_known(space.model_name):
        return space.model_name, place or None
    return place or space.model_name, None


def _is_known(model_name: str) -> bool:
    return model_name in _factories or named(model_name) is not None


def _canonical(model_name: str) -> str:
    """Return what a model is kept by: the name of the table, an absolute path, or what was given."""
    if model_name in _factories:
        return model_name
    info = named(model_name)
    if info:
        return info.name
    given = bare(str(model_name))
    return _absolute(given) if _is_path(given) else given


def named(model_name: str) -> ModelInfo | None:
    """Return the model of a name; None where it is a path, as ``org/name`` is if such a folder is here.

    :raises UnknownModelError: If the model cannot be used; says why.
    """
    info = find(model_name)
    if info is None or (not info.family and _is_path(model_name)):
        return None
    if info.refused:
        raise UnknownModelError(f"{model_name!r} cannot be used: {info.refused}")
    return info


def _is_path(name: str) -> bool:
    name = str(name)
    is_here = os.path.exists(_absolute(name))  # noqa: PTH110 - Path's raises where a name is too long
    return bool(name) and (is_here or name.endswith(SUFFIXES) or name.startswith(PATHS))


def _factory_of(name: str) -> EncoderFactory:
    if name in _factories:
        return _factories[name]
    info = find(name)  # paths are absolute here
    if info is not None:
        return lambda place, compute: _open(place, name, info, compute)
    if _is_path(name):
        path = Path(_absolute(name))
        # a folder may be named like a model that it is not, and a collection finds it again by its path
        called = str(path) if path.stem in _factories or find(path.stem) else path.stem
        return lambda place, compute: _open(place or str(path), called, None, compute)
    raise UnknownModelError(_unknown(name))


def _open(place: str | None, name: str, info: ModelInfo | None, compute: Compute) -> Encoder:
    from t2i_pipelines.encoders.weights import HubEncoder, open_path

    if place is None:
        assert info is not None
        return HubEncoder(info, compute)
    return open_path(place, name, info, compute)


def _absolute(path: str | os.PathLike[str]) -> str:
    at_home = os.path.expanduser(path)  # noqa: PTH111 - Path's raises where there is no such user
    return str(Path(at_home).absolute())


def _unknown(model_name: str) -> str:
    spellings = sorted({*known_models(), *(alias for info in models() for alias in info.aliases)})
    begun = [one for one in spellings if model_name and one.startswith(str(model_name))]
    close = [*begun, *difflib.get_close_matches(str(model_name), spellings, n=3, cutoff=0.3)]
    near = f"the nearest are {', '.join(list(dict.fromkeys(close))[:3])}; " if close else ""
    return f"unknown model {model_name!r}; {near}`t2i models` lists all, and the path of a model will do, too"


def _mini(checkpoint_path: str | None, compute: Compute) -> Encoder:
    folder = checkpoint_path or str(files("t2i_pipelines.encoders") / "t2i_mini")
    return _open(folder, "t2i_mini", find("t2i_mini"), compute)


register_encoder("t2i_mini", _mini)
