"""A torch model written as an ONNX folder, which needs no torch to run: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i_pipelines.encoders.onnx import ENDED, OnnxEncoder
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import TextTokenizer
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import CheckpointError

LEAST_COSINE = 0.9999
OPSET = 17
TEXTS = (
    "a photo of a dog",
    "two red apples on a table",
    "una manzana roja",
    "A street in Berlin, at night; rain.",
    "x",
    "",
)
NAMES_BEGIN_WITH = "model."
"""What torch puts before the names that weights have in the state dict."""


@dataclass(frozen=True)
class Towers:
    """A torch model on its way into a folder.

    :ivar name: for messages.
    :ivar module: the whole model, in evaluation mode and float32, on the CPU.
    :ivar encode_image: (N, 3, S, S) float32 -> (N, D).
    :ivar encode_text: (N, L) integers -> (N, D).
    :ivar reads_ended: as in :class:`~t2i_pipelines.encoders.torch_encoder.TorchModel`.
    """

    name: str
    module: nn.Module
    encode_image: Callable[[torch.Tensor], torch.Tensor]
    encode_text: Callable[[torch.Tensor], torch.Tensor]
    preprocess: Preprocess
    tokenizer: TextTokenizer
    reads_ended: bool = False

    def sample_pixels(self) -> torch.Tensor:
        """Made images of several shapes, one of them of one colour: (N, 3, S, S) float32."""
        return torch.from_numpy(self.preprocess.tensor(_pictures()))

    def sample_ids(self) -> torch.Tensor:
        """``TEXTS``, as the tokenizer reads them: (N, L) int64."""
        with _quiet():
            return torch.from_numpy(self.tokenizer(TEXTS))


class _Tower(nn.Module):
    """Half a model as a module of its own."""

    def __init__(self, model: nn.Module, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._encode = encode

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self._encode(items)


def export_model(encoder: TorchEncoder, folder: str | Path) -> float:
    """Write both towers; the lowest cosine between what is read back and what torch computes.

    :param folder: must not exist yet, or be empty.
    :raises CheckpointError: If the folder is in use, or the cosine is below 0.9999; then nothing is written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is not empty; name a new folder to export to")
    model, checkpoint = encoder.model, encoder.model.checkpoint
    towers = Towers(
        name=str(checkpoint.weights),
        module=model.module,
        encode_image=model.encode_image,
        encode_text=model.encode_text,
        preprocess=checkpoint.preprocess,
        tokenizer=encoder.tokenizer,
        reads_ended=model.reads_ended,
    )
    with filled_if_all_is_well(folder) as place:
        trace(towers, place)
        write_settings(towers, place, checkpoint.config, checkpoint.weights)
        return lowest_cosine(towers, place)


@contextmanager
def filled_if_all_is_well(folder: Path) -> Iterator[Path]:
    """A place to write to, which becomes ``folder``, or is copied into it, unless the block raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        place = Path(name) / "model"
        for tower in ("visual", "textual"):
            (place / tower).mkdir(parents=True)
        yield place
        if folder.exists():
            shutil.copytree(place, folder, dirs_exist_ok=True)
        else:
            place.replace(folder)


def trace(towers: Towers, place: Path, *, keep_names: bool = False) -> None:
    """Write ``visual/model.onnx`` and ``textual/model.onnx``, for any number of items.

    :param keep_names: store all weights unchanged, as ``NAMES_BEGIN_WITH`` and the state dict's name. ONNX
        Runtime then folds constants when it loads the model, not this exporter.
    """
    options: dict[str, Any] = {}
    if keep_names:
        options = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    for name, input_name, encode, sample in (
        ("visual", "image", towers.encode_image, towers.sample_pixels()),
        ("textual", "text", towers.encode_text, towers.sample_ids().int()),
    ):
        lengths = {1: "length"} if name == "textual" and towers.reads_ended else {}
        with _without_fused_attention(), _quiet(), torch.no_grad():
            torch.onnx.export(
                _Tower(towers.module, encode).eval(),
                (sample,),
                str(place / name / "model.onnx"),
                dynamo=False,  # the older exporter: it keeps names, and needs no onnxscript
                opset_version=OPSET,
                input_names=[input_name],
                output_names=["embedding"],
                dynamic_axes={input_name: {0: "batch", **lengths}, "embedding": {0: "batch"}},
                **options,
            )


def write_settings(towers: Towers, place: Path, config: Mapping[str, Any], weights: Path | None) -> None:
    """Write all that is not a tower.

    :param config: for ``config.json``.
    :param weights: the checkpoint; ``config.json`` records its name and SHA-256 as ``exported_from``.
    """
    tokenizer = towers.tokenizer.tokenizer
    origin = {} if weights is None else {"exported_from": {"file": weights.name, "sha256": _sha256(weights)}}
    for path, content in {
        "config.json": {**config, **({ENDED: True} if towers.reads_ended else {}), **origin},
        "visual/preprocess_cfg.json": {**asdict(towers.preprocess), "mode": "RGB", "fill_color": 0},
        "textual/tokenizer_config.json": {"pad_token": (tokenizer.padding or {}).get("pad_token")},
    }.items():
        (place / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(place / "textual/tokenizer.json"))


def lowest_cosine(towers: Towers, place: Path) -> float:
    """Read a written folder back, and compare its vectors of made images and of ``TEXTS`` with torch's.

    :raises CheckpointError: If a cosine is below 0.9999.
    """
    written = OnnxEncoder(str(place), towers.name)
    with _quiet(), torch.no_grad():
        pairs = {
            "visual": (written.encode_images(_pictures()), towers.encode_image(towers.sample_pixels())),
            "textual": (written.encode_texts(TEXTS), towers.encode_text(towers.sample_ids())),
        }
    lowest = 1.0
    for name, (found, wanted) in pairs.items():
        cosine = float(torch.cosine_similarity(torch.from_numpy(found), wanted.float()).min())
        if not cosine >= LEAST_COSINE:
            raise CheckpointError(
                f"the exported {name} tower differs from {towers.name}: cosine {cosine:.6f}, less than "
                f"{LEAST_COSINE}; nothing was written"
            )
        lowest = min(lowest, cosine)
    return lowest


def _pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (80 + 31 * n, 120, 3), np.uint8) for n in range(4)]
    return [*noise, np.full((64, 64, 3), 200, np.uint8)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: of the exporter's age, and of samples that are too long for a small model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Let attention be several operators: ONNX does not have the one that torch would take."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
