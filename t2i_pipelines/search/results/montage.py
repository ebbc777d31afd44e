"""Images side by side in one image."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image as Pillow
from PIL import ImageColor, ImageDraw, ImageFont, ImageOps

from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.errors import ConfigError


def montage(
    pictures: Sequence[Pillow.Image | None], columns: int, size: int, crop: bool, gap: int, background: str
) -> Pillow.Image:
    """Lay out images in rows from the top left, each in a square.

    :param pictures: of any size; None leaves a place that says ``missing``.
    :param size: side of a square, in pixels.
    :param crop: fill the square and cut off what stands out; otherwise the whole image is seen.
    :param gap: pixels between squares.
    :return: RGB, ``columns * size + (columns - 1) * gap`` wide.
    :raises ConfigError: If the gap is out of its range, or the colour is none.
    """
    check_whole_number("gap", gap, 1000, lowest=0)
    try:
        ImageColor.getrgb(background)
    except ValueError as err:
        raise ConfigError(
            f"background must be a colour such as 'white' or '#fff', got {background!r}"
        ) from err
    rows = -(-len(pictures) // columns)
    step = size + gap
    whole = Pillow.new("RGB", (columns * step - gap, rows * step - gap), background)
    for number, picture in enumerate(pictures):
        if picture is None:
            tile = _missing(size)
        elif crop:
            tile = ImageOps.fit(picture, (size, size))
        else:
            tile = ImageOps.pad(picture, (size, size), color=background)
        whole.paste(tile, (number % columns * step, number // columns * step))
    return whole


def _missing(size: int) -> Pillow.Image:
    tile = Pillow.new("RGB", (size, size), "#888")
    font = ImageFont.load_default(max(8, size / 8))
    ImageDraw.Draw(tile).text((size / 2, size / 2), "missing", "white", font=font, anchor="mm")
    return tile
