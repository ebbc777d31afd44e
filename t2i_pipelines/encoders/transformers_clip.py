"""Build models of transformers by its own classes, from a folder's ``config.json`` and weights.

============== ==================================================== ================================
``model_type`` Family                                                Texts
============== ==================================================== ================================
chinese_clip   Chinese-CLIP                                          first token; padding is masked
altclip        AltCLIP                                               first token; padding is masked
siglip         SigLIP, and SigLIP 2 of a fixed size                  last of all tokens, padding too
metaclip_2     MetaCLIP 2                                            end mark; padding is masked
============== ==================================================== ================================

Code of a repository is never run: a config that names some (``auto_map``) is refused, as is a model type that
is not known here. Texts are read by the tokenizer that transformers builds for the folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from t2i_pipelines.encoders.checkpoints import Weights
from t2i_pipelines.encoders.onnx_folder import read_json
from t2i_pipelines.encoders.openai_clip import import_extra
from t2i_pipelines.encoders.tokenizer import canonical, read_tokenizer, set_length
from t2i_pipelines.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Family(NamedTuple):
    """How a model type is built and fed.

    :ivar model: class of transformers.
    :ivar pads: texts are padded to the full length, and the model sees the padding.
    :ivar processor: what prepares images where the folder does not say it.
    """

    model: str
    pads: bool = False
    processor: str = "CLIPImageProcessor"


FAMILIES = {
    "chinese_clip": Family("ChineseCLIPModel", processor="ChineseCLIPImageProcessor"),
    "altclip": Family("AltCLIPModel"),
    "metaclip_2": Family("MetaClip2Model"),
    "siglip": Family("SiglipModel", pads=True, processor="SiglipImageProcessor"),
}
_REFUSED = {
    "siglip2": "it is SigLIP 2's NaFlex form, which reads each image in a shape of its own, not in a square; "
    "take a form of a fixed size, such as google/siglip2-base-patch16-256, whose model_type is 'siglip'",
    "M-CLIP": "it reads texts alone; join it to the image encoder that it was made for by "
    "t2i_pipelines.encoders.two_towers.TwoTowers",
}
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
"""Files of which one must be there to read texts."""


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """Return how a ``config.json`` of transformers is built.

    :param where: the file, for the message.
    :raises CheckpointError: If it names code of its repository, or no model type that is known here.
    """
    kind = config.get("model_type")
    if "auto_map" in config:
        raise CheckpointError(
            f"{where} is of a {kind!r} model that needs code of its own repository (auto_map), which is "
            "never run; take an ONNX form of it, or another model"
        )
    if kind not in FAMILIES:
        why = _REFUSED.get(str(kind), f"known are clip, {', '.join(FAMILIES)}, and open_clip's files")
        raise CheckpointError(f"{where} is of a {kind!r} model, which is not supported: {why}")
    return FAMILIES[kind]


def vector_length(config: Mapping[str, Any]) -> int:
    """Return the length of the vectors of a config that transformers has completed."""
    if config["model_type"] == "siglip":  # it projects texts to the width of images
        return int(config["vision_config"]["hidden_size"])
    return int(config["projection_dim"])


def complete(config: Mapping[str, Any], model: str, where: str) -> dict[str, Any]:
    """Return a ``config.json`` with the defaults of transformers' class filled in.

    :raises MissingExtraError: If transformers is not installed.
    :raises CheckpointError: If transformers cannot read it.
    """
    return dict(_config(config, model, where).to_dict())


def _config(config: Mapping[str, Any], model: str, where: str) -> Any:
    kind = getattr(import_extra("transformers"), model).config_class
    try:
        return kind.from_dict(dict(config))
    except Exception as err:  # transformers' and huggingface_hub's own, for each kind of mistake
        raise CheckpointError(f"{where} is no config of {model}: {err}") from err


def build(config: Mapping[str, Any], model: str, weights: Weights, where: str, **options: Any) -> nn.Module:
    """Return the module with these weights, in evaluation mode.

    transformers renames weights that its earlier versions named otherwise.

    :param model: class of transformers.
    :param where: the file of the weights, for the message.
    :param options: further arguments of the class.
    :raises CheckpointError: With the first weight that is missing, superfluous or of another shape.
    """
    made = _config(config, model, where)
    kind = getattr(import_extra("transformers"), model)
    with _quiet():
        module, report = kind.from_pretrained(
            None,
            config=made,
            state_dict=dict(weights),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    if mismatch := _first_mismatch(module, report, weights):
        raise CheckpointError(f"{where} does not fit the model that its config calls for: {mismatch}")
    built: nn.Module = module.eval().requires_grad_(False)
    return built


def _first_mismatch(module: nn.Module, report: Mapping[str, Any], weights: Weights) -> str | None:
    otherwise = {name: tuple(found) for name, found, _ in report["mismatched_keys"]}
    for name, value in module.state_dict().items():
        if name in report["missing_keys"]:
            return f"{name} {tuple(value.shape)} is missing"
        if name in otherwise:
            return f"{name} is {otherwise[name]}, not {tuple(value.shape)}"
    for name in weights:
        if name in report["unexpected_keys"] and not name.endswith("position_ids"):
            return f"{name} {tuple(weights[name].shape)} has no place in the model"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Print neither transformers' progress nor its report of weights that do not fit."""
    logging = importlib.import_module("transformers.utils.logging")
    shows, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()


