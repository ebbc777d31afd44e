"""Blend the weights of the starting and the tuned model, and write the folder that fine-tuning leaves."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from t2i_pipelines.encoders.export import export_model
from t2i_pipelines.encoders.formats import OPENCLIP, WEIGHTS
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.finetune import store
from t2i_pipelines.finetune.clip import Clip, Weights
from t2i_pipelines.finetune.material import Mark, Scoring
from t2i_pipelines.finetune.result import TOLERANCE, largest_loss
from t2i_pipelines.finetune.start import Start
from t2i_pipelines.types import EXACT

REPORT, ONNX = "finetune.json", "onnx"
BESIDE = (OPENCLIP, "tokenizer.json", "tokenizer_config.json")
"""What a reader of the weights needs beside them."""
FILES = (*BESIDE, WEIGHTS[OPENCLIP][0], REPORT, ONNX)
STEP, STEP_WEIGHTS = "checkpoint-", "pytorch_model.bin"
"""Names that Hugging Face's trainer gives, see :func:`write_step`."""


def make_room(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """See that the folder is there, and that nothing in it is lost that was not meant to be.

    :raises ConfigError: If it holds a finished model, or anything that no run of fine-tuning left there.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir={str(folder)!r} is a file; name a folder")
    if (folder / REPORT).exists() and not overwrite:
        raise ConfigError(
            f"output_dir={str(folder)!r} holds a finished model; name another, or say overwrite=True"
        )
    folder.mkdir(parents=True, exist_ok=True)
    found = {one.name for one in folder.iterdir()}
    is_ours = found & {REPORT, store.NAME, store.NEW}
    steps = {one.parent.name for one in folder.glob(f"{STEP}*/{STEP_WEIGHTS}") if is_ours}
    if others := sorted(found - {*FILES, *steps, store.NAME, store.NEW} if is_ours else found):
        raise ConfigError(
            f"output_dir={str(folder)!r} holds {others[0]!r}, which is not of fine-tuning; name a new folder"
        )
    is_finished = (folder / REPORT).exists()
    for name in (*FILES, *steps):  # of a finished run, or of one that was killed while it wrote
        _remove(folder / name)
    if is_finished or not resume:
        _remove(folder / store.NAME)


def write_model(start: Start, weights: Mapping[str, Any], folder: Path) -> None:
    """Write what the library, and open_clip, build the model from."""
    preprocess = asdict(start.preprocess)
    pad_token = (start.tokenizer.tokenizer.padding or {}).get("pad_token")
    start.tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (
        ("tokenizer_config.json", {"pad_token": pad_token}),
        (OPENCLIP, {"model_cfg": start.model_cfg, "preprocess_cfg": preprocess}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / WEIGHTS[OPENCLIP][0])


def write_step(folder: Path, steps: int) -> Path:
    """Write the model once more, where Hugging Face's trainer would have put the last step's.

    :param folder: with what :func:`write_model` wrote.
    :return: ``checkpoint-N/pytorch_model.bin``, which ``checkpoint_path`` takes.
    """
    place = folder / f"{STEP}{steps}"
    place.mkdir(exist_ok=True)
    for name in BESIDE:
        shutil.copyfile(folder / name, place / name)
    torch.save(load_file(folder / WEIGHTS[OPENCLIP][0]), place / STEP_WEIGHTS)
    return place / STEP_WEIGHTS


def export(folder: Path, name: str) -> Path:
    """Write the ONNX folder from what was written; the path."""
    export_model(TorchEncoder(str(folder), name, None, EXACT), folder / ONNX)
    return folder / ONNX


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the report, which says that all is there; then the checkpoint of the run is of no more use."""
    new = folder / f"{REPORT}.new"
    new.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(folder / REPORT)
    _remove(folder / store.NAME)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


log = logging.getLogger("t2i_pipelines.finetune")

ALPHAS = tuple(number / 10 for number in range(10, 0, -1))


def blended(start: Weights, tuned: Weights, alpha: float) -> Weights:
    """``(1 - alpha) * start + alpha * tuned``, weight by weight (Wortsman et al. 2022, arXiv:2109.01903)."""
    if alpha in (0, 1):
        return dict(tuned if alpha else start)
    return {name: start[name].lerp(tuned[name], alpha) for name in tuned}


def choose_alpha(
    clip: Clip,
    start: Weights,
    tuned: Weights,
    validation: Scoring,
    outside: Scoring,
    at: int,
    *,
    before: Mapping[str, float],
) -> float:
    """Go down from 1 by tenths to the first that loses at most 2 points outside, and on while it is better.

    Where all of them lose more, it is the one that loses least.

    :param before: metrics of the starting model on the pairs outside.
    """
    best: tuple[bool, float, Mark, float] | None = None
    for alpha in ALPHAS:
        clip.set(blended(start, tuned, alpha))
        lost, mark = largest_loss(before, outside.metrics(at)), validation.mark(at)
        log.info("alpha %.1f: R@%d %.3f, lost outside %.3f", alpha, at, mark.recall, lost)
        # to nine decimals: 0.78 is two points below 0.8, whatever binary fractions say
        fits = round(lost, 9) <= TOLERANCE
        found = (fits, 0.0 if fits else -lost, mark, alpha)
        if best is not None and best[0] and found < best:
            break
        best = found if best is None else max(best, found)
    assert best is not None
    return best[-1]
