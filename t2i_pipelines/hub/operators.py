"""``ops.image_text_embedding.clip``, ``ops.image_decode``, ``ops.towhee.np_normalize``, training, and output.

``.output()`` of a pipeline is replaced by one that is safe in threads, as :func:`t2i_pipelines.harden` does.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from t2i_pipelines._towhee.door import OPType, Pipeline, RuntimePipeline, TowheeImage, operator_class
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.encoders import models
from t2i_pipelines.encoders.vectors import unit
from t2i_pipelines.errors import ConfigError, T2IError, VectorError
from t2i_pipelines.finetune import FinetuneOptions, FinetuneResult, finetune
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.types import Device, Modality, Vector

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
    """Return the pairs, and the further arguments of :func:`t2i_pipelines.finetune.finetune`.

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


MODES = ("BGR", "RGB")


class Cv2(ImageDecode):
    """A path, URL or bytes -> ``towhee.types.Image``, (H, W, 3) uint8, at full size; a list -> a list.

    Images come upright, in sRGB, over white: see :mod:`t2i_pipelines.operators.image_decode`.

    :param mode: order of the channels, ``BGR`` or ``RGB``, in capitals or not.
    :raises ConfigError: If it is another.
    """

    def __init__(self, mode: str = "BGR") -> None:
        super().__init__()
        self._mode = str(mode).upper()
        if self._mode not in MODES:
            raise ConfigError(f"mode must be {' or '.join(MODES)}, got {mode!r}")

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N of what ``ops.t2i.image_decode`` reads -> N images.

        :raises ImageDecodeError: At the first that cannot be read.
        """
        images = super().many(items)
        return images if self._mode == "RGB" else [TowheeImage(swapped(image), "BGR") for image in images]


class Cv2Rgb(Cv2):
    """``cv2("rgb")``."""

    def __init__(self) -> None:
        super().__init__("RGB")


def swapped(image: Any) -> Any:
    """RGB as BGR, BGR as RGB: (H, W, 3) uint8."""
    return np.ascontiguousarray(image[..., ::-1])


class NpNormalize(Operator):
    """x -> x / ||x||, the Euclidean norm, along one axis: float32, of the same shape.

    :param axis: of the array, 0 and up, or from the end, -1 and down.
    """

    def __init__(self, axis: int = 0) -> None:
        self._axis = axis

    def __call__(self, vec: Sequence[float] | Vector) -> Vector:
        """(D,), or more axes -> unit length along ``axis``. The hub's operator gave NaN where this raises.

        :raises VectorError: If a vector is zero or not finite, or the array has no such axis.
        """
        try:
            normal: Vector = np.apply_along_axis(unit, self._axis, np.asarray(vec, np.float32))
        except VectorError:
            raise
        except (TypeError, ValueError) as err:  # NumPy's errors of axes among them
            raise VectorError(f"np_normalize(axis={self._axis!r}) of shape {np.shape(vec)}: {err}") from err
        return normal


def harden_every_output() -> None:
    """Let ``Pipeline.output`` return hardened pipelines, and raise our errors as themselves."""
    if not hasattr(Pipeline.output, "hardens"):
        Pipeline.output = _hardened(Pipeline.output)


def _hardened(output: Callable[..., RuntimePipeline]) -> Callable[..., RuntimePipeline]:
    @functools.wraps(output)
    def close(self: Pipeline, *columns: Any) -> RuntimePipeline:
        made = [node["op_info"] for node in self.dag.values() if node["op_info"]["type"] == OPType.HUB]
        known = [(told, operator_class(told["operator"], told["tag"])) for told in made]
        try:
            return harden(output(self, *columns))
        except RuntimeError as err:
            _raise_ours(known, err)
            raise

    close.hardens = True  # type: ignore[attr-defined]
    return close


def _raise_ours(known: list[tuple[dict[str, Any], Any]], err: RuntimeError) -> None:
    """Raise what an operator of this library did not like; Towhee has made a text of it."""
    for told, operator in known:
        if operator is not None and operator.__module__.startswith("t2i_pipelines."):
            try:
                operator(*(told["init_args"] or ()), **(told["init_kws"] or {}))
            except T2IError as ours:
                raise ours from err
            except TypeError as wrong:
                raise ConfigError(f"{told['operator']}: {wrong}") from err


FORMATS = {"onnx": "onnx", "pytorch": "torch"}
"""The hub's word for a format -> the field of :class:`~t2i_pipelines.ModelInfo` that says where it is."""


