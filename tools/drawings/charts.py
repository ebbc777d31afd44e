"""Charts with captions, a domain that t2i_mini never saw: ``python -m tools.drawings.charts``.

They are drawn from a seed, offline, and free to use. Each picture has one caption, such as ``a falling red
line`` or ``a pie chart with five slices on a dark ground``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

SEED = 20_250_601
WIDTH, HEIGHT = 256, 192
FINER = 3
"""Charts are drawn this much larger, and shrunk: Pillow's lines have steps."""

COLOURS = {
    "red": (214, 39, 40),
    "blue": (31, 90, 190),
    "green": (44, 150, 44),
    "orange": (250, 130, 20),
    "purple": (130, 70, 180),
    "brown": (120, 75, 50),
    "pink": (240, 120, 190),
    "grey": (130, 130, 130),
}
GROUNDS = {"": (255, 255, 255), " on a dark ground": (38, 40, 48), " on a yellow ground": (250, 236, 170)}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}
COURSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rising": lambda x: 0.15 + 0.7 * x,
    "falling": lambda x: 0.85 - 0.7 * x,
    "wavy": lambda x: 0.5 + 0.3 * np.sin(4 * np.pi * x),
    "peaked": lambda x: 0.15 + 0.7 * np.exp(-(((x - 0.5) / 0.16) ** 2)),
}


class Chart(NamedTuple):
    """What to draw.

    :ivar kind: ``line``, ``area``, ``points``, ``bars``, ``horizontal bars``, ``pie chart``, ``ring chart``.
    :ivar course: a key of ``COURSES``, for the first three.
    :ivar parts: how many bars or slices.
    :ivar ground: a key of ``GROUNDS``.
    """

    kind: str
    course: str
    colour: str
    parts: int
    ground: str

    @property
    def caption(self) -> str:
        """The chart in words."""
        if self.kind in ("pie chart", "ring chart"):
            told = f"a {self.kind} with {NUMBERS[self.parts]} slices"
        elif self.kind in ("bars", "horizontal bars"):
            told = f"{NUMBERS[self.parts]} {self.colour} {self.kind}"
        elif self.kind == "points":
            told = f"{self.course} {self.colour} points"
        else:
            told = f"a {self.course} {self.colour} {self.kind}"
        return told + self.ground


def invent(random: np.random.Generator) -> Chart:
    """Think of a chart."""
    kinds = ["line", "area", "points", "bars", "horizontal bars", "pie chart", "ring chart"]
    kind = str(random.choice(kinds, p=[0.2, 0.16, 0.16, 0.2, 0.16, 0.06, 0.06]))
    return Chart(
        kind=kind,
        course=str(random.choice(list(COURSES))) if kind in ("line", "area", "points") else "",
        colour=str(random.choice(list(COLOURS))) if "chart" not in kind else "",
        parts=int(random.integers(2, 8)) if "bars" in kind or "chart" in kind else 0,
        ground=str(random.choice(list(GROUNDS))),
    )


def draw(chart: Chart, random: np.random.Generator) -> PilImage.Image:
    """Draw it; what its caption leaves open is left to chance."""
    size = WIDTH * FINER, HEIGHT * FINER
    picture = PilImage.new("RGB", size, GROUNDS[chart.ground])
    pen = ImageDraw.Draw(picture)
    if "chart" in chart.kind:
        _pie(pen, chart, random)
    else:
        box = _axes(pen, chart, random)
        _PENS[chart.kind](pen, box, chart, random)
    return picture.resize((WIDTH, HEIGHT), PilImage.Resampling.LANCZOS)


