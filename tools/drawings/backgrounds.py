"""What stands behind the things: plain colours and simple textures, painted from a seed."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.types import Image

Canvas = NDArray[np.float32]
Painter = Callable[[int, int, np.random.Generator], Canvas]
"""(height, width, rng) -> (height, width, 3) float32 RGB, about 0 to 255."""

COLOURS = {
    "white": (250, 250, 250),
    "black": (16, 16, 18),
    "grey": (136, 136, 138),
    "red": (206, 38, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 218, 60),
    "green": (46, 150, 66),
    "blue": (44, 94, 208),
    "purple": (128, 58, 172),
    "pink": (246, 160, 196),
    "brown": (122, 78, 46),
    "turquoise": (56, 196, 190),
}


def _tone(colour: str, rng: np.random.Generator, spread: float = 12) -> Canvas:
    base = np.array(COLOURS[colour], np.float32)
    return np.asarray(base + rng.uniform(-spread, spread) + rng.normal(0, 4, 3), np.float32)


def _noise(height: int, width: int, cells: int, rng: np.random.Generator) -> Canvas:
    """Smooth noise in [-1, 1] with about ``cells`` waves to a side; (height, width, 1)."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[..., None], np.float32)


def _ramp(height: int, width: int, top: Canvas, bottom: Canvas) -> Canvas:
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return np.asarray(np.broadcast_to(top * (1 - down) + bottom * down, (height, width, 3)).copy())


