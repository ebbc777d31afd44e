"""Write a trained t2i_mini 2 as a model folder: ``python -m tools.t2i_mini.assemble --out FOLDER``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from t2i_pipelines.encoders.export import export_clip
from t2i_pipelines.encoders.openai_clip import Details, build_clip, encode_text
from t2i_pipelines.encoders.twofold import SIDE
from t2i_pipelines.images import decode, read
from tools.drawings import export
from tools.t2i_mini.features import to_input
from tools.t2i_mini.space import unit
from tools.t2i_mini.text_tower import SIZES

log = logging.getLogger(__name__)

PREPROCESS = {**export.PREPROCESS, "size": SIDE}


DETAILS = Details(quick_gelu=(True, True), heads=(None, SIZES["transformer_heads"]))


class Trained:
    """A finished training: images and texts to unit vectors."""

    def __init__(self, out: Path) -> None:
        weights = torch.load(out / "model.pt", weights_only=True)
        clip, self.sizes = build_clip(weights, DETAILS, str(out / "model.pt"))
        self.clip: Any = clip
        self.tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D)."""
        ids = torch.tensor([one.ids for one in self.tokenizer.encode_batch(list(texts))])
        return unit(encode_text(self.clip, ids).numpy())

    @torch.no_grad()
    def images(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """(N, D)."""
        return unit(
            np.concatenate([self.clip.visual(to_input([decode(read(path))])).numpy() for path in paths])
        )


def assemble(run: Path, out: Path) -> float:
    """Write the folder: weights of the image tower in 8 bits, those of the text tower in 16.

    :return: the lowest cosine between the folder's vectors and those of the trained model.
    """
    trained = Trained(run)
    return export_clip(
        trained.clip,
        out,
        model_name="t2i_mini",
        sizes=trained.sizes,
        tokenizer=run / "tokenizer.json",
        preprocess=PREPROCESS,
        checkpoint=run / "model.pt",
        int8_images=True,  # a text tower of 8 bits moves too far: cosine 0.962
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the options and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.assemble", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/mini2"), help="folder that training wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cosine = assemble(options.run, options.out)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    log.info("wrote %s, %.1f MB, lowest cosine %.6f", options.out, size / 1e6, cosine)


if __name__ == "__main__":
    main()
