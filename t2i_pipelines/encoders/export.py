"""Export a CLIP to an ONNX folder that runs without torch, and read it back.

Weights keep the names of the state dict, so that :func:`load_clip` can rebuild the module, for example to
fine-tune it. Matrices are stored as float16, or as 8-bit integers with a scale for each row, and computed
with as float32: ONNX Runtime folds the conversion when it loads a tower.
"""

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
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.onnx_folder import ENDED
from t2i_pipelines.encoders.openai_clip import clip_like
from t2i_pipelines.encoders.preprocess import Preprocess
from t2i_pipelines.encoders.tokenizer import TextTokenizer, read_tokenizer
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

    @property
    def any_length(self) -> bool:
        """Whether texts have as many ids as they need, not always the same number."""
        return self.reads_ended or (self.tokenizer.tokenizer.padding or {}).get("length") is None

    def sample_pixels(self) -> torch.Tensor:
        """Made images of several shapes, one of them of one colour: (N, 3, S, S) float32."""
        return torch.from_numpy(self.preprocess.tensor(_images()))

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
        config = {"embed_dim": checkpoint.dim, **checkpoint.config}
        write_settings(towers, place, config, checkpoint.weights)
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
        lengths = {1: "length"} if name == "textual" and towers.any_length else {}
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
        "visual/preprocess_cfg.json": {**asdict(towers.preprocess), "mode": "RGB"},
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
            "visual": (written.encode_images(_images()), towers.encode_image(towers.sample_pixels())),
            "textual": (
                # each alone too: a tower that takes texts of one length only would fail with another
                np.concatenate(
                    [written.encode_texts(TEXTS), *(written.encode_texts([one]) for one in TEXTS)]
                ),
                towers.encode_text(towers.sample_ids()).repeat(2, 1),
            ),
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


def _images() -> list[np.ndarray]:
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


PATHS = ("visual/model.onnx", "textual/model.onnx")
SCALE, WIDE = ".scale", ".float32"
"""What follows a weight's name: of the scale of its rows, and of its value in float32."""

SMALL = 4096
"""Weights of fewer numbers stay float16: depthwise convolutions suffer most from 8 bits."""


def export_clip(
    model: nn.Module,
    folder: str | Path,
    *,
    model_name: str,
    sizes: Mapping[str, Any],
    tokenizer: str | Path,
    preprocess: Mapping[str, Any],
    checkpoint: Path | None = None,
    int8_images: bool = False,
) -> float:
    """Write the model folder; the lowest cosine between its vectors and the module's own.

    :param folder: may hold an earlier export, which is replaced if all is well.
    :param sizes: the arguments that ``CLIP`` was made with.
    :param tokenizer: a Hugging Face ``tokenizer.json`` that pads and cuts to the context length.
    :param preprocess: open_clip's ``preprocess_cfg.json``: size, mean, std, interpolation, resize_mode.
    :param checkpoint: the file that the weights are from; ``config.json`` records its name and SHA-256.
    :param int8_images: store the image tower as 8-bit integers; it takes half the room again.
    :raises CheckpointError: If what was written computes other vectors; then the folder stays as it was.
    """
    clip: Any = model.eval().float().cpu()
    towers = Towers(
        name=model_name,
        module=clip,
        encode_image=clip.encode_image,
        encode_text=lambda ids: clip.encode_text(ids, device="cpu"),
        preprocess=Preprocess.of(preprocess, "preprocess"),
        tokenizer=TextTokenizer(read_tokenizer(Path(tokenizer)), model_name=model_name),
    )
    if (given := towers.sample_ids().shape[1]) != sizes["context_length"]:
        raise CheckpointError(
            f"{tokenizer} gives {given} ids a text, the model reads {sizes['context_length']}"
        )
    with filled_if_all_is_well(Path(folder)) as place:
        trace(towers, place, keep_names=True)
        stored = {
            *_compact(place / PATHS[0], _to_int8 if int8_images else _to_float16),
            *_compact(place / PATHS[1], _to_float16),
        }
        config = {
            "model_name": model_name,
            "embed_dim": sizes["embed_dim"],
            "text_cfg": {"context_length": sizes["context_length"]},
            "logit_scale": clip.state_dict()["logit_scale"].exp().item(),
            "towhee_clip": dict(sizes),
            "equal_weights": _equal_weights(clip, stored),
        }
        write_settings(towers, place, config, checkpoint)
        return lowest_cosine(towers, place)


