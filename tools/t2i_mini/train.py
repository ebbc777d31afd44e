"""Train t2i_mini: ``python -m tools.t2i_mini.train --words W --tiny T --cifar C --out runs/mini2``.

What the frozen towers see of each image is computed first and kept in ``--out``; then come the space of
photographs and the gate, the text tower, and ``model.pt`` with everything. The tower of drawings is that of
the bundled model, unless ``--drawn`` names another that ``tools.drawings.train`` has trained.
"""

from __future__ import annotations

import argparse
import json
import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2i_pipelines.encoders.export import load_clip
from tools.drawings.network import make_clip
from tools.drawings.vocabulary import make_tokenizer
from tools.t2i_mini.features import Towers, compute
from tools.t2i_mini.lite import lite0
from tools.t2i_mini.nouns import Nouns
from tools.t2i_mini.space import TOO_GENERAL, fit
from tools.t2i_mini.text_tower import PHOTO_SCALE, SIZES, Material, train
from tools.t2i_mini.texts import Writer, corpus, items
from tools.t2i_mini.tower import fit_gate, join

log = logging.getLogger(__name__)

BUNDLED = Path(str(files("t2i_pipelines.encoders") / "t2i_mini"))


def run(settings: argparse.Namespace) -> None:
    """Do what is not done yet, and write ``model.pt`` and ``tokenizer.json``."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    out: Path = settings.out
    lite = lite0()
    loaded: Any = load_clip(settings.drawn).requires_grad_(False)
    drawn = getattr(loaded.visual, "drawn", loaded.visual)
    if not (out / "features.npz").exists():
        towers = Towers(lite, drawn)
        compute(out, settings.tiny, settings.cifar, towers, drawings=settings.drawings, each=settings.each)
    arrays = np.load(out / "features.npz")
    labels = json.loads((out / "features.json").read_text(encoding="utf-8"))

    nouns = Nouns(settings.words)
    counts = nouns.below.sum(1)
    chosen = [number for number, count in enumerate(counts) if 0 < count <= TOO_GENERAL]
    kept = {nouns.all[number].synset: at for at, number in enumerate(chosen)}
    scores = np.concatenate([arrays["tiny.scores"], arrays["cifar.scores"]])
    space = fit(scores, nouns.below[chosen], lite)
    gate = fit_gate(
        np.concatenate([arrays["tiny.features"], arrays["cifar.features"]]), arrays["scenes.features"]
    )

    everything = items(nouns, kept)
    tokenizer = make_tokenizer(
        corpus(everything), vocab_size=SIZES["vocab_size"], context_length=SIZES["context_length"]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    log.info("%d nouns, %d names", len(kept), len(everything))
    model: Any = make_clip(SIZES)
    material = Material(
        space,
        Writer(everything, np.random.default_rng(settings.seed)),
        tokenizer,
        arrays["scenes.drawn"].astype(np.float32),
        labels["scenes"],
    )
    train(model, material, steps=settings.steps, batch=settings.batch, seed=settings.seed)
    model.visual = join(lite, drawn, space, gate)
    model.logit_scale.data.fill_(PHOTO_SCALE).log_()
    torch.save(model.state_dict(), out / "model.pt")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.train", description=__doc__)
    parser.add_argument("--words", type=Path, required=True, help="table of nouns of WordNet")
    parser.add_argument("--tiny", type=Path, required=True, help="Tiny ImageNet, <synset>/*.jpg in a tar.gz")
    parser.add_argument("--cifar", type=Path, required=True, help="CIFAR-10, <label>/*.jpg in a tar.gz")
    parser.add_argument("--out", type=Path, default=Path("runs/mini2"))
    parser.add_argument("--drawn", type=Path, default=BUNDLED, help="model folder with the tower of drawings")
    parser.add_argument("--drawings", type=int, default=14_000, help="scenes to draw")
    parser.add_argument("--each", type=int, default=40, help="photographs of each label of Tiny ImageNet")
    parser.add_argument("--steps", type=int, default=8000, help="of the text tower")
    parser.add_argument("--batch", type=int, default=192, help="texts of each kind in a step")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Read the options and train."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run(options(arguments))


if __name__ == "__main__":
    main()
