"""Which models there are, and one loaded encoder per model and process."""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

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
    """Names that ``model_name`` takes, sorted."""
    return sorted(_factories)


def load_encoder(
    model_name: str, checkpoint_path: str | os.PathLike[str] | None = None, device: str = "auto"
) -> Encoder:
    """The encoder of a model; the same object each time.

    :param checkpoint_path: a folder with the model's files, in place of those that the name stands for.
    :raises UnknownModelError: If the name is unknown; the message lists the known.
    :raises CheckpointError: If the model's files are missing; damage shows when they are first used.
    """
    place = None if checkpoint_path is None else str(Path(checkpoint_path).expanduser().absolute())
    key = (model_name, place, device)
    with _lock:
        if key not in _loaded:
            if model_name not in _factories:
                raise UnknownModelError(_unknown(model_name))
            _loaded[key] = _factories[model_name](place, device)
        return _loaded[key]


def _unknown(model_name: str) -> str:
    close = difflib.get_close_matches(str(model_name), _factories, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown model {model_name!r}{hint}; known models are {', '.join(known_models())}"


def _mini(checkpoint_path: str | None, device: str) -> Encoder:
    from t2i_pipelines.encoders.onnx import OnnxEncoder

    return OnnxEncoder(checkpoint_path or str(files("t2i_pipelines.mini") / "model"), "t2i_mini")


register_encoder("t2i_mini", _mini)
