"""The ways in which CLIPs are stored, recognised by what is there, never by a guess.

* open_clip: ``open_clip_config.json`` beside ``open_clip_model.safetensors``. Where it does not say
  ``quick_gelu``, the model's name tells it; without a name it is GELU, open_clip's default, and a warning
  is logged. open_clip's own upload writes ``quick_gelu`` for OpenAI's weights (``push_to_hf_hub.py``), but
  folders of other makers may leave it out.
* transformers: ``config.json`` with ``model.safetensors``, ``pytorch_model.bin`` or the index of several
  files. A CLIPModel is built as OpenAI's architecture, others by transformers itself.
* sentence-transformers: ``modules.json`` names the folder of a CLIPModel, stored as transformers does.
* open_clip, weights alone: the caller names the model, and open_clip has the config, as of MobileCLIP.
* OpenAI: one ``.pt`` file. A TorchScript archive's own source tells the activation; for a plain state dict
  the model's name must tell it.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_pipelines.encoders.checkpoints import INDEX, Weights, activation_of
from t2i_pipelines.encoders.models import SUFFIXES, ModelInfo
from t2i_pipelines.encoders.onnx_folder import cleaning, pad_token_of, read_json
from t2i_pipelines.encoders.openai_clip import Details, import_extra, is_openai_clip
from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from t2i_pipelines.encoders.tokenizer import CONTEXT_LENGTH, openai_tokenizer, read_tokenizer
from t2i_pipelines.encoders.transformers_clip import (
    Family,
    build,
    complete,
    family_of,
    text_tokenizer,
    vector_length,
)
from t2i_pipelines.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

log = logging.getLogger(__name__)

OPENCLIP, TRANSFORMERS, MODULES = "open_clip_config.json", "config.json", "modules.json"
WEIGHTS = {
    OPENCLIP: ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    TRANSFORMERS: (
        "model.safetensors",
        "pytorch_model.bin",
        f"model.safetensors{INDEX}",
        f"pytorch_model.bin{INDEX}",
    ),
}
OPENAI_VOCABULARY = 49408
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}


@dataclass
class Checkpoint:
    """One stored model.

    :ivar weights: the file.
    :ivar config: open_clip's model config, as far as it is known.
    :ivar details: for OpenAI's architecture; None for what only open_clip can build.
    :ivar preprocessing: open_clip's preprocessing settings, without the size where the weights tell it.
    :ivar is_transformers: whether ``preprocessor_config.json`` of the folder decides the preprocessing.
    """

    weights: Path
    config: dict[str, Any]
    details: Details | None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    is_transformers: bool = False

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.config["embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens that a text is padded or cut to."""
        return int(self.config["text_cfg"].get("context_length", CONTEXT_LENGTH))

    @property
    def clean(self) -> str:
        """How texts are cleaned: a key of ``tokenizer.CLEANING``."""
        return cleaning(self.config["text_cfg"])

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes a tensor."""
        size = self.config["vision_cfg"]["image_size"]
        if self.is_transformers and (found := Preprocess.of_folder(self.weights.parent, size)):
            return found
        defaults = {"size": size, "mean": CLIP_MEAN, "std": CLIP_STD}
        given = {name: value for name, value in self.preprocessing.items() if value is not None}
        return Preprocess.of({**defaults, **given}, str(self.weights.parent))

    def tokenizer(self) -> Tokenizer:
        """Return the folder's ``tokenizer.json``, or OpenAI's where the vocabulary is OpenAI's.

        :raises CheckpointError: If there is neither.
        """
        path = self.weights.with_name("tokenizer.json")
        if path.is_file():
            return read_tokenizer(path, self.context_length, pad_token_of(path.parent))
        if self.config["text_cfg"].get("vocab_size") == OPENAI_VOCABULARY:
            return openai_tokenizer(self.context_length)
        raise CheckpointError(
            f"{self.weights.parent} has no tokenizer.json, and the model's vocabulary of "
            f"{self.config['text_cfg'].get('vocab_size')} tokens is not OpenAI's"
        )

    def take_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Complete the config with what the shapes of the weights show.

        :raises CheckpointError: If the config says otherwise.
        """
        image_size = self.config.get("vision_cfg", {}).get("image_size", sizes["image_resolution"])
        told = (self.config.get("embed_dim", sizes["embed_dim"]), image_size)
        if told != (sizes["embed_dim"], sizes["image_resolution"]):
            raise CheckpointError(
                f"{self.weights} has embed_dim {sizes['embed_dim']} and image_size "
                f"{sizes['image_resolution']}, the config in its folder says {told[0]} and {told[1]}"
            )
        assert self.details is not None
        layers = sizes["vision_layers"]
        vision = {
            "image_size": sizes["image_resolution"],
            "layers": list(layers) if isinstance(layers, tuple) else layers,
            "width": sizes["vision_width"],
            "patch_size": sizes["vision_patch_size"],
        }
        text = {
            "context_length": sizes["context_length"],
            "vocab_size": sizes["vocab_size"],
            "width": sizes["transformer_width"],
            "heads": self.details.heads[1] or sizes["transformer_heads"],
            "layers": sizes["transformer_layers"],
        }
        self.config = {
            **self.config,
            "embed_dim": sizes["embed_dim"],
            "quick_gelu": self.details.quick_gelu[0],
            "vision_cfg": {**self.config.get("vision_cfg", {}), **vision},
            "text_cfg": {**self.config.get("text_cfg", {}), **text},
        }


