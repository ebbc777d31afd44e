"""Hugging Face's names of training arguments, as the hub's ``train()`` took them, and what they are here.

=================================  ==========================================
``train_file``                     the pairs: a JSON list, or lines, of ``image_path`` and ``caption``
``validation_file``                ``validation``
``num_train_epochs``               ``epochs``
``per_device_train_batch_size``    ``batch_size``
``overwrite_output_dir``           ``overwrite``
``freeze_vision_model``            ``train="text"``
``freeze_text_model``              ``train="image"``; with both, ``train="heads"``
``eval_steps``                     the same, if ``eval_strategy="steps"``, as with Hugging Face
=================================  ==========================================

Names that :class:`~t2i_pipelines.finetune.FinetuneOptions` has itself stay as they are. What has no meaning
here, such as ``image_mean``, which is the model's own, is ignored, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.finetune import FinetuneOptions

log = logging.getLogger("t2i_pipelines.hub")

RENAMED = {
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "overwrite_output_dir": "overwrite",
}
OWN = frozenset(one.name for one in fields(FinetuneOptions)) - {*RENAMED.values(), "device", "train"}
STRATEGIES = ("eval_strategy", "evaluation_strategy")
FREEZE = ("freeze_vision_model", "freeze_text_model")
TRAIN = {(False, False): "all", (True, False): "text", (False, True): "image", (True, True): "heads"}

MOOT = {
    "data_args": {
        "data_dir", "dataset_config_name", "max_seq_length", "image_mean", "image_std", "overwrite_cache",
        "preprocessing_num_workers", "test_file",
    },
    "training_args": {
        "per_device_eval_batch_size", "do_eval", "do_predict", "remove_unused_columns",
        "dataloader_drop_last", "dataloader_num_workers", "logging_steps", "logging_dir",
        "save_strategy", "save_total_limit", "report_to", "disable_tqdm", "push_to_hub", *STRATEGIES,
    },
    "model_args": {"cache_dir", "model_revision", "use_fast_tokenizer", "use_auth_token"},
}  # fmt: skip
"""Names that are taken and change nothing: a model's size, mean and tokenizer are its own, and so on."""

KNOWN = {
    "data_args": {"train_file", "validation_file", "dataset_name", "image_column", "caption_column"},
    "training_args": {*RENAMED, *OWN, "output_dir", "do_train"},
    "model_args": set(FREEZE),
}
FIXED = {"dataset_name": None, "image_column": "image_path", "caption_column": "caption", "do_train": True}
"""Names that can be given, with the only value that they can have here."""


def finetune_arguments(
    data_args: Mapping[str, Any], training_args: Mapping[str, Any], model_args: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The pairs, and the further arguments of :func:`t2i_pipelines.finetune.finetune`.

    :raises ConfigError: If a name is unknown, a value cannot be, or there is no ``train_file``.
    """
    given = {"data_args": data_args, "training_args": training_args, "model_args": model_args}
    for name, some in given.items():
        _check(name, some)
    if not data_args.get("train_file"):
        raise ConfigError("data_args has no train_file, the JSON of image_path and caption to learn from")
    chosen = {RENAMED.get(name, name): training_args[name] for name in training_args if name in _ours()}
    if "steps" not in [training_args.get(name) for name in STRATEGIES]:
        chosen.pop("eval_steps", None)
    if (chosen.get("max_steps") or 0) < 0:  # Hugging Face's -1
        del chosen["max_steps"]
    arguments = FinetuneOptions.of(**chosen)  # refuses what cannot work, before anything is read
    frozen = tuple(bool(model_args.get(name)) for name in FREEZE)
    chosen = {name: getattr(arguments, name) for name in chosen}
    if "output_dir" in training_args:
        chosen["output_dir"] = training_args["output_dir"]
    if data_args.get("validation_file"):
        chosen["validation"] = data_args["validation_file"]
    return data_args["train_file"], {**chosen, "train": TRAIN[frozen[0], frozen[1]]}


def _ours() -> frozenset[str]:
    return OWN | RENAMED.keys()


def _check(name: str, arguments: Mapping[str, Any]) -> None:
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{name} must be a dict, got {arguments!r:.80}")
    known = KNOWN[name] | MOOT[name]
    if unknown := [one for one in arguments if one not in known]:
        raise ConfigError(
            f"{name} has {unknown[0]!r}, which is unknown; known are {', '.join(sorted(known))}"
        )
    for one, value in FIXED.items():
        if one in arguments and arguments[one] != value:
            raise ConfigError(f"{name} has {one}={arguments[one]!r}, and only {value!r} is possible here")
    if moot := sorted(arguments.keys() & MOOT[name]):
        log.info("%s: %s changes nothing here", name, ", ".join(moot))
