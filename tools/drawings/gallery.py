"""Draw the demo gallery: ``python -m tools.drawings.gallery --out data/gallery``.

About 300 pictures in several formats, some turned by an EXIF mark, some transparent, some grey, and a
CSV beside the folder that tells in five languages what they show. Layouts come from a seed of their
own, so the model has seen none of them.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PilImage

from tools.drawings.backgrounds import COLOURS, paint
from tools.drawings.captions import describe
from tools.drawings.emoji_names import LANGUAGES, Concept, concepts
from tools.drawings.scenes import Scene, draw, invent, place

SEED = 20_240_229
COUNT = 300
LONGER_SIDE = (360, 540)
COMMON = 6.0  # how much more often common things are drawn

FEATURED = (
    ("grass", "dog"),
    ("white", "dog", "soccer ball"),
    ("wood", "cat"),
    ("pink", "cat", "tulip"),
    ("wood", "red apple"),
    ("yellow", "red apple", "bicycle"),
    ("sand", "car"),
    ("stones", "police car", "taxi"),
    ("sky", "sunflower"),
    ("night sky", "rocket"),
    ("chequered", "pizza", "wine"),
    ("sea", "sailboat"),
    ("snow", "penguin"),
    ("sea", "whale"),
    ("sand", "palm tree", "umbrella"),
    ("sky", "airplane"),
    ("grass", "horse", "tree"),
    ("grass", "cow"),
    ("night sky", "owl", "crescent moon"),
    ("confetti", "birthday cake", "balloon"),
    ("wood", "coffee", "croissant"),
    ("bricks", "ghost", "jack-o-lantern"),
    ("snow", "snowman", "christmas tree"),
    ("sea", "duck"),
    ("striped", "hamburger", "french fries"),
    ("dotted", "dress", "handbag"),
    ("sunset", "elephant"),
    ("purple", "guitar"),
    ("blue", "robot"),
    ("bricks", "motorcycle"),
)
"""Scenes that are always there: background, then things."""

ALIKE = re.compile(r"face|cat with|(weary|crying|pouting|kissing|grinning) cat|moon$|monkey$|chart|medal$")
"""Things that only a careful eye tells from others; the gallery does without them."""

COLOUR_WORDS = re.compile(r"\b(red|green|blue|yellow|orange|purple|brown|black|white|pink)\b")

# EXIF orientation -> what turns the upright picture into the stored one
TURNS = {
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_90,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_270,
}
ORIENTATION = 0x0112
GRAINY = ("grass", "sand", "sky", "sea", "snow", "sunset", "wood", "stones", "night sky", "confetti")


class Shot(NamedTuple):
    """A scene and how it is stored."""

    scene: Scene
    kind: str
    """``plain``, ``turned``, ``clear`` (transparent) or ``grey``."""
    suffix: str
    """``.jpg``, ``.png`` or ``.webp``."""


def _fits(scene: Scene, shots: Sequence[Shot], grey: bool) -> bool:
    """Whether the caption will be true of no other picture, and of this one even without colour."""
    things = {thing.concept.key for thing in scene.objects}
    if grey and (scene.background in (*COLOURS, "sunset") or any(map(COLOUR_WORDS.search, things))):
        return False
    return not any(
        things & {thing.concept.key for thing in other.scene.objects}
        for other in shots
        if other.scene.background == scene.background
    )


def _suffix(kind: str, background: str, rng: np.random.Generator) -> str:
    if kind == "clear":
        return str(rng.choice([".png", ".webp"]))
    if kind == "turned":
        return str(rng.choice([".jpg", ".jpg", ".webp"]))
    if background in GRAINY:  # as PNG these would be large
        return str(rng.choice([".jpg", ".webp"]))
    return str(rng.choice([".jpg", ".png", ".webp"]))


def _unflipped(scene: Scene) -> Scene:
    """The same scene, in which letters can be read."""
    return replace(scene, objects=tuple(replace(thing, flip=False) for thing in scene.objects))


def _featured(rng: np.random.Generator) -> list[Shot]:
    by_name = {name: concept for concept in concepts() for name in concept.names["en"][::-1]}
    by_name |= {concept.key: concept for concept in concepts()}
    shots = []
    for background, *names in FEATURED:
        aspect = float(np.exp(rng.uniform(-0.3, 0.4)))
        objects = place([by_name[name] for name in names], aspect, rng)
        while len(objects) < len(names):
            objects = place([by_name[name] for name in names], aspect, rng)
        scene = _unflipped(Scene(objects, background, aspect))
        shots.append(Shot(scene, "plain", _suffix("plain", background, rng)))
    return shots


def choose(count: int, seed: int) -> list[Shot]:
    """Think of ``count`` pictures, the featured first; no two with the same thing on the same ground."""
    rng = np.random.default_rng(seed)
    shots = _featured(rng)[:count]
    things: list[Concept] = [thing for thing in concepts() if not ALIKE.search(thing.key)]
    weights = np.cumsum([COMMON if thing.common else 1.0 for thing in things])
    while len(shots) < count:
        kind = str(rng.choice(["plain", "turned", "clear", "grey"], p=[0.68, 0.14, 0.09, 0.09]))
        scene = _unflipped(invent(things, weights / weights[-1], rng))
        if kind == "clear":
            scene = replace(scene, background="white")
        if _fits(scene, shots, kind == "grey"):
            shots.append(Shot(scene, kind, _suffix(kind, scene.background, rng)))
    return shots


def _without_ground(scene: Scene, height: int, width: int) -> PilImage.Image:
    """The things alone, over nothing: RGBA, found from how they look over black and over white."""
    black, white = (np.full((height, width, 3), tone, np.uint8) for tone in (0, 255))
    dark, light = (draw(scene, ground).astype(np.float32) for ground in (black, white))
    alpha = 255 - (light - dark).mean(axis=2, keepdims=True)
    colour = np.where(alpha > 0, dark * 255 / np.maximum(alpha, 1), 255)
    pixels = np.concatenate([colour, alpha], axis=2)
    return PilImage.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8), "RGBA")


def shoot(shot: Shot, rng: np.random.Generator) -> tuple[PilImage.Image, PilImage.Exif]:
    """The picture as it is stored, with its EXIF block."""
    scene, longer = shot.scene, int(rng.integers(*LONGER_SIDE))
    width, height = round(longer * min(scene.aspect, 1)), round(longer / max(scene.aspect, 1))
    exif = PilImage.Exif()
    if shot.kind == "clear":
        return _without_ground(scene, height, width), exif
    ground = paint(scene.background, height, width, rng)
    picture = PilImage.fromarray(draw(scene, ground))
    if shot.kind == "grey":
        picture = picture.convert("L")
    if shot.kind == "turned":
        exif[ORIENTATION] = int(rng.choice(list(TURNS)))
        picture = picture.transpose(TURNS[exif[ORIENTATION]])
    return picture, exif


def write_gallery(folder: Path, *, count: int = COUNT, seed: int = SEED) -> Path:
    """Write the pictures to ``folder`` and the captions beside it; the path of the CSV.

    Pictures of an earlier run are removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9][0-9]-*"):
        old.unlink()
    rng = np.random.default_rng(seed + 1)
    table = folder.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *(f"caption_{language}" for language in LANGUAGES)])
        for number, shot in enumerate(choose(count, seed)):
            things = "-".join(thing.concept.key for thing in shot.scene.objects)
            name = f"{number:03d}-{re.sub(r'[^a-z0-9]+', '-', things).strip('-')}{shot.suffix}"
            picture, exif = shoot(shot, rng)
            picture.save(folder / name, exif=exif, quality=86)
            captions = [describe(shot.scene, language) for language in LANGUAGES]
            writer.writerow([f"{folder.name}/{name}", *captions])
    return table


def main(arguments: list[str] | None = None) -> None:
    """Read the options and write the gallery."""
    parser = argparse.ArgumentParser(prog="python -m tools.drawings.gallery", description=__doc__)
    parser.add_argument("--out", default="data/gallery", type=Path, help="folder for the pictures")
    parser.add_argument("--count", default=COUNT, type=int, help="how many pictures")
    parser.add_argument("--seed", default=SEED, type=int)
    options = parser.parse_args(arguments)
    write_gallery(options.out, count=options.count, seed=options.seed)


if __name__ == "__main__":
    main()
