"""Join an image encoder and a text tower that was trained, alone, to give vectors of its space.

* sentence-transformers: ``modules.json`` names a Transformer, a Pooling and Dense layers, each in a folder,
  as in ``clip-ViT-B-32-multilingual-v1``, whose images are OpenAI's ViT-B/32.
* M-CLIP: ``config.json`` of the model type ``M-CLIP`` with ``pytorch_model.bin``: a Transformer, the mean
  of its tokens and ``LinearTransformation``. The images are those of the CLIP that its name ends with.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from t2i_pipelines.encoders.backends import choose_torch
from t2i_pipelines.encoders.checkpoints import Weights, files_of, read_weights
from t2i_pipelines.encoders.digest import cached_digest, digest_module
from t2i_pipelines.encoders.formats import MODULES, TRANSFORMERS, WEIGHTS
from t2i_pipelines.encoders.onnx_folder import read_json
from t2i_pipelines.encoders.tokenizer import TextTokenizer
from t2i_pipelines.encoders.torch_encoder import TEXTS_A_PASS, run_pass
from t2i_pipelines.encoders.transformers_clip import build, complete, text_tokenizer
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.types import EXACT, Compute, Encoder, Image, Matrix, Space

_MODELS = {
    "bert": "BertModel",
    "distilbert": "DistilBertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
}
_FROM_PAD = ("roberta", "xlm-roberta")
"""Model types that number positions from behind the id of padding on."""

_POOLING = "pooling_mode"
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
}
MCLIP = "M-CLIP"


@dataclass(frozen=True)
class _Parts:
    """What a folder holds.

    :ivar config: of the Transformer.
    :ivar home: folder of the tokenizer.
    :ivar files: everything that decides a vector.
    :ivar layers: weight, bias and activation of what comes behind the pooling.
    """

    config: dict[str, Any]
    home: Path
    files: list[Path]
    weights: Weights
    where: str
    pooling: str
    longest: int
    layers: list[tuple[torch.Tensor, torch.Tensor | None, str]]


class TextTower:
    """Texts to vectors. Thread-safe; weights are read when they are first needed.

    :param folder: of sentence-transformers or of M-CLIP.
    :raises CheckpointError: If it is neither.
    """

    def __init__(self, folder: str | Path, model_name: str, compute: Compute = EXACT) -> None:
        self._folder = Path(folder)
        self._model_name = model_name
        self._compute = compute
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        if not is_text_tower(self._folder):
            raise CheckpointError(
                f"{folder} holds no text tower: neither {MODULES} with a Transformer, nor {TRANSFORMERS} of "
                f"the model type {MCLIP}"
            )

    @cached_property
    def running(self) -> Compute:
        """How the tower is run: what ``auto`` came to."""
        return choose_torch(self._compute)

    @property
    def _tower(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(_parts(self._folder), self._model_name, self.running.device)
            return self._loaded

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._tower.dim

    @property
    def digest(self) -> str:
        """Hex digest of the weights, and of how their outputs are pooled."""
        return self._tower.digest

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised. A text that is too long for the model is cut."""
        tower = self._tower
        vectors = [np.empty((0, tower.dim), np.float32)]
        for at in range(0, len(texts), TEXTS_A_PASS):
            ids = torch.from_numpy(tower.tokenizer(texts[at : at + TEXTS_A_PASS]))
            vectors.append(run_pass(tower.encode, ids, self.running))
        return np.concatenate(vectors)

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        return self._tower.tokenizer.cut(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model reads."""
        return self._tower.tokenizer.count(texts)


@dataclass(frozen=True)
class _Loaded:
    tokenizer: TextTokenizer
    encode: Callable[[torch.Tensor], torch.Tensor]
    dim: int
    digest: str


class _Encode(nn.Module):
    """(N, L) ids -> (N, D): Transformer, pooling over what is no padding, linear layers."""

    def __init__(self, model: nn.Module, pad: int, parts: _Parts) -> None:
        super().__init__()
        self.model, self._pad, self._pooling = model, pad, parts.pooling
        self._activations = [_ACTIVATIONS[name] for _, _, name in parts.layers]
        self.layers = nn.ModuleList()
        for weight, bias, _ in parts.layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
            self.layers.append(layer)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = (ids != self._pad).long()
        x: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            x = x[:, 0]
        else:
            x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        for layer, activation in zip(self.layers, self._activations, strict=True):
            x = activation(layer(x))
        return x


def _load(parts: _Parts, model_name: str, device: str) -> _Loaded:
    kind = str(parts.config.get("model_type"))
    if "auto_map" in parts.config or kind not in _MODELS:
        why = "needs code of its own repository, which is never run" if "auto_map" in parts.config else ""
        raise CheckpointError(
            f"{parts.where}: a text tower of the model type {kind!r} "
            f"{why or 'is not supported: known are ' + ', '.join(_MODELS)}"
        )
    config = complete(parts.config, _MODELS[kind], parts.where)
    room = config["max_position_embeddings"] - (config["pad_token_id"] + 1 if kind in _FROM_PAD else 0)
    tokenizer = text_tokenizer(parts.home, min(parts.longest, room), pads=False)
    pad = (tokenizer.padding or {})["pad_id"]
    options = {} if kind == "distilbert" else {"add_pooling_layer": False}
    model = build(config, _MODELS[kind], parts.weights, parts.where, **options)
    try:
        encode = _Encode(model, pad, parts).eval().requires_grad_(False).to(device)
        dim = encode(torch.tensor([[pad + 1]], device=device)).shape[1]
    except RuntimeError as err:  # a layer of another width
        raise CheckpointError(f"{parts.where}: the layers do not fit one another: {err}") from err
    activations = " ".join(name for _, _, name in parts.layers)
    weights = cached_digest(parts.files, partial(digest_module, encode))
    digest = hashlib.blake2b(
        f"{weights} {parts.pooling} {parts.longest} {activations}".encode(), digest_size=16
    )
    return _Loaded(TextTokenizer(tokenizer, model_name=model_name), encode, dim, digest.hexdigest())


def is_text_tower(folder: Path) -> bool:
    """Return whether a folder holds a text tower alone; reads its configs."""
    if (folder / MODULES).is_file():
        return _kinds(folder)[:1] == ["Transformer"]
    path = folder / TRANSFORMERS
    return path.is_file() and read_json(path).get("model_type") == MCLIP


def _modules(folder: Path) -> list[tuple[str, Path]]:
    try:
        given = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        return [(str(one["type"]).rpartition(".")[2], folder / one["path"]) for one in given]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{folder / MODULES} cannot be read: {type(err).__name__} {err}") from err


def _kinds(folder: Path) -> list[str]:
    return [kind for kind, _ in _modules(folder)]


def _parts(folder: Path) -> _Parts:
    return _of_sentences(folder) if (folder / MODULES).is_file() else _of_mclip(folder)


def _weights_in(folder: Path) -> Path:
    found = next((folder / name for name in WEIGHTS[TRANSFORMERS] if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder} has no weights: none of {', '.join(WEIGHTS[TRANSFORMERS])}")
    return found


def _of_sentences(folder: Path) -> _Parts:
    """Read a folder of sentence-transformers; a last ``Normalize`` is left to who compares vectors."""
    (_, home), *others = _modules(folder)
    weights = _weights_in(home)
    files, layers, pooling = [folder / MODULES, home / TRANSFORMERS, *files_of(weights)], [], None
    for kind, place in others:
        config = place / "config.json"
        if kind == "Pooling" and pooling is None:
            pooling = _pooling(read_json(config), config)
            files.append(config)
        elif kind == "Dense" and pooling is not None:
            layers.append(_dense(place, read_json(config)))
            files += [config, _weights_in(place)]
        elif kind != "Normalize":
            raise CheckpointError(f"{folder / MODULES}: a {kind} there is not supported")
    if pooling is None:
        raise CheckpointError(f"{folder / MODULES} has no Pooling")
    settings = home / "sentence_bert_config.json"
    given = read_json(settings) if settings.is_file() else {}
    if given.get("do_lower_case"):
        raise CheckpointError(f"{settings}: do_lower_case is not supported")
    return _Parts(
        config=read_json(home / TRANSFORMERS),
        home=home,
        files=files,
        weights=_of_transformer(read_weights(weights)),
        where=str(weights),
        pooling=pooling,
        longest=int(given.get("max_seq_length") or 512),
        layers=layers,
    )


def _of_transformer(weights: Weights) -> Weights:
    """Leave out the pooler, a layer behind the first token, which some are stored without."""
    return {name: value for name, value in weights.items() if not name.startswith("pooler.")}


def _pooling(config: Mapping[str, Any], path: Path) -> str:
    old = [name.removeprefix(f"{_POOLING}_") for name, used in config.items() if used is True]
    given = config.get(_POOLING, [name.split("_")[0] for name in old if name.endswith(("_tokens", "_token"))])
    modes = [given] if isinstance(given, str) else list(given)
    if modes not in (["mean"], ["cls"]):
        raise CheckpointError(f"{path}: pooling must be mean or cls, got {', '.join(modes) or 'none'}")
    return str(modes[0])


def _dense(place: Path, config: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = activation.rpartition(".")[2]
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise CheckpointError(f"{place / 'config.json'}: activation must be one of {known}, got {activation}")
    return _linear(read_weights(_weights_in(place)), "linear", place, name)


def _linear(
    weights: Weights, name: str, where: Path, activation: str
) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    if f"{name}.weight" not in weights:
        raise CheckpointError(f"{where} does not fit: {name}.weight is missing")
    return weights[f"{name}.weight"], weights.get(f"{name}.bias"), activation


def _of_mclip(folder: Path) -> _Parts:
    """Read a folder of M-CLIP, whose Transformer has its base's config, with sizes from the weights."""
    stored = read_json(folder / TRANSFORMERS)
    path = _weights_in(folder)
    weights = read_weights(path)
    inner = {
        name.removeprefix("transformer."): one
        for name, one in weights.items()
        if name.startswith("transformer.")
    }
    return _Parts(
        config=_base(str(stored.get("modelBase")), inner, path),
        home=folder,
        files=[folder / TRANSFORMERS, *files_of(path)],
        weights=_of_transformer(inner),
        where=str(path),
        pooling="mean",
        longest=512,
        layers=[_linear(weights, "LinearTransformation", path, "Identity")],
    )


def _base(name: str, weights: Weights, path: Path) -> dict[str, Any]:
    """Return the config of the Transformer that M-CLIP names as its base; its heads are 64 wide."""
    is_roberta = "xlm-roberta" in name.lower()
    if not is_roberta and not any(one in name.lower() for one in ("labse", "bert-base-multilingual")):
        raise CheckpointError(
            f"{path.with_name(TRANSFORMERS)}: modelBase must be an XLM-RoBERTa, LaBSE or multilingual BERT, "
            f"got {name!r}"
        )
    try:
        vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
        positions = weights["embeddings.position_embeddings.weight"].shape[0]
        inner = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
        types = weights["embeddings.token_type_embeddings.weight"].shape[0]
    except KeyError as err:
        raise CheckpointError(f"{path} does not fit: transformer.{err.args[0]} is missing") from err
    return {
        "model_type": "xlm-roberta" if is_roberta else "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len({one.split(".")[2] for one in weights if one.startswith("encoder.layer.")}),
        "num_attention_heads": max(width // 64, 1),
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-5 if is_roberta else 1e-12,
        "pad_token_id": 1 if is_roberta else 0,
    }


class LoadedImages(Encoder, Protocol):
    """An encoder whose images are used."""

    @property
    def running(self) -> Compute:
        """What ``auto`` came to."""
        ...


class TwoTowers:
    """Images by one model, texts by another. Thread-safe.

    :param image: its texts are not used.
    :param text: gives vectors of the image encoder's space.
    """

    def __init__(self, model_name: str, image: LoadedImages, text: TextTower) -> None:
        self._model_name = model_name
        self._image = image
        self._text = text

    @cached_property
    def space(self) -> Space:
        """What the vectors mean; the digest covers both towers.

        :raises CheckpointError: If the towers' vectors differ in length.
        """
        image = self._image.space
        if image.dim != self._text.dim:
            raise CheckpointError(
                f"{self._model_name}: its text tower gives vectors of {self._text.dim} numbers, the image "
                f"encoder {image.model_name} of {image.dim}; take the CLIP that the text tower was made for"
            )
        both = hashlib.blake2b(f"{image.weights} {self._text.digest}".encode(), digest_size=16)
        return Space(self._model_name, both.hexdigest(), image.preprocessing, image.dim)

    @property
    def running(self) -> Compute:
        """How the image encoder is run."""
        return self._image.running

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the square that the model sees."""
        return self._image.fit(image)

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, D) float32, not normalised."""
        return self._image.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised. A text that is too long for the model is cut."""
        self.space  # noqa: B018 - refuses towers that do not fit
        return self._text.encode_texts(texts)

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        return self._text.cut(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model reads."""
        return self._text.count_tokens(texts)
