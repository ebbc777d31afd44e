"""How long sync takes on a folder of which nothing, or little, has changed: ``python -m benchmarks.sync``.

Writes small images, stores them in Milvus Lite, and syncs in a fresh process each time. Prints seconds
of the call (model and database are opened in it), the most memory of the process, and how many
images were opened.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from t2i_pipelines import sync
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.testing import ColourEncoder
from t2i_pipelines.types import Image, Matrix, Space

A_FOLDER = 1000


class Wide(ColourEncoder):
    """The model ``colour``, turned into a space of more dimensions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.space = Space("wide", f"mean colour in {dim} dimensions", "none", dim)
        self._axes = np.random.default_rng(0).normal(size=(3, dim)).astype(np.float32)

    def encode_images(self, images: list[Image]) -> Matrix:
        """N images -> (N, dim) float32."""
        return super().encode_images(images) @ self._axes


def path_of(folder: Path, number: int) -> Path:
    """Where an image is: a thousand in each folder."""
    return folder / f"{number // A_FOLDER:04}" / f"{number:07}.png"


def write(folder: Path, count: int) -> None:
    """Write images, no two of which are the same."""
    for number in range(count):
        path = path_of(folder, number)
        if number % A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        done, encoded = cv2.imencode(
            ".png", np.full((4, 4, 3), (number % 251, number // 251 % 251, 99), np.uint8)
        )
        assert done
        # bytes behind an image's end are not looked at
        path.write_bytes(encoded.tobytes() + number.to_bytes(4, "big"))


def measure(folder: Path, uri: Path, dim: int) -> None:
    """Sync once, and print what it took as JSON."""
    opened = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal opened
        opened += event == "open" and str(arguments[0]).endswith(".png")

    register_encoder("wide", lambda *_: Wide(dim))
    sys.addaudithook(count)
    begun = time.perf_counter()
    report = sync(folder, uri=uri, model_name="wide" if dim != 3 else "colour", batch_size=1000)
    seconds = time.perf_counter() - begun
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"s": seconds, "MB": megabytes, "opened": opened, "counts": report.counts}))


def show(name: str, folder: Path, uri: Path, dim: int) -> None:
    """Sync in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(folder), str(uri), "--dim", str(dim)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    counts = ", ".join(f"{count:,} {status}" for status, count in found["counts"].items() if count)
    print(
        f"{name:24} {found['s']:7.1f} s {found['MB']:7,.0f} MB {found['opened']:9,} opened  {counts}",
        flush=True,
    )


def main() -> None:
    """Write, sync, change, and sync again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=3, help="of the vectors")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure, given.dim)
        return
    with tempfile.TemporaryDirectory() as place:
        folder, uri = Path(place) / "photos", Path(place) / "milvus.db"
        write(folder, given.files)
        print(f"{given.files:,} files, {given.dim}-d vectors, {os.cpu_count()} cores", flush=True)
        show("first", folder, uri, given.dim)
        show("unchanged", folder, uri, given.dim)
        some = given.files // 100
        for number in range(some):
            path = path_of(folder, number)
            path.rename(path.with_name("was" + path.name))
            path_of(folder, given.files - 1 - number).unlink()
        show("1 % renamed, 1 % deleted", folder, uri, given.dim)
        show("unchanged", folder, uri, given.dim)


if __name__ == "__main__":
    main()