class Box(NamedTuple):
    """Where the data goes, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def at(self, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        """Points from shares: (0, 0) is at the bottom left."""
        across = self.left + x * (self.right - self.left)
        up = self.bottom - y * (self.bottom - self.top)
        return list(zip(across.tolist(), up.tolist(), strict=True))


def _ink(chart: Chart) -> tuple[int, int, int]:
    return (225, 225, 225) if "dark" in chart.ground else (60, 60, 60)


def _axes(pen: ImageDraw.ImageDraw, chart: Chart, random: np.random.Generator) -> Box:
    width, height = WIDTH * FINER, HEIGHT * FINER
    margins = random.uniform(0.05, 0.14, 4)
    box = Box(margins[0] * width, margins[1] * height, (1 - margins[2]) * width, (1 - margins[3]) * height)
    ink = _ink(chart)
    if random.random() < 0.5:
        ground = GROUNDS[chart.ground]
        faint = tuple((3 * one + other) // 4 for one, other in zip(ground, ink, strict=True))
        for share in np.linspace(0, 1, int(random.integers(4, 8))):
            pen.line(box.at(np.array([0.0, 1.0]), np.array([share, share])), faint, FINER)
    thick = int(random.integers(1, 3)) * FINER
    pen.line([(box.left, box.top), (box.left, box.bottom), (box.right, box.bottom)], ink, thick)
    return box


def _course(chart: Chart, many: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(0.02, 0.98, many)
    y = COURSES[chart.course](x) * random.uniform(0.75, 1.0) + random.uniform(-0.04, 0.08)
    return x, np.clip(y + random.normal(0, random.uniform(0.005, 0.04), many), 0.02, 0.98)


def _line(pen: ImageDraw.ImageDraw, box: Box, chart: Chart, random: np.random.Generator) -> None:
    x, y = _course(chart, int(random.integers(14, 40)), random)
    pen.line(box.at(x, y), COLOURS[chart.colour], int(random.integers(2, 6)) * FINER, joint="curve")


def _area(pen: ImageDraw.ImageDraw, box: Box, chart: Chart, random: np.random.Generator) -> None:
    x, y = _course(chart, int(random.integers(14, 40)), random)
    outline = [*box.at(x, y), *box.at(x[[-1, 0]], np.zeros(2))]
    pen.polygon(outline, COLOURS[chart.colour])


def _points(pen: ImageDraw.ImageDraw, box: Box, chart: Chart, random: np.random.Generator) -> None:
    x, y = _course(chart, int(random.integers(18, 45)), random)
    radius = random.uniform(2.5, 5) * FINER
    for across, up in box.at(x, np.clip(y + random.normal(0, 0.05, len(y)), 0.02, 0.98)):
        pen.ellipse((across - radius, up - radius, across + radius, up + radius), COLOURS[chart.colour])


def _bars(pen: ImageDraw.ImageDraw, box: Box, chart: Chart, random: np.random.Generator) -> None:
    thick = random.uniform(0.5, 0.85) / chart.parts
    for number, length in enumerate(random.uniform(0.25, 0.98, chart.parts)):
        middle = (number + 0.5) / chart.parts
        ends, sides = np.array([0, length]), np.array([middle - thick / 2, middle + thick / 2])
        x, y = (ends, sides) if "horizontal" in chart.kind else (sides, ends)
        (left, bottom), (right, top) = box.at(x, y)
        pen.rectangle((left, top, right, bottom), COLOURS[chart.colour])


def _pie(pen: ImageDraw.ImageDraw, chart: Chart, random: np.random.Generator) -> None:
    radius = random.uniform(0.33, 0.44) * HEIGHT * FINER
    x, y = WIDTH * FINER * random.uniform(0.42, 0.58), HEIGHT * FINER * random.uniform(0.47, 0.53)
    shares = random.dirichlet(np.full(chart.parts, 12.0))
    ends = 360 * np.cumsum([random.random(), *shares])
    colours = random.permutation(list(COLOURS))[: chart.parts]
    box = (x - radius, y - radius, x + radius, y + radius)
    for begin, end, colour in zip(ends, ends[1:], colours, strict=False):
        pen.pieslice(box, begin, end, COLOURS[colour], GROUNDS[chart.ground], 2 * FINER)
    if chart.kind == "ring chart":
        hole = radius * random.uniform(0.45, 0.6)
        pen.ellipse((x - hole, y - hole, x + hole, y + hole), GROUNDS[chart.ground])


_PENS = {"line": _line, "area": _area, "points": _points, "bars": _bars, "horizontal bars": _bars}


def write_charts(folder: Path, count: int, seed: int = SEED, *, different: bool = False) -> Path:
    """Write PNGs and ``charts.csv`` with ``path`` and ``caption``; the path of the CSV.

    :param different: no caption comes twice, so that each has one right picture; ``count`` is at most 300.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    charts: list[Chart] = []
    while len(charts) < count:
        chart = invent(random)
        if not different or chart not in charts:
            charts.append(chart)
    table = folder / "charts.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "caption"])
        for number, chart in enumerate(charts):
            name = f"{number:05d}.png"
            draw(chart, random).save(folder / name)
            writer.writerow([name, chart.caption])
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and draw."""
    parser = argparse.ArgumentParser(prog="python -m tools.drawings.charts", description=__doc__)
    parser.add_argument("--out", default="charts", type=Path, help="folder for the pictures and charts.csv")
    parser.add_argument("--count", default=1000, type=int, help="how many")
    parser.add_argument("--seed", default=SEED, type=int)
    options = parser.parse_args(arguments)
    write_charts(options.out, options.count, options.seed)


if __name__ == "__main__":
    main()
