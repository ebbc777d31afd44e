"""Which models there are, and one loaded encoder per model and process."""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

from t2i_pipelines.encoders.models import MODELS, find
from t2i_pipelines.encoders.weights import SUFFIXES, HubEncoder, open_path
from t2i_pipelines.errors import UnknownModelError
from t2i_pipelines.types import Encoder

EncoderFactory: TypeAlias = Callable[[str | None, str], Encoder]
"""(checkpoint_path, device) -> encoder. Cheap: weights are read when they are first used."""

_factories: dict[str, EncoderFactory] = {}
_loaded: dict[tuple[str, str | None, str], Encoder] = {}
_lock = threading.Lock()


def register_encoder(model_name: str, factory: EncoderFactory) -> None:
    """Make a model known by name; a later registration takes the place of an earlier one.

    :param factory: called once per checkpoint and device; the encoder it returns must be thread-safe.
    """
    with _lock:
        _factories[model_name] = factory
        for key in [key for key in _loaded if key[0] == model_name]:
            del _loaded[key]


def known_models() -> list[str]:
    """Names that ``model_name`` takes, sorted, without aliases."""
    return sorted({*_factories, *(info.name for info in MODELS)})


def load_encoder(
    model_name: str, checkpoint_path: str | os.PathLike[str] | None = None, device: str = "auto"
) -> Encoder:
    """The encoder of a model; the same object each time.

    :param model_name: a registered name, a name or alias of :func:`models`, or the path of a model.
    :param checkpoint_path: the model's file or folder, in place of what the name stands for.
    :raises UnknownModelError: If the name is unknown and no path; the message lists the known.
    :raises CheckpointError: If the model's files are missing; damage shows when they are first used.
    """
    place = None if checkpoint_path is None else _absolute(checkpoint_path)
    info = find(model_name)
    name = info.name if info else str(model_name)
    key = (name, place, device)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _factory_of(name)(place, device)
        return _loaded[key]


def _factory_of(name: str) -> EncoderFactory:
    if name in _factories:
        return _factories[name]
    info = find(name)
    if info is not None:
        return lambda place, device: open_path(place, name, info) if place else HubEncoder(info)
    path = Path(_absolute(name))
    if path.exists() or path.suffix in SUFFIXES or name.startswith(("/", "./", "../", "~")):
        return lambda place, device: open_path(place or path, path.stem)
    raise UnknownModelError(_unknown(name))


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).expanduser().absolute())


def _unknown(model_name: str) -> str:
    spellings = {*known_models(), *(alias for info in MODELS for alias in info.aliases)}
    close = difflib.get_close_matches(str(model_name), sorted(spellings), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"unknown model {model_name!r}{hint}; known models are {', '.join(known_models())}, "
        "or the path of a model"
    )


def _mini(checkpoint_path: str | None, device: str) -> Encoder:
    from t2i_pipelines.encoders.onnx import OnnxEncoder

    folder = checkpoint_path or str(files("t2i_pipelines.mini") / "model")
    return OnnxEncoder(folder, "t2i_mini", scripts=("Latin", "Han"))


register_encoder("t2i_mini", _mini)
