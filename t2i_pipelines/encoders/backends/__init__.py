"""Who runs a tower of an ONNX folder: ONNX Runtime, or OpenVINO."""

import os

from t2i_pipelines.encoders.backends.choose import choose_onnx, choose_torch
from t2i_pipelines.encoders.backends.tower import Input, Tower, open_tower

__all__ = ["Input", "Tower", "choose_onnx", "choose_torch", "open_tower"]

# from 1.29 on, ONNX Runtime tells Microsoft the names and hashes of models; it reads this as it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
