"""The options of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from t2i_pipelines.config.checks import (
    Checked,
    Cli,
    described,
    flag,
    number,
    one_of,
    setting,
    share,
    whole_number,
)
from t2i_pipelines.types import Device

Train: TypeAlias = Literal["all", "image", "text", "heads"]
Augment: TypeAlias = Literal["none", "crop", "crop+flip"]
TrainPrecision: TypeAlias = Literal["auto", "fp32", "bf16"]
MANY = 2**31 - 1


@described
@dataclass(kw_only=True)
class FinetuneOptions(Checked):
    """How a model is fine-tuned. Names are those of Hugging Face's ``TrainingArguments`` where it has one."""

    train: Train = setting(
        "all",
        "Part to train: all, image, text, or heads. ``image`` and ``text`` are one tower alone, ``heads`` "
        "the two projections into the common space, on vectors that are computed once (seconds on a CPU).",
        one_of(Train),
    )
    epochs: int = setting(10, "Passes over the pairs. 1 and up.", whole_number(MANY))
    max_steps: int | None = setting(
        None,
        "Maximum number of steps. It may end a run before ``epochs`` does.",
        whole_number(MANY, optional=True),
    )
    batch_size: int = setting(
        64,
        "Pairs per batch. 2 to 65,536. What is no pair of a caption is its negative, so larger batches teach "
        "more.",
        whole_number(65_536, lowest=2),
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate; by default a safe one for the model. It follows from the model's size and "
        "``train``, see :func:`t2i_pipelines.finetune.trainer.safe_rate`.",
        number(above_zero=True, optional=True),
    )
    weight_decay: float = setting(
        0.05, "Weight decay of AdamW, for matrices. Biases, norms and the temperature do not decay.", number()
    )
    warmup_ratio: float = setting(
        0.1, "Share of the steps in which the rate rises. Then it falls to 0 by half a cosine.", share()
    )
    max_grad_norm: float = setting(
        1.0, "Gradients of a larger L2 norm are scaled down to it.", number(above_zero=True)
    )
    alpha: float | None = setting(
        None,
        "Share of the tuned weights in the result; by default chosen. 0 to 1; the result is ``(1 - alpha) * "
        "start + alpha * tuned``, weight by weight (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). None "
        "takes 1, and where ``outside`` pairs are given, the first of 1.0, 0.9, ... 0.1 that loses at most 2 "
        "points of recall there, or a lower one that is better inside.",
        share(optional=True),
    )
    augment: Augment = setting(
        "crop",
        "none, crop or crop+flip. ``crop`` shows the image tower at least 70 % of an image's area, another "
        "part each time; ``crop+flip`` mirrors half of them, too, which is wrong where captions tell left "
        "from right.",
        one_of(Augment),
    )
    replay_share: float = setting(
        0.5, "Share of a batch that comes from ``replay``, where that is given. 0 to 1.", share()
    )
    validation_share: float = setting(0.1, "Share of the images to hold out without --validation.", share())
    recall_at: int = setting(
        5,
        "The k of the R@k to monitor. The mean of text to image and image to text. Take 1 where there "
        "are few captions, as labels: of ten captions, half are among the best five.",
        whole_number(MANY),
    )
    patience: int | None = setting(
        3,
        "Evaluations without a better R@k before it stops. None never stops early. The weights of the best "
        "evaluation are taken either way.",
        whole_number(MANY, optional=True),
        cli=Cli(
            kind=int,
            convert=lambda given: given or None,
            help="Evaluations without a better R@k before training stops; 0 never stops early.",
        ),
    )
    eval_steps: int | None = setting(
        None, "Steps between evaluations; None is once an epoch.", whole_number(MANY, optional=True)
    )
    save_steps: int = setting(
        200, "Steps between checkpoints that a killed run goes on from.", whole_number(MANY)
    )
    seed: int = setting(
        0,
        "Seed of the order, the split and the crops. On one machine's CPU, with one number of threads, the "
        "same seed gives the same weights, bit for bit.",
        whole_number(MANY, lowest=0),
    )
    device: Device = setting("auto", "auto, cpu or cuda.", one_of(Device))
    precision: TrainPrecision = setting(
        "auto",
        "auto, fp32 or bf16; weights are fp32. Of the forward pass; weights, their gradients and the loss "
        "are fp32 always.",
        one_of(TrainPrecision),
    )
    resume: bool = setting(
        True,
        "Resume a run that was killed. From the checkpoint in ``output_dir``.",
        flag,
        cli=Cli(flags=("--resume/--no-resume",)),
    )
    overwrite: bool = setting(
        False, "Replace a finished model. What an earlier run left in ``output_dir``.", flag
    )
    export: bool = setting(
        True, "Write the ONNX folder, too.", flag, cli=Cli(flags=("--export/--no-export",))
    )
