"""``ops.image_text_embedding.clip``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_pipelines._towhee.door import TowheeImage
from t2i_pipelines.encoders import models
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.finetune import FinetuneResult, finetune
from t2i_pipelines.hub.image_decode import swapped
from t2i_pipelines.hub.training_args import finetune_arguments
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.types import Device, Modality

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
