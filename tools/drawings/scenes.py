"""Pictures of one to three emoji before a background, the same whether drawn small or large."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Image
from tools.drawings.backgrounds import PAINTERS
from tools.drawings.emoji_names import Concept

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the one size that the bitmap font has
SPRITE = 128
SIZES = {1: (0.45, 0.82), 2: (0.36, 0.56), 3: (0.29, 0.44)}  # of the shorter side, by how many


@dataclass(frozen=True)
class Placed:
    """One emoji in a scene.

    :ivar concept: what it is.
    :ivar glyph: one of the concept's emoji.
    :ivar x: centre, as a share of the width.
    :ivar y: centre, as a share of the height.
    :ivar size: longer side, as a share of the picture's shorter side.
    :ivar angle: degrees, counter-clockwise.
    :ivar flip: whether left and right are exchanged.
    """

    concept: Concept
    glyph: str
    x: float
    y: float
    size: float
    angle: float
    flip: bool


@dataclass(frozen=True)
class Scene:
    """What a picture shows; ``aspect`` is width / height."""

    objects: tuple[Placed, ...]
    background: str
    aspect: float


@cache
def sprite(glyph: str) -> tuple[Image, ...]:
    """The emoji at 128, 64 and 32 pixels: (S, S, 4) uint8, colours multiplied by alpha.

    :raises ConfigError: If the emoji font is not installed, or does not draw this one.
    """
    if not FONT.exists():
        raise ConfigError(f"no emoji font at {FONT}; install the package fonts-noto-color-emoji")
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    canvas = PilImage.new("RGBA", (320, 240))
    ImageDraw.Draw(canvas).text((40, 40), glyph, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ConfigError(f"the emoji font draws nothing for {glyph!r}")
    drawn = canvas.crop(box)
    square = PilImage.new("RGBA", (max(drawn.size), max(drawn.size)))
    square.paste(drawn, ((square.width - drawn.width) // 2, (square.height - drawn.height) // 2))
    pixels = np.asarray(square, np.float32)
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], axis=2)
    levels = (SPRITE, SPRITE // 2, SPRITE // 4)
    return tuple(
        cv2.resize(pixels, (s, s), interpolation=cv2.INTER_AREA).round().astype(np.uint8) for s in levels
    )


def _is_free(x: float, y: float, size: float, aspect: float, others: list[Placed]) -> bool:
    wide, tall = max(aspect, 1.0), max(1 / aspect, 1.0)  # the sides, when the shorter one is 1
    return all(max(abs(x - o.x) * wide, abs(y - o.y) * tall) > 0.92 * (size + o.size) / 2 for o in others)


def place(concepts: list[Concept], aspect: float, rng: np.random.Generator) -> tuple[Placed, ...]:
    """Find room for each of one to three things, none hiding another; the least fitting are left out."""
    placed: list[Placed] = []
    for concept in concepts:
        low, high = SIZES[len(concepts)]
        for attempt in range(40):
            size = float(rng.uniform(low, high)) * (1 - 0.006 * attempt)
            margin_x, margin_y = 0.6 * size / max(aspect, 1), 0.6 * size * min(aspect, 1)
            x, y = rng.uniform(margin_x, 1 - margin_x), rng.uniform(margin_y, 1 - margin_y)
            if _is_free(x, y, size, aspect, placed):
                glyph = concept.glyphs[int(rng.integers(len(concept.glyphs)))]
                angle, flip = float(np.clip(rng.normal(0, 7), -12, 12)), bool(rng.random() < 0.5)
                placed.append(Placed(concept, glyph, float(x), float(y), size, angle, flip))
                break
    return tuple(placed)


def invent(things: list[Concept], weights: np.ndarray, rng: np.random.Generator) -> Scene:
    """Choose things, background and shape at random.

    :param weights: chances of the things, summed up to 1.
    """
    count = int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))
    chosen = np.searchsorted(weights, rng.random(count))
    different = [things[i] for i in dict.fromkeys(chosen.tolist())]
    aspect = float(np.exp(rng.uniform(-0.5, 0.6)))
    background = list(PAINTERS)[int(rng.integers(len(PAINTERS)))]
    return Scene(place(different, aspect, rng), background, aspect)


def _stamp(canvas: Image, thing: Placed, aspect: float) -> None:
    """Draw one emoji into the canvas, which may be a squashed view of the scene."""
    height, width = canvas.shape[:2]
    across = thing.size * width / max(aspect, 1)  # pixels, in each direction
    down = thing.size * height * min(aspect, 1)
    levels = sprite(thing.glyph)
    source = next((s for s in reversed(levels) if s.shape[0] >= max(across, down)), levels[0])
    scale = np.array([across, down]) / source.shape[0]
    turn = np.deg2rad(thing.angle)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    spin = spin @ np.diag([-1.0 if thing.flip else 1.0, 1.0])
    matrix = np.diag(scale) @ spin
    reach = np.ceil(0.75 * np.array([across, down])).astype(int) + 1
    centre = np.array([thing.x * width, thing.y * height])
    low = np.maximum(np.floor(centre).astype(int) - reach, 0)
    high = np.minimum(np.ceil(centre).astype(int) + reach, [width, height])
    middle = (source.shape[0] - 1) / 2
    offset = centre - 0.5 - low - matrix @ np.array([middle, middle])
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    smooth = cv2.INTER_LINEAR if scale.max() <= 1 else cv2.INTER_CUBIC
    drawn = cv2.warpAffine(source, np.column_stack([matrix, offset]), size, flags=smooth)
    patch = canvas[low[1] : high[1], low[0] : high[0]]
    keep = 255 - drawn[..., 3:]
    mixed = drawn[..., :3] + (patch.astype(np.uint16) * keep + 127) // 255
    patch[:] = np.minimum(mixed, 255)  # a cubic filter may overshoot


def draw(scene: Scene, ground: Image) -> Image:
    """Draw the scene over ``ground``, a background of any size and shape: a new (H, W, 3) uint8."""
    canvas = np.array(ground)
    for thing in scene.objects:
        _stamp(canvas, thing, scene.aspect)
    return canvas
