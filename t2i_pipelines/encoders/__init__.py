"""Models with one space for images and words. One door: :func:`load_encoder`."""

import os

from t2i_pipelines.encoders.models import ModelInfo, models, recommend
from t2i_pipelines.encoders.registry import (
    known_models,
    load,
    load_encoder,
    load_space,
    model_of,
    named,
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
    "named",
    "recommend",
    "register_encoder",
    "unload",
]

# from 1.29 on, ONNX Runtime reports names and hashes of models to Microsoft; it reads this as it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
