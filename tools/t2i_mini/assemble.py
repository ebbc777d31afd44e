"""Write a trained t2i_mini as a model folder: ``python -m tools.t2i_mini.assemble --out FOLDER``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from t2i_pipelines.encoders.export import export_clip
from t2i_pipelines.encoders.openai_clip import Details, build_clip
from t2i_pipelines.encoders.twofold import SIDE
from tools.drawings import export
from tools.t2i_mini.text_tower import SIZES

log = logging.getLogger(__name__)

PREPROCESS = {**export.PREPROCESS, "size": SIDE}

DETAILS = Details(quick_gelu=(True, True), heads=(None, SIZES["transformer_heads"]))


def assemble(run: Path, out: Path) -> float:
    """Write the folder: weights of the image tower in 8 bits, those of the text tower in 16.

    :return: the lowest cosine between the folder's vectors and those of the trained model.
    """
    path = run / "model.pt"
    clip, sizes = build_clip(torch.load(path, weights_only=True), DETAILS, str(path))
    return export_clip(
        clip,
        out,
        model_name="t2i_mini",
        sizes=sizes,
        tokenizer=run / "tokenizer.json",
        preprocess=PREPROCESS,
        checkpoint=path,
        int8_images=True,  # a text tower of 8 bits moves too far
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
