"""Made images with the statistics of photographs: soft light and texture, hard-edged things."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Image

WIDTH, HEIGHT = 500, 375  # the usual size in ImageNet
QUALITY = 90


def write_pictures(folder: Path, count: int, first_seed: int) -> None:
    """Write ``0000.jpg`` and so on, 500 x 375, some 80 kB each; the same seeds draw the same images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04}.jpg"
        _, encoded = cv2.imencode(
            ".jpg", draw(first_seed + number)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        )
        path.write_bytes(encoded.tobytes())


def draw(seed: int) -> Image:
    """One image, (375, 500, 3) uint8 RGB.

    Photographs have spectra near 1 / f: D. J. Field, "Relations between the statistics of natural images
    and the response properties of cortical cells", 1987.
    """
    random = np.random.default_rng(seed)
    slope = random.uniform(1.0, 1.4)
    light = _noise(random, slope)
    channels = [
        random.uniform(70, 180)
        + random.uniform(25, 60) * light
        + random.uniform(8, 25) * _noise(random, slope)
        for _ in range(3)
    ]
    picture = np.stack(channels, axis=-1)
    for _ in range(random.integers(3, 9)):
        inside = _ellipse(random)
        colour = random.uniform(0, 255, 3) * (1 + 0.35 * _noise(random, slope))[..., None]
        picture = picture * (1 - inside) + colour * inside
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def _noise(random: np.random.Generator, slope: float) -> NDArray[np.float64]:
    """(375, 500) with amplitudes of 1 / f ** slope; mean 0, deviation 1."""
    down, across = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    amplitude = np.maximum(np.hypot(down, across), 1 / WIDTH) ** -slope
    parts = random.standard_normal((2, *amplitude.shape))
    spectrum = amplitude * (parts[0] + 1j * parts[1])
    noise = np.fft.irfft2(spectrum, s=(HEIGHT, WIDTH))
    return np.asarray((noise - noise.mean()) / noise.std())


def _ellipse(random: np.random.Generator) -> NDArray[np.float64]:
    """(375, 500, 1), 1 inside, 0 outside, with an edge of a few pixels."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    centre = int(random.integers(WIDTH)), int(random.integers(HEIGHT))
    axes = int(random.integers(20, 150)), int(random.integers(20, 120))
    cv2.ellipse(mask, centre, axes, float(random.uniform(0, 180)), 0, 360, (255,), -1)
    soft = cv2.GaussianBlur(mask, (0, 0), float(random.uniform(0.6, 3)))
    return np.asarray(soft[..., None] / 255)
