"""Who runs a tower of an ONNX folder: ONNX Runtime, or OpenVINO."""

from t2i_pipelines.encoders.backends.choose import choose_onnx, choose_torch
from t2i_pipelines.encoders.backends.tower import Input, Tower, open_tower

__all__ = ["Input", "Tower", "choose_onnx", "choose_torch", "open_tower"]
