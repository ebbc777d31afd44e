"""What fine-tuning gave: where the model is, what it gained inside its domain, what it lost outside.

Weights between the starting model's and the tuned ones.

The folder that fine-tuning leaves: open_clip's files, the ONNX export, and the report.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from t2i_pipelines.encoders.formats import OPENCLIP, WEIGHTS
from t2i_pipelines.encoders.onnx_folder import export_model
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.finetune import store
from t2i_pipelines.finetune.clip import Clip, Weights
from t2i_pipelines.finetune.scoring import Mark, Scoring
from t2i_pipelines.finetune.start import Start
from t2i_pipelines.types import EXACT, Outcome

TOLERANCE = 0.02
"""Of recall outside the domain: what a fine-tuned model may lose before it counts as a regression."""


def largest_loss(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The most that R@1, R@5, R@10 or that of ``recall_at`` fell; negative where all of them rose."""
    return max(value - after[name] for name, value in before.items() if name.startswith("R@"))


class Progress(NamedTuple):
    """Where a run stands, after each step.

    :ivar step: batches learned from, 1 to ``steps``.
    :ivar epoch: 1 and up.
    :ivar loss: of this batch, in nats.
    :ivar rate: learning rate of this step.
    :ivar norm: L2 norm of the gradient before it was clipped.
    :ivar recall: R@k on the validation pairs, 0 to 1, where they were just evaluated; else None.
    :ivar seconds: since the run began, those before it was killed included.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    rate: float
    norm: float
    recall: float | None
    seconds: float


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned model and its report; ``print`` it.

    :ivar path: the checkpoint folder, which ``model_name=`` and ``checkpoint_path=`` take.
    :ivar onnx: its ONNX export, which runs without torch; None without ``export``.
    :ivar before: of the starting model, metric -> value from 0 to 1, on the validation pairs: ``R@1``,
        ``R@5``, ``R@10`` and that of ``recall_at``, of texts that ask for images; ``P@10`` where each text
        has ten right ones or more; ``image to text R@1`` and so on.
    :ivar after: of the result, likewise.
    :ivar outside_before: on the pairs outside the domain; empty where none were given.
    :ivar outside_after: likewise, of the result.
    :ivar recall_at: the k of the R@k that was watched.
    :ivar alpha: the share of the tuned weights in the result.
    :ivar best_step: the step whose weights were taken; 0 is the starting model.
    :ivar steps: how many were done.
    :ivar stopped_early: whether ``patience`` ended the run.
    :ivar pictures: how many different ones were learned from; likewise ``captions``.
    :ivar failed: images that could not be read, as :class:`~t2i_pipelines.types.Outcome`.
    :ivar history: one entry for each evaluation.
    :ivar seconds: of the whole run.
    """

    path: Path
    onnx: Path | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    outside_before: Mapping[str, float]
    outside_after: Mapping[str, float]
    recall_at: int
    alpha: float
    best_step: int
    steps: int
    stopped_early: bool
    pictures: int
    captions: int
    failed: Sequence[Outcome] = field(default_factory=tuple)
    history: Sequence[Progress] = field(default_factory=tuple)
    seconds: float = 0.0

    @property
    def lost(self) -> float | None:
        """The most that one R@k fell outside the domain; None without ``outside`` pairs."""
        return largest_loss(self.outside_before, self.outside_after) if self.outside_before else None

    @property
    def is_regression(self) -> bool:
        """Whether more than 2 points were lost outside the domain."""
        return self.lost is not None and round(self.lost, 9) > TOLERANCE

    def __str__(self) -> str:
        """What was done, before and after, and what to do where it went wrong."""
        stopped = ", stopped early" if self.stopped_early else ""
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        lines = [
            f"{self.pictures:,} images{failed}, {self.captions:,} captions: {self.steps:,} steps in "
            f"{self.seconds:,.0f} s{stopped}; weights of step {self.best_step:,}, alpha {self.alpha:g}",
            *_table("validation", self.before, self.after),
            *_table("outside", self.outside_before, self.outside_after),
        ]
        if not self.best_step:
            lines.append(
                "no evaluation was better than the starting model, which is the result; lower learning_rate, "
                "or give more pairs"
            )
        if self.is_regression:
            lines.append(
                f"outside the domain, recall fell by {100 * (self.lost or 0):.1f} points, more than "
                f"{100 * TOLERANCE:.0f}: give such pairs by replay=, or lower alpha or learning_rate"
            )
        return "\n".join([*lines, f"model: {self.path}"])

    def as_dict(self) -> dict[str, Any]:
        """All of it, of JSON's types."""
        failed = [{"path": one.path, "reason": str(one.reason)} for one in self.failed]
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "path": str(self.path),
            "onnx": None if self.onnx is None else str(self.onnx),
            "lost": self.lost,
            "is_regression": self.is_regression,
            "failed": failed,
            "history": [one._asdict() for one in self.history],
        }


def _table(title: str, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Metrics as lines of text; none where there are none."""
    if not before:
        return []
    width = max(len(title), *map(len, before))
    lines = [f"{title:<{width}}  before   after  points"]
    return lines + [
        f"{name:<{width}}{value:8.3f}{after[name]:8.3f}{100 * (after[name] - value):+8.1f}"
        for name, value in before.items()
    ]


REPORT, ONNX = "finetune.json", "onnx"
FILES = (OPENCLIP, WEIGHTS[OPENCLIP][0], "tokenizer.json", "tokenizer_config.json", REPORT, ONNX)


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
    if others := sorted(found - {*FILES, store.NAME, store.NEW} if is_ours else found):
        raise ConfigError(
            f"output_dir={str(folder)!r} holds {others[0]!r}, which is not of fine-tuning; name a new folder"
        )
    is_finished = (folder / REPORT).exists()
    for name in FILES:  # of a finished run, or of one that was killed while it wrote
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