def encode_image(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) -> (N, D), not normalised."""
    return _vectors(model.get_image_features(pixel_values=pixels))


def encode_text(model: Any, pad: int | None, ids: torch.Tensor) -> torch.Tensor:
    """(N, L) ids -> (N, D), not normalised.

    :param pad: the id of padding, which is masked; None where the model sees the padding.
    """
    mask = {} if pad is None else {"attention_mask": (ids != pad).long()}
    return _vectors(model.get_text_features(input_ids=ids, **mask))


def _vectors(found: Any) -> torch.Tensor:
    vectors: torch.Tensor = getattr(found, "pooler_output", found)  # a tensor before transformers 5
    return vectors


def text_tokenizer(folder: Path, positions: int, *, pads: bool) -> Tokenizer:
    """Return the tokenizer of a folder of transformers, as its AutoTokenizer sets it up.

    :param positions: tokens that the model has room for; what the tokenizer says may be fewer.
    :param pads: pad to the full length; else to the longest text.
    :raises CheckpointError: If there is none, or it is code of a repository.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)}")
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if "auto_map" in settings:
        raise CheckpointError(f"{path} names code of its own repository (auto_map), which is never run")
    if str(settings.get("tokenizer_class", "")).startswith("SiglipTokenizer"):
        return _of_siglip(folder, settings, positions)
    import_extra("transformers")
    auto = importlib.import_module("transformers").AutoTokenizer
    try:
        with _quiet():
            loaded = auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as err:  # of transformers, tokenizers and sentencepiece
        raise CheckpointError(f"transformers cannot read the tokenizer in {folder}: {err}") from err
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None or loaded.pad_token is None:
        raise CheckpointError(
            f"the tokenizer in {folder}, a {type(loaded).__name__}, has no fast form, or does not say what "
            "to pad with; add the tokenizer.json of its model"
        )
    tokenizer: Tokenizer = type(backend).from_str(backend.to_str())
    length = min(int(loaded.model_max_length), positions)
    set_length(tokenizer, length, loaded.pad_token, pads=pads, side=loaded.padding_side)
    return tokenizer


def _of_siglip(folder: Path, settings: Mapping[str, Any], positions: int) -> Tokenizer:
    """Return SigLIP's first tokenizer, which transformers has in a slow form only."""
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json, which a SiglipTokenizer is read from")
    tokenizer = canonical(read_tokenizer(folder / "tokenizer.json", positions, _named(settings, "</s>")))
    length = min(int(settings.get("model_max_length") or positions), positions)
    set_length(tokenizer, length, _named(settings, "</s>"), pads=True)
    return tokenizer


def _named(settings: Mapping[str, Any], usual: str) -> str:
    """Return the padding token, which may be stored with its details."""
    token = settings.get("pad_token") or usual
    return str(token["content"] if isinstance(token, Mapping) else token)
