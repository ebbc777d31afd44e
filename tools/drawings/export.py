"""Export a trained t2i_mini: ``python -m tools.drawings.export --run runs/mini``.

It writes a model folder from the checkpoint that training left.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from t2i_pipelines.encoders.export import export_clip
from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD
from t2i_pipelines.errors import CheckpointError
from tools.drawings.network import SIZES, make_clip

log = logging.getLogger(__name__)

PREPROCESS = {
    "size": SIZES["image_resolution"],
    "mode": "RGB",
    "mean": CLIP_MEAN,
    "std": CLIP_STD,
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "fill_color": 0,
}


def export_run(run: Path, out: Path) -> float:
    """Export ``checkpoint.pt`` and ``tokenizer.json`` of a training run.

    :return: the lowest cosine between the exported and the trained model's vectors.
    :raises CheckpointError: If there is no checkpoint.
    """
    path = run / "checkpoint.pt"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; run: python -m tools.drawings.train")
    model = make_clip(SIZES)
    model.load_state_dict(torch.load(path, weights_only=True)["model"])
    return export_clip(
        model,
        out,
        model_name="t2i_mini",
        sizes=SIZES,
        tokenizer=run / "tokenizer.json",
        preprocess=PREPROCESS,
        checkpoint=path,
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the options and export."""
    parser = argparse.ArgumentParser(prog="python -m tools.drawings.export", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/mini"), help="folder that training wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/mini/folder"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cosine = export_run(options.run, options.out)
    log.info("wrote %s, lowest cosine %.6f", options.out, cosine)


if __name__ == "__main__":
    main()