@dataclass
class FamilyCheckpoint(Checkpoint):
    """One stored model that transformers builds.

    :ivar family: how it is built and fed.
    """

    family: Family | None = None

    @property
    def _family(self) -> Family:
        assert self.family is not None
        return self.family

    @cached_property
    def _complete(self) -> dict[str, Any]:
        return complete(self.config, self._family.model, str(self.weights.parent / TRANSFORMERS))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return vector_length(self._complete)

    @property
    def context_length(self) -> int:
        """Tokens that the text tower has room for."""
        text = self._complete["text_config"]
        positions = int(text["max_position_embeddings"])
        # RoBERTa numbers positions from behind the id of padding on
        return positions - (text["pad_token_id"] + 1 if self.config["model_type"] == "altclip" else 0)

    @property
    def clean(self) -> str:
        """How texts are cleaned: by the tokenizer itself."""
        return "none"

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes a tensor."""
        size, usual = self._complete["vision_config"]["image_size"], self._family.processor
        found = Preprocess.of_folder(self.weights.parent, size, usual)
        return found or Preprocess.of_processor({}, str(self.weights.parent), size, usual)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return text_tokenizer(self.weights.parent, self.context_length, pads=self._family.pads)

    def tokenizer(self) -> Tokenizer:
        """Return the folder's tokenizer, padded as the family's texts are.

        :raises CheckpointError: If there is none.
        """
        return self._tokenizer

    @property
    def masked(self) -> int | None:
        """The id of padding, where the text tower must not see it."""
        return None if self._family.pads else int((self._tokenizer.padding or {})["pad_id"])

    def build(self, weights: Weights) -> nn.Module:
        """Return the module with these weights.

        :raises CheckpointError: With the first weight that does not fit.
        """
        return build(self._complete, self._family.model, weights, str(self.weights))


def read_checkpoint(path: Path, info: ModelInfo | None, pair: str | None = None) -> Checkpoint:
    """Find out how a file or folder stores a model; reads the configs, not the weights.

    :param info: what the name says of the model, where the files leave it open.
    :param pair: open_clip's name of the model, where there is no config: ``MobileCLIP-S1``, or with the
        weights' tag ``MobileCLIP-S1/datacompdr``.
    :raises CheckpointError: If no known way fits; the message says what was looked for.
    """
    if (path / MODULES).is_file():
        path = _of_sentences(path)
    folder = path if path.is_dir() else path.parent
    for config, names in WEIGHTS.items():
        if not (folder / config).is_file():
            continue
        weights = [folder / name for name in names] if path.is_dir() else [path]
        found = next((one for one in weights if one.is_file()), None)
        if found is None or (not path.is_dir() and path.name not in names and path.suffix == ".pt"):
            continue
        read = _of_openclip if config == OPENCLIP else _of_transformers
        return _compared(read(found, folder, info), info)
    if pair is not None:
        return _compared(_of_pair(_weights_of(path), pair), info)
    if path.is_dir():
        wanted = ", or ".join(f"{config} with {names[0]}" for config, names in WEIGHTS.items())
        raise CheckpointError(f"{path} holds no model: there is no {wanted}, nor the files of an ONNX folder")
    return _compared(_of_openai(path, info), info)


def _of_sentences(folder: Path) -> Path:
    """Return the folder of the CLIPModel that a folder of sentence-transformers is made of."""
    try:
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        kinds = [str(one["type"]).rpartition(".")[2] for one in modules]
        inner = folder / str(modules[0]["path"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as err:
        raise CheckpointError(f"{folder / MODULES} cannot be read: {type(err).__name__} {err}") from err
    if kinds[0] != "CLIPModel" or set(kinds[1:]) - {"Normalize"}:
        raise CheckpointError(
            f"{folder} holds {', '.join(kinds)}, which read texts alone; join it to the image encoder that "
            "it was made for by t2i_pipelines.encoders.two_towers.TwoTowers"
        )
    return inner


def _compared(checkpoint: Checkpoint, info: ModelInfo | None) -> Checkpoint:
    """The checkpoint, with a warning if it states another activation than the model that was named has."""
    if info is not None and info.quick_gelu is not None and checkpoint.details is not None:
        stated = checkpoint.details.quick_gelu
        if stated != (info.quick_gelu, info.quick_gelu):
            _warn_once(
                f"{checkpoint.weights} is stored as a model with {_name(stated[0])} in its image tower and "
                f"{_name(stated[1])} in its text tower; {info.name} has {_name(info.quick_gelu)}. What the "
                f"files state is taken; make sure that these are the weights of {info.name}"
            )
    return checkpoint


def _name(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _of_openclip(weights: Path, folder: Path, info: ModelInfo | None) -> Checkpoint:
    stored = read_json(folder / OPENCLIP)
    try:
        cfg = dict(stored["model_cfg"])
        ours = is_openai_clip(cfg)
        _ = cfg["vision_cfg"], cfg["text_cfg"]
    except (KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(f"{folder / OPENCLIP} is no open_clip config: it has no {err}") from err
    details = _details(cfg, _quick_gelu(cfg, folder, info)) if ours else None
    return Checkpoint(weights, cfg, details, dict(stored.get("preprocess_cfg", {})))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) or "none"
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _details(cfg: Mapping[str, Any], quick: bool) -> Details | None:
    """Return the settings of OpenAI's architecture that weights do not hold; None for other architectures."""
    if not is_openai_clip(cfg):
        return None
    vision = cfg["vision_cfg"]
    head = vision.get("head_width", 64)
    width = vision["width"] * (32 if isinstance(vision["layers"], list) else 1)
    return Details(quick_gelu=(quick, quick), heads=(width // head, cfg["text_cfg"].get("heads")))


def _weights_of(path: Path) -> Path:
    """Return the one file of weights in a folder, or the file itself.

    :raises CheckpointError: If there are several, or none.
    """
    if not path.is_dir():
        return path
    found = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or f"no {', '.join(SUFFIXES)}"
        raise CheckpointError(f"{path} has {names}: give the file of the weights itself")
    return found[0]


def _of_pair(weights: Path, pair: str) -> Checkpoint:
    """Take the config and the preprocessing settings that open_clip itself has for a name and tag."""
    open_clip = import_extra("open_clip")
    name, _, tag = pair.partition("/")
    tag = tag.lower().replace("-", "_")
    cfg = open_clip.get_model_config(name)
    if cfg is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        raise CheckpointError(f"open_clip knows no model {name!r}; the nearest are {', '.join(near)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise CheckpointError(f"open_clip knows no weights {tag!r} of {name}; known are {_some(tags)}")
    keys = ("mean", "std", "interpolation", "resize_mode", "quick_gelu")
    told = {one: open_clip.get_pretrained_cfg(name, one) for one in ([tag] if tag else tags)}
    settings = [{key: given.get(key) for key in keys} for given in told.values()]
    if any(one != settings[0] for one in settings):
        raise CheckpointError(
            f"the weights of {name} differ in preprocessing or activation: say which, as in "
            f"{name}/{tags[0]}; known are {_some(tags)}"
        )
    preprocessing = dict(settings[0]) if settings else {}
    quick = bool(preprocessing.pop("quick_gelu", False) or cfg.get("quick_gelu", False))
    if quick:
        cfg["quick_gelu"] = True
    return Checkpoint(weights, cfg, _details(cfg, quick), preprocessing)


def _quick_gelu(cfg: Mapping[str, Any], folder: Path, info: ModelInfo | None) -> bool:
    stated = cfg.get("quick_gelu")
    if stated is None and info is not None:
        stated = info.quick_gelu
    if stated is None:
        _warn_once(
            f"{folder / OPENCLIP} does not say quick_gelu; GELU is taken, as open_clip does. OpenAI's "
            'weights need QuickGELU: if these are, put "quick_gelu": true into its model_cfg, or name the '
            "model, such as model_name='ViT-B/32', with this path as checkpoint_path. If GELU is right, "
            '"quick_gelu": false there ends this warning'
        )
    return bool(stated)


def _of_transformers(weights: Path, folder: Path, info: ModelInfo | None) -> Checkpoint:
    stored = read_json(folder / TRANSFORMERS)
    if stored.get("model_type") != "clip" or "auto_map" in stored:
        family = family_of(stored, str(folder / TRANSFORMERS))
        return FamilyCheckpoint(weights, stored, None, is_transformers=True, family=family)
    towers = [stored.get("vision_config") or {}, stored.get("text_config") or {}]
    quick = tuple(_activation(one.get("hidden_act", "quick_gelu"), folder) for one in towers)
    heads = tuple(one.get("num_attention_heads") for one in towers)
    eos, vocabulary = towers[1].get("eos_token_id", 49407), towers[1].get("vocab_size", OPENAI_VOCABULARY)
    if eos not in (2, vocabulary - 1, None):
        raise CheckpointError(
            f"{folder / TRANSFORMERS}: texts end at token {eos} of {vocabulary}; CLIP's end at the last one"
        )
    epsilons = {one.get("layer_norm_eps", 1e-5) for one in towers}
    if len(epsilons) > 1:
        raise CheckpointError(f"{folder / TRANSFORMERS}: the towers' layer_norm_eps differ: {epsilons}")
    details = Details(
        quick_gelu=(quick[0], quick[1]),
        heads=(heads[0] or 12, heads[1] or 8),  # transformers' defaults
        epsilon=epsilons.pop(),
    )
    return Checkpoint(weights, {}, details, is_transformers=True)


def _activation(name: str, folder: Path) -> bool:
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            f"{folder / TRANSFORMERS}: hidden_act must be {' or '.join(_ACTIVATIONS)}, got {name!r}"
        )
    return _ACTIVATIONS[name]


def _of_openai(path: Path, info: ModelInfo | None) -> Checkpoint:
    quick = activation_of(path)
    if quick is None and info is not None:
        quick = info.quick_gelu
    if quick is None:
        raise CheckpointError(
            f"{path} does not tell its activation, QuickGELU or GELU, and it is not guessed. Put the model's "
            f"{OPENCLIP} or {TRANSFORMERS} beside it, or name the model: model_name='ViT-B/32' and this path "
            "as checkpoint_path"
        )
    return Checkpoint(path, {}, Details(quick_gelu=(quick, quick)))
