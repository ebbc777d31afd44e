"""What the frozen towers see of each image, computed once: ``features.npz`` in the folder of a run.

Photographs come small, 32 or 64 pixels a side, and drawings sharp. Both are blurred and compressed at random,
so that no later step can tell them apart by that.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import nn

from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD
from t2i_pipelines.encoders.twofold import SIDE, Lite0, drawing_input, photo_input
from t2i_pipelines.types import Image
from tools.drawings.backgrounds import COLOURS, PAINTERS, paint
from tools.drawings.captions import ground_key
from tools.drawings.emoji_names import concepts
from tools.drawings.scenes import draw, invent

log = logging.getLogger(__name__)

BATCH = 64
HELD_OUT = 50
"""Photographs of each label, the last by name, that are measured on and nothing else."""

VARIANTS, MARGIN = 24, 1.2
PARTS = ("features", "scores", "drawn")


def read_labelled(archive: Path, first: int | None, held_out: bool) -> Iterator[tuple[str, Image]]:
    """Read (label, image) of ``.../label/name`` in a tar, label by label.

    :param first: how many of each label at most.
    :param held_out: the last :data:`HELD_OUT` of each label, or those before them.
    """
    names: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        for name in sorted(files):
            names[Path(name).parent.name].append(name)
        chosen = {
            name: label
            for label, some in names.items()
            for name in (some[-HELD_OUT:] if held_out else some[:-HELD_OUT])[:first]
        }
        for name in sorted(chosen, key=lambda name: files[name].offset):
            file = tar.extractfile(files[name])
            assert file is not None
            yield chosen[name], np.asarray(Pillow.open(io.BytesIO(file.read())).convert("RGB"))


def scenes(count: int, seed: int) -> Iterator[tuple[list[str], Image]]:
    """Draw (keys of concepts and of the background, image) of emoji scenes."""
    rng = np.random.default_rng(seed)
    things = list(concepts())
    evenly = np.linspace(0, 1, len(things) + 1)[1:]
    side = round(SIDE * MARGIN)
    grounds = {name: [paint(name, side, side, rng) for _ in range(VARIANTS)] for name in PAINTERS}
    for _ in range(count):
        scene = invent(things, evenly, rng)
        ground = grounds[scene.background][int(rng.integers(VARIANTS))]
        top, left = rng.integers(0, side - SIDE + 1, 2)
        image = draw(scene, ground[top : top + SIDE, left : left + SIDE])
        keys = [thing.concept.key for thing in scene.objects]
        if rng.random() < 0.06:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
            grounded = scene.background not in COLOURS
        else:
            grounded = True
        yield keys + [ground_key(scene.background)] * grounded, image


def jitter(image: Image, rng: np.random.Generator) -> Image:
    """Change sharpness, brightness, crop and JPEG quality a little; (H, W, 3) uint8 of another size."""
    height, width = image.shape[:2]
    keep = rng.uniform(0.85, 1, 2)
    h, w = (max(1, round(side * share)) for side, share in zip((height, width), keep, strict=True))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    image = image[top : top + h, left : left + w]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.5:
        small = round(rng.uniform(0.35, 1) * min(h, w))
        image = cv2.resize(np.ascontiguousarray(image), (small, small), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        gain, lift = rng.uniform(0.8, 1.2), rng.uniform(-20, 20)
        image = np.clip(image * gain + lift, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
        _, packed = cv2.imencode(".jpg", np.ascontiguousarray(image), quality)
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(image)


def to_input(images: Sequence[Image]) -> torch.Tensor:
    """Squash images of any size to (N, 3, S, S) float32, normalised as CLIP's are."""
    size = (SIDE, SIDE)
    squashed = [Pillow.fromarray(image).resize(size, Pillow.Resampling.BICUBIC) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in squashed])).float() / 255
    return ((pixels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2)


class Towers:
    """Both image towers in ONNX Runtime, which is several times as fast as torch here.

    :param drawn: (N, 3, 96, 96) -> (N, 256).
    """

    def __init__(self, lite: Lite0, drawn: nn.Module) -> None:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's age
            torch.onnx.export(
                _Both(lite, drawn).eval(),
                (torch.zeros(2, 3, SIDE, SIDE),),
                buffer,  # type: ignore[arg-type]  # a file works with the older exporter
                dynamo=False,
                opset_version=17,
                input_names=["image"],
                output_names=[*PARTS],
                dynamic_axes={name: {0: "batch"} for name in ("image", *PARTS)},
            )
        self._both = onnxruntime.InferenceSession(buffer.getvalue())

    def __call__(self, images: Sequence[Image]) -> dict[str, NDArray[np.float16]]:
        """(N, 1280) and (N, 1000) of the photographs' tower, (N, 256) unit vectors of the drawings'."""
        found = self._both.run(None, {"image": to_input(images).numpy()})
        return {name: values.astype(np.float16) for name, values in zip(PARTS, found, strict=True)}


class _Both(nn.Module):
    def __init__(self, lite: Lite0, drawn: nn.Module) -> None:
        super().__init__()
        self.lite, self.drawn = lite, drawn

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.lite(photo_input(x))
        drawn = nn.functional.normalize(self.drawn(drawing_input(x)), dim=-1)
        return features, self.lite.classify(features), drawn


def see(images: Iterable[Image], towers: Towers) -> dict[str, NDArray[np.float16]]:
    """Compute what the towers give of many images, some at a time."""
    waiting = iter(images)
    parts = [towers(batch) for batch in iter(lambda: list(islice(waiting, BATCH)), [])]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compute(
    out: Path, tiny: Path, cifar: Path, towers: Towers, *, drawings: int, each: int, seed: int = 7
) -> None:
    """Write ``features.npz`` and ``features.json``, the labels.

    :param drawings: how many scenes to draw.
    :param each: photographs of each label of Tiny ImageNet to learn from; four times as many of CIFAR-10's.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    labels: dict[str, list[Any]] = {}
    sources: dict[str, Iterator[tuple[Any, Image]]] = {
        "tiny_held_out": read_labelled(tiny, None, True),
        "cifar_held_out": read_labelled(cifar, None, True),
        "scenes": scenes(drawings, seed),
        "tiny": read_labelled(tiny, each, False),
        "cifar": read_labelled(cifar, 4 * each, False),
    }
    for name, source in sources.items():
        kept = labels[name] = []

        def images(source: Any = source, kept: list[Any] = kept, learned: bool = "held" not in name) -> Any:
            for label, image in source:
                kept.append(label)
                yield jitter(image, rng) if learned else image

        for part, values in see(images(), towers).items():
            arrays[f"{name}.{part}"] = values
        log.info("%s: %d images", name, len(kept))
    out.mkdir(parents=True, exist_ok=True)
    (out / "features.json").write_text(json.dumps(labels, ensure_ascii=False), encoding="utf-8")
    np.savez(out / "features.npz", **arrays)  # type: ignore[arg-type]
