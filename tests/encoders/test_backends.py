"""Which backend runs a model in which numbers, and what each choice costs in cosine."""

import importlib.util
import logging
import math
import subprocess
import sys
import threading
import types

import numpy as np
import onnx
import pytest

import t2i_pipelines
from t2i_pipelines.encoders import backends, load_encoder
from t2i_pipelines.encoders.backends import choose_onnx, choose_torch
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.errors import CheckpointError, ConfigError, MissingExtraError, SourceError
from t2i_pipelines.types import Compute

PICTURES = [np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8) for seed in range(5)]
TEXTS = ["a dog", "红苹果", "two red apples on a table"]


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture
def without(monkeypatch):
    """Pretend that a package is not installed."""
    real = importlib.util.find_spec

    def pretend(name):
        monkeypatch.setattr(backends, "find_spec", lambda other: None if other == name else real(other))

    return pretend


def bf16(monkeypatch, there):
    from t2i_pipelines.encoders import backends

    monkeypatch.setattr(backends, "has_bfloat16", lambda: there)


@pytest.mark.parametrize(
    ("there", "precision"), [(True, "bf16"), (False, "fp32")], ids=["with bf16", "without"]
)
def test_auto_takes_openvino_and_the_numbers_that_the_cpu_is_fast_in(monkeypatch, there, precision):
    bf16(monkeypatch, there)
    assert choose_onnx(Compute()) == Compute("cpu", precision, "openvino")
    assert str(choose_onnx(Compute())) == f"openvino on cpu, {precision}"


def test_auto_takes_onnx_runtime_where_openvino_is_not_installed(without):
    without("openvino")
    assert choose_onnx(Compute()) == Compute("cpu", "fp32", "onnxruntime")


def test_auto_takes_a_gpu_before_openvino(monkeypatch):
    import onnxruntime

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert choose_onnx(Compute()) == Compute("cuda", "fp32", "onnxruntime")
    assert choose_onnx(Compute(device="cpu")).device == "cpu"
    assert choose_onnx(Compute(backend="openvino")).device == "cpu"


def test_what_was_asked_for_is_taken():
    wanted = Compute("cpu", "int8", "onnxruntime")
    assert choose_onnx(wanted) == wanted
    assert choose_torch(Compute("cpu", "fp32", "torch")) == Compute("cpu", "fp32", "torch")


@pytest.mark.parametrize(
    ("pick", "wanted", "error", "words"),
    [
        (choose_onnx, Compute(backend="torch"), ConfigError, "backend='torch' runs torch checkpoints"),
        (choose_onnx, Compute(device="cuda"), MissingExtraError, "pip install onnxruntime-gpu"),
        (
            choose_onnx,
            Compute(precision="bf16", backend="onnxruntime"),
            ConfigError,
            "ONNX Runtime computes in fp32 or int8; for bf16 use backend='openvino'",
        ),
        (choose_torch, Compute(backend="openvino"), ConfigError, "turn it into one by `t2i export`"),
        (choose_torch, Compute(precision="int8"), ConfigError, "precision='int8' needs an ONNX folder"),
        (choose_torch, Compute(device="cuda"), ConfigError, "torch finds no GPU"),
    ],
    ids=lambda value: str(value) if isinstance(value, Compute) else "",
)
def test_what_does_not_go_together_is_refused_with_the_way_out(pick, wanted, error, words):
    with pytest.raises(error, match=words):
        pick(wanted)


def test_bf16_is_refused_where_the_cpu_has_none(monkeypatch):
    bf16(monkeypatch, False)
    with pytest.raises(ConfigError, match="this CPU has no instructions for it, or say precision='auto'"):
        choose_onnx(Compute(precision="bf16", backend="openvino"))
    torch = types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: False), cpu=types.SimpleNamespace()
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert choose_torch(Compute()).precision == "fp32"
    with pytest.raises(ConfigError, match="this CPU has no instructions for it"):
        choose_torch(Compute(precision="bf16"))


def test_the_absence_of_openvino_names_the_extra(without):
    without("openvino")
    with pytest.raises(MissingExtraError, match=r"pip install 't2i-pipelines\[openvino\]'"):
        choose_onnx(Compute(backend="openvino"))


def test_torch_on_a_gpu_is_run_in_bf16(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_torch(Compute()) == Compute("cuda", "bf16", "torch")
    assert choose_torch(Compute(device="cpu", precision="fp32")).device == "cpu"


@pytest.mark.parametrize(
    ("precision", "backend", "least"),
    [("fp32", "openvino", 0.99999), ("auto", "auto", 0.999), ("auto", "openvino", 0.999)],
)
def test_every_backend_gives_the_same_vectors(precision, backend, least):
    exact = load_encoder("t2i_mini", device="cpu", precision="fp32", backend="onnxruntime")
    other = load_encoder("t2i_mini", precision=precision, backend=backend)
    assert other.space == exact.space
    assert cosines(other.encode_images(PICTURES), exact.encode_images(PICTURES)).min() >= least
    assert cosines(other.encode_texts(TEXTS), exact.encode_texts(TEXTS)).min() >= least


def test_it_says_what_was_chosen(caplog):
    caplog.set_level(logging.INFO, "t2i_pipelines")
    encoder = OnnxEncoder(str(load_encoder("t2i_mini").folder), "named", compute=Compute("cpu", "fp32"))
    encoder.encode_texts(["a dog"])
    encoder.encode_images(PICTURES)
    said = [line for line in caplog.messages if line.startswith("named runs by")]
    assert said == [f"named runs by {encoder.running}"]
    assert encoder.running == Compute("cpu", "fp32", "openvino")


def test_many_threads_get_their_own_answers_from_one_model():
    encoder = load_encoder("t2i_mini", precision="fp32", backend="openvino")
    wanted = encoder.encode_images(PICTURES)
    wrong = []

    def ask(at):
        for _ in range(10):
            found = encoder.encode_images(PICTURES[at : at + 1])
            if not np.allclose(found[0], wanted[at], atol=1e-3):
                wrong.append(at)

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(PICTURES))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


