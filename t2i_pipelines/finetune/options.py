"""What fine-tuning can be told, checked as soon as it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from t2i_pipelines.config.checks import check_known, check_one_of, check_share, check_whole_number
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Device

Train: TypeAlias = Literal["all", "image", "text", "heads"]
Augment: TypeAlias = Literal["none", "crop", "crop+flip"]
TrainPrecision: TypeAlias = Literal["auto", "fp32", "bf16"]
MANY = 2**31 - 1


class FinetuneArgs(TypedDict, total=False):
    """What :func:`finetune` takes as keyword arguments; :class:`FinetuneOptions` says what each means."""

    train: Train
    epochs: int
    max_steps: int | None
    batch_size: int
    learning_rate: float | None
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    alpha: float | None
    augment: Augment
    replay_share: float
    validation_share: float
    recall_at: int
    patience: int | None
    eval_steps: int | None
    save_steps: int
    seed: int
    device: Device
    precision: TrainPrecision
    resume: bool
    overwrite: bool
    export: bool


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How a model is fine-tuned. Names are those of Hugging Face's ``TrainingArguments`` where it has one.

    :ivar train: what learns: ``all``, the ``image`` or the ``text`` tower alone, or the ``heads``: the two
        projections into the common space, on vectors that are computed once (seconds on a CPU).
    :ivar epochs: passes over the pairs, 1 and up.
    :ivar max_steps: end after so many batches, whatever ``epochs`` says; None sets no end.
    :ivar batch_size: pairs a batch, 2 to 65,536. What is no pair of a caption is its negative, so larger
        batches teach more.
    :ivar learning_rate: the highest; None takes one that is safe for the model's size and ``train``, see
        :func:`t2i_pipelines.finetune.trainer.safe_rate`.
    :ivar weight_decay: of matrices, AdamW's; biases, norms and the temperature do not decay.
    :ivar warmup_ratio: share of the steps in which the rate rises; then it falls to 0 by half a cosine.
    :ivar max_grad_norm: gradients of a larger L2 norm are scaled down to it.
    :ivar alpha: 0 to 1; the result is ``(1 - alpha) * start + alpha * tuned``, weight by weight (WiSE-FT,
        Wortsman et al. 2022, arXiv:2109.01903). None takes 1, and where ``outside`` pairs are given, the
        first of 1.0, 0.9, ... 0.1 that loses at most 2 points of recall there, or a lower one that is
        better inside.
    :ivar augment: ``crop`` shows the image tower at least 70 % of an image's area, another part each time;
        ``crop+flip`` mirrors half of them, too, which is wrong where captions tell left from right.
    :ivar replay_share: share of a batch that comes from ``replay``, where that is given; 0 to 1.
    :ivar validation_share: share of the images that is held out where ``validation`` is not given.
    :ivar recall_at: the k of the R@k that is watched, the mean of text to image and image to text. Take 1
        where there are few captions, as labels: of ten captions, half are among the best five.
    :ivar patience: stop after so many evaluations without a higher R@k; None never stops early. The weights
        of the best evaluation are taken either way.
    :ivar eval_steps: steps between evaluations; None is once an epoch.
    :ivar save_steps: steps between checkpoints that a killed run goes on from.
    :ivar seed: of the order, the split and the crops. On one machine's CPU, with one number of threads, the
        same seed gives the same weights, bit for bit.
    :ivar device: ``auto``, ``cpu`` or ``cuda``.
    :ivar precision: of the forward pass: ``auto``, ``fp32`` or ``bf16``. Weights, their gradients and the
        loss are fp32 always.
    :ivar resume: go on from the checkpoint that a killed run left in ``output_dir``.
    :ivar overwrite: replace what an earlier run left in ``output_dir``.
    :ivar export: write the ONNX folder, too.
    """

    train: Train = "all"
    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float = 0.05
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    alpha: float | None = None
    augment: Augment = "crop"
    replay_share: float = 0.5
    validation_share: float = 0.1
    recall_at: int = 5
    patience: int | None = 3
    eval_steps: int | None = None
    save_steps: int = 200
    seed: int = 0
    device: Device = "auto"
    precision: TrainPrecision = "auto"
    resume: bool = True
    overwrite: bool = False
    export: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        for name, kind in (
            ("train", Train),
            ("augment", Augment),
            ("device", Device),
            ("precision", TrainPrecision),
        ):
            check_one_of(name, getattr(self, name), kind)
        for name in ("epochs", "recall_at", "save_steps"):
            check_whole_number(name, getattr(self, name), MANY)
        for name in ("max_steps", "patience", "eval_steps"):
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name), MANY)
        check_whole_number("batch_size", self.batch_size, 65_536, lowest=2)
        check_whole_number("seed", self.seed, MANY, lowest=0)
        check_share("alpha", self.alpha, optional=True)
        for name in ("warmup_ratio", "replay_share", "validation_share"):
            check_share(name, getattr(self, name))
        for name in ("weight_decay", "max_grad_norm"):
            _check_number(name, getattr(self, name), above_zero=name == "max_grad_norm")
        if self.learning_rate is not None:
            _check_number("learning_rate", self.learning_rate, above_zero=True)
        for name in ("resume", "overwrite", "export"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, **options: object) -> FinetuneOptions:
        """Build from keyword arguments.

        :raises ConfigError: If one is unknown; the message lists the known.
        """
        check_known(cls, options)
        return cls(**options)  # type: ignore[arg-type]


def _check_number(name: str, value: object, *, above_zero: bool) -> None:
    """A finite number, at least 0.

    :raises ConfigError: If it is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if not number or (above_zero and not value):
        raise ConfigError(f"{name} must be {'more than' if above_zero else 'at least'} 0, got {value!r}")