def _compact(path: Path, shrink: Callable[[Any], tuple[list[Any], list[Any]]]) -> list[str]:
    """Give a tower's weights the names of the state dict and less room.

    :param shrink: a matrix -> the initializers it is stored as, and the nodes that turn these back.
    :return: the names.
    """
    exported = onnx.load(str(path))
    graph = exported.graph
    names = {one.name: one.name.removeprefix(NAMES_BEGIN_WITH) for one in graph.initializer}
    _rewire(graph, names)
    stored, nodes = [], []
    for one in graph.initializer:
        one.name = names[one.name]
        if one.data_type == TensorProto.FLOAT and len(one.dims) > 1:
            small, widening = shrink(one)
            stored += small
            nodes += widening
        else:
            stored.append(one)
    widened = [node.output[0] for node in nodes if node.output[0].endswith(WIDE)]
    _rewire(graph, {name.removesuffix(WIDE): name for name in widened})
    nodes += graph.node
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stored)
    path.write_bytes(exported.SerializeToString())
    return list(names.values())


def _to_float16(one: Any) -> tuple[list[Any], list[Any]]:
    return [numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name)], [_cast(one)]


def _to_int8(one: Any) -> tuple[list[Any], list[Any]]:
    """Store integers and, unless all are 0 and 1, a scale for each row, which a convolution's channel is."""
    values = numpy_helper.to_array(one)
    if values.size < SMALL:
        return _to_float16(one)
    if np.isin(values, (0, 1)).all():
        return [numpy_helper.from_array(values.astype(np.int8), one.name)], [_cast(one)]
    scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    stored = [
        numpy_helper.from_array(np.round(values / scale).astype(np.int8), one.name),
        numpy_helper.from_array(scale, one.name + SCALE),
    ]
    whole = f"{one.name}.whole"
    widening = [
        helper.make_node("Cast", [one.name], [whole], to=TensorProto.FLOAT),
        helper.make_node("Mul", [whole, one.name + SCALE], [one.name + WIDE]),
    ]
    return stored, widening


def _cast(one: Any) -> Any:
    return helper.make_node("Cast", [one.name], [one.name + WIDE], to=TensorProto.FLOAT)


def _rewire(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)


def _equal_weights(model: nn.Module, stored: set[str]) -> dict[str, str]:
    """Weights that torch left out, because another one holds the same numbers -> that other one."""
    weights = model.state_dict()
    return {
        name: next(other for other in sorted(stored & weights.keys()) if weights[other].equal(value))
        for name, value in weights.items()
        if name not in stored and name != "logit_scale" and not name.endswith("num_batches_tracked")
    }


def load_clip(folder: str | Path) -> nn.Module:
    """Rebuild the ``towhee.models.clip.CLIP`` that :func:`export_clip` wrote, in evaluation mode.

    :raises CheckpointError: If the folder was not written by it.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes, scale, equal = config["towhee_clip"], config["logit_scale"], config["equal_weights"]
    except (OSError, ValueError, KeyError) as err:
        raise CheckpointError(f"{folder}/config.json does not tell how to rebuild the model: {err}") from err
    weights = {"logit_scale": torch.tensor(scale).log()}
    for path in PATHS:
        weights |= _read(folder / path)
    weights |= {name: weights[other] for name, other in equal.items() if other in weights}
    model = clip_like(weights, sizes)
    missing, _ = model.load_state_dict(weights, strict=False)
    if lost := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise CheckpointError(f"{folder} has no weights {', '.join(lost[:4])}; was it exported here?")
    clip: nn.Module = model.eval()
    return clip


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a tower in float32, by name."""
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer}
    return {
        name: torch.from_numpy(values.astype(np.float32) * stored.get(name + SCALE, np.float32(1)))
        for name, values in stored.items()
        if not name.endswith(SCALE)
    }
