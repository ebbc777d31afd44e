"""ONNX Runtime keeps no identifier, and so has nothing to send: it makes one as soon as it is used."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code, home, **variables) -> str:
    """In an environment without ``CI``, where ONNX Runtime keeps quiet anyway."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout.strip()


def test_nothing_is_kept_that_could_be_told(tmp_path):
    code = """
from t2i_pipelines.encoders import load_encoder
print(load_encoder("t2i_mini", backend="onnxruntime").encode_texts(["a cat"]).shape)
"""
    assert run(code, tmp_path) == "(1, 768)"
    assert list(tmp_path.rglob("*")) == []


def test_whoever_wants_it_told_has_it_told(tmp_path):
    code = "import os, t2i_pipelines; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert [run(code, tmp_path), run(code, tmp_path, ORT_DISABLE_TELEMETRY="0")] == ["1", "0"]
