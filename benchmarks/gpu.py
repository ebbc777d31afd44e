"""How fast a GPU embeds and inserts images: ``python -m benchmarks.gpu [--model NAME_OR_PATH]``.

For each precision and batch size: images a second of the model alone, on fitted images in memory, and of an
insert of JPEGs into Milvus Lite, decoding included, which shows whether decoding keeps up. Without a GPU it
says so and ends with 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.inputs import write_pictures
from t2i_pipelines import InsertReport, build_insert_pipeline
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.types import Precision

BATCHES = (64, 256, 1024)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B/32", help="a name or path; its torch form is run")
    parser.add_argument("--images", type=int, default=4096)
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("torch finds no GPU; nothing was measured", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, {given.model}, {given.images} images of 500 x 375 pixels")
    print(f"{'precision':10}{'batch':>6}{'model alone':>14}{'insert':>10}   images a second")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder / "images", given.images, first_seed=0)
        for precision in PRECISIONS:
            for batch in BATCHES:
                alone = encode(given.model, precision, batch, given.images)
                whole = insert(given.model, precision, batch, folder)
                print(f"{precision:10}{batch:6}{alone:14,.0f}{whole:10,.0f}", flush=True)
    return 0


def encode(model: str, precision: Precision, batch: int, many: int) -> float:
    """Return the images a second of the model alone."""
    encoder = load_encoder(model, device="cuda", precision=precision, backend="torch")
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    images = [encoder.fit(image)] * batch
    encoder.encode_images(images)
    start = time.perf_counter()
    for _ in range(0, many, batch):
        encoder.encode_images(images)
    return -(-many // batch) * batch / (time.perf_counter() - start)


def insert(model: str, precision: Precision, batch: int, folder: Path) -> float:
    """Return the images a second of an insert into a new collection."""
    pipeline = build_insert_pipeline(
        uri=folder / f"{precision}-{batch}.db",
        model_name=model,
        device="cuda",
        precision=precision,
        backend="torch",
        batch_size=batch,
    )
    start = time.perf_counter()
    report = InsertReport.collect(pipeline(folder / "images"))
    assert not report.failed, report
    return report.counts["inserted"] / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
