"""CIFAR-10's real photographs, read from a tar.gz of ``<split>/<label>/<number>.jpg``."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import SourceError
from t2i_pipelines.types import Image

LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CONCEPTS = {"automobile": "car"}
"""Labels whose concept has another key."""

HELD_OUT = 500  # of every label, never trained on


class Photos(NamedTuple):
    """Photographs and what they show."""

    pixels: NDArray[np.uint8]
    """(N, 32, 32, 3) RGB."""
    labels: NDArray[np.int64]
    """(N,) index into :data:`LABELS`."""


NO_PHOTOS = Photos(np.empty((0, 32, 32, 3), np.uint8), np.empty(0, np.int64))


def _decode(data: bytes) -> Image:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _read(path: Path) -> dict[str, list[tuple[str, Image]]]:
    found = defaultdict(list)
    with tarfile.open(path) as archive:
        for member in archive:
            label = Path(member.name).parent.name
            if member.isfile() and label in LABELS and (file := archive.extractfile(member)):
                found[label].append((member.name, _decode(file.read())))
    return found


def read_photos(path: str | Path) -> tuple[Photos, Photos]:
    """Read the archive: (to train on, held out). The last 500 names of every label are held out.

    :raises SourceError: If there is no such file, or a label has too few photographs in it.
    """
    if not Path(path).is_file():
        raise SourceError(f"no archive of photographs at {path}")
    found = _read(Path(path))
    parts: tuple[list[Photos], list[Photos]] = ([], [])
    for number, label in enumerate(LABELS):
        pictures = [picture for _, picture in sorted(found[label], key=lambda item: item[0])]
        if len(pictures) <= HELD_OUT:
            raise SourceError(f"{path} holds {len(pictures)} of {label!r}, more than {HELD_OUT} are needed")
        for part, chosen in zip(parts, (pictures[:-HELD_OUT], pictures[-HELD_OUT:]), strict=True):
            part.append(Photos(np.stack(chosen), np.full(len(chosen), number)))
    train, held_out = (Photos(*map(np.concatenate, zip(*part, strict=True))) for part in parts)
    return train, held_out
