"""Models with one space for images and words. One door: :func:`load_encoder`."""

from t2i_pipelines.encoders.models import ModelInfo, models, recommend
from t2i_pipelines.encoders.registry import (
    known_models,
    load,
    load_encoder,
    load_space,
    model_of,
    register_encoder,
    unload,
)

__all__ = [
    "ModelInfo",
    "known_models",
    "load",
    "load_encoder",
    "load_space",
    "model_of",
    "models",
    "recommend",
    "register_encoder",
    "unload",
]
