"""Fine-tune a CLIP on one's own images and captions: ``finetune(pairs, model_name=...)``.

The loss counts every caption that is known to be true of an image as right, so that captions which
occur twice in a batch are no negatives of each other; see :mod:`t2i_pipelines.finetune.clip`. Needs the
extra ``torch``; importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from t2i_pipelines._towhee.door import clip_models
from t2i_pipelines.config.args import FinetuneArgs
from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.config.training import FinetuneOptions
from t2i_pipelines.finetune.result import FinetuneResult, Progress

__all__ = ["FinetuneArgs", "FinetuneOptions", "FinetuneResult", "Progress", "finetune"]


def finetune(
    pairs: Any,
    *,
    model_name: str = DEFAULT_MODEL,
    checkpoint_path: str | Path | None = None,
    output_dir: str | Path = "finetuned",
    validation: Any = None,
    outside: Any = None,
    replay: Any = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[FinetuneArgs],
) -> FinetuneResult:
    """Train a CLIP further, on pairs of images and captions.

    An image that cannot be read is one entry of ``failed``, and no reason to stop.

    :param pairs: what :func:`~t2i_pipelines.evaluate.evaluate` takes: a table with ``path`` and ``caption``
        columns, Hugging Face's caption JSON (a list or lines of ``image_path`` and ``caption``), a folder
        whose subfolders name what their images show, or an iterable of (image, caption) pairs.
    :param model_name: where to start: a known model, such as ``t2i_mini``, or the path of one. It must be of
        OpenAI's architecture, and its weights torch's or exported by this library with their names.
    :param checkpoint_path: the model's file or folder, in place of those of the name.
    :param output_dir: new folder for the result; while the run lasts, for its checkpoint, too.
    :param validation: pairs that are only measured; None holds out ``validation_share`` of the images.
    :param outside: pairs outside the domain, which are only measured: the report tells what was lost there.
    :param replay: pairs to learn along with ``pairs``, so that what they show is not forgotten.
    :param progress: called after each step; the logger ``t2i_pipelines.finetune`` has each evaluation.
    :param options: see :class:`FinetuneOptions`.
    :raises ConfigError: If an option is wrong, or ``output_dir`` holds a finished model, or the checkpoint of
        a run with other settings.
    :raises SourceError: If there are no pairs, or too few images to hold some out; says how many.
    :raises CheckpointError: If the model is none that can be trained.
    :raises FinetuneError: If the loss is not a number; says at which step and what to change.
    :raises MissingExtraError: If torch or towhee.models is not installed.
    """
    chosen = FinetuneOptions.of(**options)
    clip_models()  # says what is missing before anything is read
    from t2i_pipelines.finetune.run import run

    return run(
        pairs,
        validation,
        outside,
        replay,
        model_name=model_name,
        checkpoint_path=checkpoint_path,
        folder=Path(output_dir).expanduser(),
        tell=progress or (lambda told: None),
        options=chosen,
    )