def _grid(height: int, width: int) -> tuple[Canvas, Canvas]:
    """Row and column of every pixel, in units of the shorter side."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) / min(height, width)
    return rows, columns


def _plain(colour: str) -> Painter:
    def paint(height: int, width: int, rng: np.random.Generator) -> Canvas:
        tone = _tone(colour, rng)
        change = rng.uniform(-22, 22, 1).astype(np.float32)
        ramp = _ramp(height, width, tone + change, tone - change)
        return np.asarray(ramp[::-1] if rng.random() < 0.5 else ramp)

    return paint


def _mix(a: Canvas, b: Canvas, share: Canvas) -> Canvas:
    share = np.clip(share, 0, 1)
    return a * (1 - share) + b * share


def _grass(height: int, width: int, rng: np.random.Generator) -> Canvas:
    dark, light = np.array([38, 104, 30], np.float32), np.array([126, 192, 70], np.float32)
    blades = cv2.resize(
        rng.uniform(0, 1, (22, 90)).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )[..., None]
    return _mix(dark, light, blades * 0.75 + 0.15 + 0.15 * _noise(height, width, 5, rng))


def _sky(height: int, width: int, rng: np.random.Generator) -> Canvas:
    blue = _ramp(height, width, np.array([84, 150, 230.0]), np.array([176, 214, 250.0]))
    clouds = np.asarray(_noise(height, width, 5, rng) + 0.5 * _noise(height, width, 11, rng), np.float32)
    return _mix(blue, np.array([252, 252, 255], np.float32), (clouds - 0.1) * 1.8)


def _sea(height: int, width: int, rng: np.random.Generator) -> Canvas:
    water = _ramp(height, width, np.array([18, 110, 168.0]), np.array([8, 62, 122.0]))
    rows, columns = _grid(height, width)
    bend = 0.03 * np.sin(columns * rng.uniform(9, 16) + rng.uniform(0, 6))
    waves = np.sin((rows + bend) * rng.uniform(48, 64) + rng.uniform(0, 6))[..., None]
    foam = np.asarray((waves - 0.35) * 0.7, np.float32)
    return _mix(water, np.array([150, 214, 232.0]), foam)


def _sand(height: int, width: int, rng: np.random.Generator) -> Canvas:
    base = np.array([226, 198, 146], np.float32) + 14 * _noise(height, width, 6, rng)
    return base + rng.normal(0, 14, (height, width, 1)).astype(np.float32)


def _snow(height: int, width: int, rng: np.random.Generator) -> Canvas:
    ground = np.array([226, 236, 248], np.float32) + 10 * _noise(height, width, 4, rng)
    return _dots(ground, np.array([255, 255, 255.0]), 90, (0.008, 0.024), rng)


def _dots(
    canvas: Canvas, colour: Canvas, count: int, radii: tuple[float, float], rng: np.random.Generator
) -> Canvas:
    height, width = canvas.shape[:2]
    canvas = np.ascontiguousarray(canvas, np.float32)
    for x, y, r in zip(*rng.uniform(0, 1, (3, count)), strict=True):
        radius = (radii[0] + r * (radii[1] - radii[0])) * min(height, width)
        shift = 4  # sixteenths of a pixel, so that small dots keep their size
        centre = (int(x * width) << shift, int(y * height) << shift)
        cv2.circle(canvas, centre, int(radius * 16), colour.tolist(), -1, cv2.LINE_AA, shift)
    return canvas


def _night(height: int, width: int, rng: np.random.Generator) -> Canvas:
    dark = _ramp(height, width, np.array([8, 10, 36.0]), np.array([30, 34, 84.0]))
    return _dots(dark, np.array([255, 250, 220.0]), 70, (0.003, 0.011), rng)


def _sunset(height: int, width: int, rng: np.random.Generator) -> Canvas:
    middle = int(height * rng.uniform(0.4, 0.65))
    purple, orange, gold = (np.array(c, float) for c in ([92, 44, 120], [240, 110, 70], [255, 208, 96]))
    halves = _ramp(middle, width, purple, orange), _ramp(height - middle, width, orange, gold)
    return np.concatenate(halves) + 8 * _noise(height, width, 5, rng)


def _wood(height: int, width: int, rng: np.random.Generator) -> Canvas:
    rows, _ = _grid(height, width)
    board = 1 / rng.uniform(4, 6)
    grain = cv2.resize(
        rng.uniform(-1, 1, (64, 5)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )[..., None]
    canvas = np.array([164, 112, 64], np.float32) + 22 * grain
    return np.asarray(np.where((rows % board < 0.012)[..., None], canvas * 0.45, canvas), np.float32)


def _bricks(height: int, width: int, rng: np.random.Generator) -> Canvas:
    rows, columns = _grid(height, width)
    tall = 1 / rng.uniform(6, 9)
    line = np.floor(rows / tall)
    along = columns / (tall * 2.2) + 0.5 * (line % 2)
    joint = (rows % tall < 0.14 * tall) | (along % 1 < 0.07)
    shade = np.sin(line * 12.9 + np.floor(along) * 78.2) * 18
    brick = np.array([168, 72, 52], np.float32) + shade[..., None]
    return np.asarray(np.where(joint[..., None], np.array([206, 198, 188]), brick), np.float32)


def _two_tones(rng: np.random.Generator) -> tuple[Canvas, Canvas]:
    first, second = rng.choice(list(COLOURS), 2, replace=False)
    light = (_tone(str(first), rng) + 2 * np.float32(250)) / 3
    return np.asarray(light, np.float32), _tone(str(second), rng) * np.float32(0.9)


def _chequered(height: int, width: int, rng: np.random.Generator) -> Canvas:
    rows, columns = _grid(height, width)
    cells = rng.uniform(5, 8)
    odd = (np.floor(rows * cells) + np.floor(columns * cells)) % 2 == 1
    light, dark = _two_tones(rng)
    return np.asarray(np.where(odd[..., None], light, dark), np.float32)


def _striped(height: int, width: int, rng: np.random.Generator) -> Canvas:
    rows, columns = _grid(height, width)
    angle = rng.choice([0, np.pi / 4, np.pi / 2, 3 * np.pi / 4])
    along = (rows * np.cos(angle) + columns * np.sin(angle)) * rng.uniform(5, 8)
    light, dark = _two_tones(rng)
    return np.asarray(np.where((along % 1 < 0.5)[..., None], light, dark), np.float32)


def _dotted(height: int, width: int, rng: np.random.Generator) -> Canvas:
    rows, columns = _grid(height, width)
    cells = rng.uniform(5, 8)
    row = np.floor(rows * cells)
    across = (columns * cells + 0.5 * (row % 2)) % 1 - 0.5
    near = (rows * cells - row - 0.5) ** 2 + across**2 < 0.09
    light, dark = _two_tones(rng)
    return np.asarray(np.where(near[..., None], dark, light), np.float32)


def _stones(height: int, width: int, rng: np.random.Generator) -> Canvas:
    rows, columns = _grid(height, width)
    count = 110
    spots = rng.uniform(0, 1, (count, 2)) * (rows.max(), columns.max())
    gaps = np.full((2, height, width), np.inf, np.float32)
    shade = np.zeros((height, width), np.float32)
    for row, column in spots:
        away = np.hypot(rows - row, columns - column)
        nearer = away < gaps[0]
        shade = np.where(nearer, np.float32(rng.uniform(96, 176)), shade)
        gaps[1] = np.minimum(gaps[1], np.maximum(away, gaps[0]))
        gaps[0] = np.minimum(gaps[0], away)
    stone = np.where(gaps[1] - gaps[0] < 0.012, 58, shade)[..., None]
    return np.asarray(np.repeat(stone, 3, axis=2), np.float32)


def _confetti(height: int, width: int, rng: np.random.Generator) -> Canvas:
    canvas = np.full((height, width, 3), 248, np.float32)
    for colour in ("red", "yellow", "green", "blue", "purple", "orange"):
        canvas = _dots(canvas, _tone(colour, rng), 16, (0.012, 0.024), rng)
    return canvas


PAINTERS: dict[str, Painter] = {
    **{colour: _plain(colour) for colour in COLOURS},
    "grass": _grass,
    "sky": _sky,
    "sea": _sea,
    "sand": _sand,
    "snow": _snow,
    "night sky": _night,
    "sunset": _sunset,
    "wood": _wood,
    "bricks": _bricks,
    "chequered": _chequered,
    "striped": _striped,
    "dotted": _dotted,
    "stones": _stones,
    "confetti": _confetti,
}


def paint(name: str, height: int, width: int, rng: np.random.Generator) -> Image:
    """Paint the named background: (height, width, 3) uint8 RGB."""
    return np.asarray(np.clip(PAINTERS[name](height, width, rng), 0, 255).astype(np.uint8))