class HubClip(Clip):
    """Images or texts -> vectors (D,) float32, not normalised; a list -> a list, of one item, too.

    :param model_name: the hub's ``clip_vit_base_patch16`` and so on, or any other that
        :class:`~t2i_pipelines.config.Settings` takes, ``t2i_mini`` for one.
    :param modality: ``image`` or ``text``.
    :param device: ``cpu`` or -1; ``cuda``, ``cuda:0``; 0 and up, or None, for a GPU if there is one, else the
        CPU. The number of the GPU is ignored: ``CUDA_VISIBLE_DEVICES`` says.
    :param checkpoint_path: the model's file or folder, what :meth:`train` wrote for one.
    """

    def __init__(
        self,
        model_name: str,
        modality: Modality,
        device: str | int | None = "cpu",
        checkpoint_path: str | None = None,
    ) -> None:
        self._start: dict[str, Any] = {
            "model_name": model_name,
            "checkpoint_path": checkpoint_path,
            "device": device_of(device),
        }
        super().__init__(**self._start, modality=modality)

    def many(self, items: Sequence[Any]) -> list[Any]:
        """N images or N texts -> N vectors. An ``Image`` of mode BGR is put in order first.

        :raises QueryError: If a text is none.
        :raises EncodeError: If an image is not an (H, W, 3) uint8 array.
        """
        return super().many([_rgb(item) for item in items])

    @staticmethod
    def supported_model_names(format: str | None = None) -> list[str]:
        """Return the hub's names of models, sorted.

        ``model_name`` takes more, see :func:`t2i_pipelines.models`.

        :param format: only those whose weights are there as ``onnx``, or as ``pytorch``.
        :raises ConfigError: If the format is another.
        """
        if format is not None and format not in FORMATS:
            raise ConfigError(f"format must be None, {' or '.join(map(repr, FORMATS))}; got {format!r}")
        named = [model for model in models() if model.name.startswith("clip_")]
        return sorted(
            model.name for model in named if format is None or getattr(model, FORMATS[format]) is not None
        )

    def train(
        self,
        data_args: Mapping[str, Any],
        training_args: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> FinetuneResult:
        """Fine-tune this model by :func:`t2i_pipelines.finetune.finetune`, with the names of Hugging Face.

        ``checkpoint_path`` takes the result's ``path``, and ``checkpoint-N/pytorch_model.bin`` in it, which
        notebooks read; N is the number of steps. Both are the best weights. The operator stays as it is.

        :raises ConfigError: If an argument is unknown or wrong, or there is no ``train_file``.
        """
        pairs, arguments = finetune_arguments(data_args, training_args or {}, model_args or {})
        result = finetune(pairs, **self._start, **arguments)
        from t2i_pipelines.finetune.output import write_step

        write_step(result.path, result.steps)
        return result


def device_of(device: str | int | None) -> Device:
    """The hub's word for a device -> ours.

    :raises ConfigError: If it is none.
    """
    if isinstance(device, int) and not isinstance(device, bool):
        return "auto" if device >= 0 else "cpu"
    match str(device).partition(":"):
        case ("None" | "auto", "", _):
            return "auto"
        case ("cpu", "", _):
            return "cpu"
        case ("cuda", separator, number) if number.isdecimal() or not separator:
            return "cuda"
    raise ConfigError(f"device must be 'cpu', 'cuda', 'cuda:0', a number or None, got {device!r}")


def _rgb(item: Any) -> Any:
    if isinstance(item, TowheeImage) and item.mode == "BGR":
        return TowheeImage(swapped(item), "RGB")
    return item
