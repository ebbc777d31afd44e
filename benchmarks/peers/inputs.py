"""What every contender gets: images, one model in each one's format, and the vectors that are right.

``python -m benchmarks.peers.inputs FOLDER IMAGES SHAPE`` makes them, in a process of its own. The
right vectors are transformers', in float32, from images that Pillow opened.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.pictures import write_pictures
from benchmarks.peers.plan import BATCH, CALIBRATION, SHAPES, WARM, Shape
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines.types import Image, Matrix

FORM = 1
"""Counts one up when other inputs are made from the same arguments."""

QUERIES = tuple(
    f"{what} {where}".strip()
    for what in ("a white dog", "two red apples", "an old man with a hat", "a sailing boat")
    for where in ("on a table", "at night", "in the snow", "by the sea", "", "under a bridge in Venice")
)


@dataclass(frozen=True)
class Inputs:
    """Where they are.

    :ivar images: how many images, of those that there are, are measured.
    """

    folder: Path
    images: int
    shape: Shape

    @property
    def paths(self) -> list[str]:
        """The images that are measured."""
        return [str(self.folder / f"pictures/{number:04}.jpg") for number in range(self.images)]

    @property
    def warm_paths(self) -> list[str]:
        """Further images, to warm up."""
        return [str(self.folder / f"warm/{number:04}.jpg") for number in range(WARM)]

    @property
    def calibration(self) -> Path:
        """A folder of further images, to calibrate on."""
        return self.folder / "calibration"

    @property
    def fitted(self) -> Image:
        """The measured images as the model sees them, (N, S, S, 3) uint8."""
        return np.asarray(np.load(self.folder / "fitted.npy")[: self.images])

    @property
    def transformers(self) -> Path:
        """The model as a folder of transformers."""
        return self.folder / "transformers"

    @property
    def openai(self) -> Path:
        """The model's weights as a state dict under OpenAI's names."""
        return self.folder / "openai.pt"

    def of(self, contender: str) -> Path:
        """A folder for what only one contender needs; it may not exist yet."""
        return self.folder / "contenders" / contender

    @property
    def right(self) -> tuple[Matrix, Matrix]:
        """The right vectors of the measured images, (N, D), and of ``QUERIES``, (M, D)."""
        with np.load(self.folder / "right.npz") as stored:
            return stored["images"][: self.images], stored["texts"]

    @property
    def note(self) -> str:
        """What the folder must say it holds."""
        return json.dumps([FORM, self.images, self.shape.name])

    @property
    def are_made(self) -> bool:
        """Whether the folder holds these inputs already."""
        made = self.folder / "made.json"
        return made.is_file() and made.read_text(encoding="utf-8") == self.note


def make(inputs: Inputs) -> None:
    """Write everything; the note comes last."""
    bring_in()
    import torch
    from PIL import Image as Pillow
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from benchmarks.peers.checkpoint import write_openai, write_transformers
    from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess

    inputs.folder.mkdir(parents=True, exist_ok=True)
    write_pictures(inputs.folder / "pictures", inputs.images, first_seed=0)
    write_pictures(inputs.folder / "warm", WARM, first_seed=1_000_000)
    write_pictures(inputs.calibration, CALIBRATION, first_seed=2_000_000)
    model = write_transformers(inputs.transformers, inputs.shape)
    write_openai(inputs.openai, model)

    opened = [Pillow.open(path).convert("RGB") for path in inputs.paths]
    processor = CLIPImageProcessorPil.from_pretrained(inputs.transformers)
    fit = Preprocess(inputs.shape.image_size, CLIP_MEAN, CLIP_STD, "bicubic", "shortest").fit
    np.save(inputs.folder / "fitted.npy", np.stack([fit(np.asarray(picture)) for picture in opened]))
    images = []
    with torch.inference_mode():
        for at in range(0, len(opened), BATCH):
            pixels = processor(images=opened[at : at + BATCH], return_tensors="pt")["pixel_values"]
            images.append(model.get_image_features(pixel_values=pixels).pooler_output.numpy())
        ids = _tokens(inputs)
        texts = model.get_text_features(input_ids=ids).pooler_output.numpy()
    np.savez(inputs.folder / "right.npz", images=np.concatenate(images), texts=texts)
    (inputs.folder / "made.json").write_text(inputs.note, encoding="utf-8")


def _tokens(inputs: Inputs) -> Any:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(inputs.transformers)
    return tokenizer(list(QUERIES), padding="max_length", return_tensors="pt")["input_ids"]


if __name__ == "__main__":
    make(Inputs(Path(sys.argv[1]), int(sys.argv[2]), SHAPES[sys.argv[3]]))
