"""The int8 form of a model, calibrated on images like those it will see."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import islice

from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.int8 import NAME, Int8Cost, calibrate, int8_folder, write_report
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.vectors import cosines
from t2i_pipelines.encoders.weights import HubEncoder
from t2i_pipelines.errors import CheckpointError, ImageDecodeError, SourceError
from t2i_pipelines.images import decode, read, records
from t2i_pipelines.types import Compute, Encoder, Image

FEWEST = 16
HELD_OUT = 4
"""One image in so many measures; the others calibrate."""

logger = logging.getLogger(__name__)


def quantize(
    source: object,
    *,
    model_name: str = DEFAULT_MODEL,
    checkpoint_path: str | os.PathLike[str] | None = None,
    images: int = 256,
) -> Int8Cost:
    """Make the int8 form of a model's image tower, which ``precision="int8"`` then runs.

    It is kept in the assets cache of ``huggingface_hub`` (``HF_ASSETS_CACHE``), under the digest of the
    model's weights. Texts are embedded as before, into the same space.

    :param source: images like those that will be inserted; what the insert pipeline takes.
    :param model_name: a known model, or the path of an ONNX folder.
    :param images: how many to use, at least 16: evenly from the first 8 times as many of the source. Three
        quarters calibrate; on the last quarter the cost is measured, by the backend that will run it.
    :raises CheckpointError: If the model is no ONNX folder.
    :raises SourceError: If fewer than 16 images can be read.
    :raises MissingExtraError: If ``onnx`` is not installed.
    """
    encoder = _onnx(load_encoder(model_name, checkpoint_path, "cpu", "fp32", "onnxruntime"), model_name)
    found = list(islice(_images(source, encoder, images), images))
    if len(found) < FEWEST:
        raise SourceError(
            f"{len(found)} images could be read, and int8 is calibrated on at least {FEWEST}; "
            "name a source of more images"
        )
    measured = found[::HELD_OUT]
    calibrating = [image for at, image in enumerate(found) if at % HELD_OUT]
    calibrate(encoder.image_tower, list(encoder.tensor(calibrating)), int8_folder(encoder.space) / NAME)
    quantized = encoder.run_by(Compute("cpu", "int8"))
    kept = cosines(encoder.encode_images(measured), quantized.encode_images(measured))
    cost = Int8Cost(float(kept.mean()), float(kept.min()), len(calibrating), len(measured))
    write_report(encoder.space, cost)
    return cost


def _onnx(encoder: Encoder, model_name: str) -> OnnxEncoder:
    opened = encoder.opened if isinstance(encoder, HubEncoder) else encoder
    if not isinstance(opened, OnnxEncoder):
        raise CheckpointError(
            f"{model_name} is no ONNX folder, and int8 is made from one; `t2i export` writes it"
        )
    return opened


def _images(source: object, encoder: Encoder, wanted: int) -> Iterator[Image]:
    """Fitted images; of a source that has more, every second, third, ... eighth."""
    # paths only: records of a tar carry their bytes
    paths = [record.path for record in islice(records(source), 8 * wanted) if record.status is None]
    for path in paths[:: max(1, len(paths) // wanted)]:
        try:
            yield encoder.fit(decode(read(path), path))
        except ImageDecodeError as err:
            logger.warning("not used to calibrate: %s", err)
