"""How many different images, and how many copies, the threshold of duplicates takes for copies.

``python -m benchmarks.duplicates``: the drawings and the photographs of ``data/``, each beside a copy
that is half as large and saved as JPEG of quality 60.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from t2i_pipelines.collection.duplicates import usual_threshold
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.evaluate.metrics import units
from t2i_pipelines.images import decode

DATA = Path(__file__).parents[1] / "data"


def copy_of(pixels: np.ndarray) -> np.ndarray:
    """Return an image at half its size, saved as JPEG of quality 60."""
    image = Image.fromarray(pixels)
    written = io.BytesIO()
    image.resize((image.width // 2, image.height // 2)).save(written, "JPEG", quality=60)
    return decode(written.getvalue())


def main() -> None:
    """Measure and print."""
    encoder = load_encoder("t2i_mini", precision="fp32")
    for name in ("gallery", "photographs"):
        images = [decode(path.read_bytes()) for path in sorted((DATA / name).iterdir())]
        vectors, copies = (
            units(encoder.encode_images([encoder.fit(one) for one in some]), "image")
            for some in (images, list(map(copy_of, images)))
        )
        threshold = usual_threshold(vectors)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        wrong = (cosines.max(axis=1) >= threshold).mean()
        right = ((vectors * copies).sum(axis=1) >= threshold).mean()
        print(
            f"{name}: {len(images)} images, threshold {threshold:.3f}, different ones taken for copies "
            f"{wrong:.3f}, copies found {right:.3f}"
        )


if __name__ == "__main__":
    main()
