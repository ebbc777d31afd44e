"""Write a trained t2i_mini 2 as a model folder: ``python -m tools.t2i_mini.assemble --out FOLDER``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from t2i_pipelines.encoders.export import export_clip
from t2i_pipelines.encoders.twofold import SIDE
from tools.drawings import export
from tools.t2i_mini.measure import Trained

log = logging.getLogger(__name__)

PREPROCESS = {**export.PREPROCESS, "size": SIDE}


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
