"""What fine-tuning gains in a domain that a model never saw: ``python -m tools.t2i_mini.gains``.

Two domains: t2i_mini on drawn charts, and a t2i_mini that was trained without photographs on CIFAR-10's,
200 of each label. ``make quality`` measures both. The second model is not shipped; train it by::

    python -m tools.drawings.train --out runs/unseen --minutes 75     # without --photos
    python -m tools.drawings.export --run runs/unseen --out runs/unseen/model
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from t2i_pipelines.evaluate import evaluate, read_pairs
from t2i_pipelines.finetune import FinetuneResult, finetune
from tools.drawings.charts import write_charts
from tools.drawings.gallery import write_gallery
from tools.drawings.photos import LABELS, Photos, read_photos
from tools.t2i_mini.figures import Figure, table_of

PHOTO_EPOCHS, PHOTO_RATE = 12, 1e-3
"""A model that was trained for so short a time has little to forget, and learns fast."""

GAIN, LOSS = 0.20, 0.02
A_LABEL = 200
TESTED = 100
"""Of each label, held-out photographs that are searched."""

CHARTS, VALIDATED, ASKED = 600, 100, 200
SCENES, OUTSIDE = 1000, 200
EPOCHS, BATCH = 8, 128


def measure_chart_gain(gallery: Path, work: Path) -> list[Figure]:
    """Fine-tune t2i_mini on charts, with fresh scenes replayed and others to find alpha by; measure others.

    :param gallery: the table of the gallery, of which nothing is learned.
    :param work: a folder for pictures and the model.
    """
    pairs = write_charts(work / "charts", CHARTS, seed=1)
    validation = write_charts(work / "validation", VALIDATED, seed=2, different=True)
    test = write_charts(work / "test", ASKED, seed=3, different=True)
    result = finetune(
        pairs,
        model_name="t2i_mini",
        output_dir=work / "tuned-charts",
        validation=validation,
        replay=_scenes(work / "replay", SCENES, seed=99),
        outside=_scenes(work / "outside", OUTSIDE, seed=98),
        train="heads",
        epochs=EPOCHS,
        batch_size=BATCH,
        export=False,
    )
    return _figures("charts", "R@5", test, "t2i_mini", result, gallery)


def measure_photo_gain(model: Path, photos: Path, gallery: Path, work: Path) -> list[Figure]:
    """Fine-tune a model that never saw photographs on 200 of each label, and measure it on others.

    :param model: its folder.
    :param photos: CIFAR-10 as ``<split>/<label>/*.jpg`` in a tar.gz.
    """
    train, held_out = read_photos(photos)
    result = finetune(
        _classes(train, A_LABEL, work / "photos"),
        model_name=str(model),
        output_dir=work / "tuned-photos",
        replay=_scenes(work / "replay", SCENES, seed=99),
        outside=_scenes(work / "outside", OUTSIDE, seed=98),
        epochs=PHOTO_EPOCHS,
        batch_size=BATCH,
        learning_rate=PHOTO_RATE,
        recall_at=1,  # ten captions: half of them are among the best five
        patience=None,
        augment="crop+flip",
        export=False,
    )
    test = _classes(held_out, TESTED, work / "held-out")
    return _figures("photographs", "P@10", test, str(model), result, gallery)


def _figures(
    domain: str, metric: str, test: Path, model_name: str, result: FinetuneResult, gallery: Path
) -> list[Figure]:
    """Before, after, gain; what the gallery lost; and how long it took."""
    tuned = str(result.path)
    before, after = (evaluate(test, model_name=name)[metric].value for name in (model_name, tuned))
    known = read_pairs(gallery, captions="caption_en")
    kept = [evaluate(known, model_name=name) for name in (model_name, tuned)]
    return [
        Figure(f"fine-tuned on {domain}, {metric} before", before, 0),
        Figure(f"fine-tuned on {domain}, {metric} after", after, 0),
        Figure(f"fine-tuned on {domain}, {metric} gained", after - before, GAIN),
        *(
            Figure(
                f"fine-tuned on {domain}, gallery {name} lost",
                kept[0][name].value - kept[1][name].value,
                LOSS,
                less_is_better=True,
            )
            for name in ("R@1", "R@5")
        ),
        Figure(f"fine-tuned on {domain}, minutes", result.seconds / 60, 0),
    ]


def _scenes(folder: Path, count: int, *, seed: int) -> list[tuple[str, str]]:
    """Scenes as t2i_mini was trained on, none of them the gallery's, with captions in five languages."""
    table = folder.with_suffix(".csv")
    if not table.exists():
        write_gallery(folder, count=count, seed=seed)
    with table.open(newline="", encoding="utf-8") as file:
        return [
            (str(folder.parent / row["path"]), caption)
            for row in csv.DictReader(file)
            for name, caption in row.items()
            if name.startswith("caption_")
        ]


def _classes(photos: Photos, each: int, folder: Path) -> Path:
    """The first ``each`` of every label, as a folder of classes."""
    for number, label in enumerate(LABELS):
        place = folder / label
        place.mkdir(parents=True, exist_ok=True)
        for at in np.flatnonzero(photos.labels == number)[:each]:
            PilImage.fromarray(photos.pixels[at]).save(place / f"{at:05d}.png")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tune, measure and print; the exit code, 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.t2i_mini.gains", description=__doc__)
    parser.add_argument("--gallery", type=Path, default=Path("data/gallery.csv"))
    parser.add_argument("--photos", type=Path, help="CIFAR-10 as <split>/<label>/*.jpg in a tar.gz")
    parser.add_argument("--unseen", type=Path, default=Path("runs/unseen/model"), help="see above")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("t2i_pipelines.finetune").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        figures = measure_chart_gain(options.gallery, work)
        missing = "no --photos" if options.photos is None else f"no model at {options.unseen}"
        if options.photos and options.unseen.is_dir():
            figures += measure_photo_gain(options.unseen, options.photos, options.gallery, work)
            missing = ""
    sys.stdout.write(table_of(figures) + "\n")
    if missing:
        sys.stdout.write(f"fine-tuned on photographs: not measured, {missing}\n")
    return 1 if any(figure.is_bad for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