def test_int8_that_was_never_made_says_how_to_make_it(cache):
    encoder = OnnxEncoder(
        str(load_encoder("t2i_mini").folder), "t2i_mini", compute=Compute("cpu", "int8", "onnxruntime")
    )
    with pytest.raises(CheckpointError, match="t2i quantize FOLDER --model-name t2i_mini"):
        encoder.encode_images(PICTURES)


@pytest.mark.slow
def test_int8_is_calibrated_on_the_users_pictures_and_tells_its_cost(cache, caplog):
    caplog.set_level(logging.INFO, "t2i_pipelines")
    cost = t2i_pipelines.quantize("data/gallery", model_name="t2i_mini", images=64)
    assert (cost.calibrated_on, cost.measured_on) == (48, 16)
    folder = str(load_encoder("t2i_mini").folder)
    exact = load_encoder("t2i_mini", device="cpu", precision="fp32", backend="onnxruntime")
    for backend in ("onnxruntime", "openvino"):
        int8 = OnnxEncoder(folder, "t2i_mini", compute=Compute("cpu", "int8", backend))
        found = cosines(int8.encode_images(PICTURES), exact.encode_images(PICTURES))
        assert 0.9 < found.min() < 0.999999  # it is another arithmetic, and near
        assert cosines(int8.encode_texts(TEXTS), exact.encode_texts(TEXTS)).min() > 0.999
    assert f"int8 form of t2i_mini: {cost}" in caplog.messages
    assert 0.9 < cost.least_cosine <= cost.mean_cosine < 1
    assert str(cost).startswith(f"cosine to fp32 {cost.mean_cosine:.5f} on average")
    assert "on 16 images; calibrated on 48 others" in str(cost)
    saved = next(cache.rglob("model.int8.onnx"))
    weights = onnx.load(str(exact.image_tower)).graph.initializer
    assert saved.stat().st_size < 2 * sum(math.prod(one.dims) for one in weights), "half of float32"


def test_too_few_pictures_are_refused(cache, pictures):
    with pytest.raises(SourceError, match="7 images could be read, and int8 is calibrated on at least 16"):
        t2i_pipelines.quantize(pictures, model_name="t2i_mini")
    assert not list(cache.rglob("*.onnx"))


def test_the_command_says_how_the_model_runs_and_refuses_what_it_cannot(pictures, tmp_path):
    from typer.testing import CliRunner

    from t2i_pipelines.cli import app

    place = ["--uri", str(tmp_path / "a.db"), "--model-name", "t2i_mini"]
    done = CliRunner().invoke(app, ["insert", str(pictures), *place, "--backend", "onnxruntime"])
    assert (done.exit_code, "t2i_mini runs by onnxruntime on cpu, fp32" in done.stderr) == (0, True)
    refused = CliRunner().invoke(app, ["insert", str(pictures), *place, "--precision", "fp8"])
    assert "precision must be one of 'auto', 'fp32', 'bf16', 'fp16', 'int8', got 'fp8'" in str(
        refused.exception
    )


@pytest.mark.slow
def test_the_command_quantizes_and_tells_the_cost(cache):
    from typer.testing import CliRunner

    from t2i_pipelines.cli import app

    done = CliRunner().invoke(app, ["quantize", "data/gallery", "--model-name", "t2i_mini", "--images", "16"])
    assert done.exit_code == 0, done.exception
    assert "t2i_mini in int8: cosine to fp32 0." in done.stdout


SIGNALLED = """
import os, signal
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.backends import OpenvinoTower
from t2i_pipelines.types import Compute

path = load_encoder("t2i_mini", backend="onnxruntime").image_tower
towers = [OpenvinoTower(path, Compute("cpu", "fp32", "openvino")) for _ in range(2)]
towers.pop(0)
towers.pop(0)
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.slow
def test_a_signal_is_handled_after_openvino_models_are_gone():
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_fp16_is_for_torch_on_a_gpu(monkeypatch):
    with pytest.raises(ConfigError, match="precision='fp16' is for GPUs; say precision='auto', 'bf16' or"):
        choose_torch(Compute("cpu", "fp16"))
    with pytest.raises(ConfigError, match="is for torch checkpoints on a GPU.*say precision='auto', or"):
        choose_onnx(Compute("cuda", "fp16"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert choose_torch(Compute("auto", "fp16")) == Compute("cuda", "fp16", "torch")
    assert choose_torch(Compute()).precision == "bf16"
