"""``ops.image_text_embedding.clip``.

``ops.image_decode.cv2`` and ``ops.image_decode.cv2_rgb``.

``ops.towhee.np_normalize``.

``.output()`` that makes pipelines safe to run, for notebooks that know nothing of this library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t2i_pipelines._towhee.door import OPType, Pipeline, RuntimePipeline, TowheeImage, operator_class
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.encoders import models
from t2i_pipelines.encoders.vectors import unit
from t2i_pipelines.errors import ConfigError, T2IError, VectorError
from t2i_pipelines.finetune import FinetuneResult, finetune
from t2i_pipelines.hub.training_args import finetune_arguments
from t2i_pipelines.operators.base import Operator
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.types import Device, Modality, Vector

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
        """The hub's names of models, sorted; ``model_name`` takes more, see :func:`t2i_pipelines.models`.

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
        """Fine-tune this model by :func:`t2i_pipelines.finetune.finetune`, told in Hugging Face's names.

        See :mod:`t2i_pipelines.hub.training_args`. The result's ``path`` is what ``checkpoint_path`` takes;
        the operator itself stays as it is.

        :raises ConfigError: If an argument is unknown or wrong, or there is no ``train_file``.
        """
        pairs, arguments = finetune_arguments(data_args, training_args or {}, model_args or {})
        return finetune(pairs, **self._start, **arguments)


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
