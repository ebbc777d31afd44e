"""The cells of Towhee's tables in notebooks: texts escaped, images as they are."""

from __future__ import annotations

import base64
import html
import importlib
from collections.abc import Callable
from types import UnionType
from typing import Any


def mend_cells(table: Any, to_plain: Callable[[Any], str], media: UnionType) -> None:
    """Mend them, once.

    :param table: Towhee's module that makes the tables.
    :param to_plain: a value as text.
    :param media: types that Towhee shows as images and sounds.
    """
    if hasattr(table, "_cell_of_media"):
        return
    table._cell_of_media = table._to_html_td
    draw = table._image_to_html_cell
    table._image_to_html_cell = lambda one, *size: (
        _thumbnail(one) if one.dtype == "uint8" else draw(one, *size)
    )

    def cell(data: Any) -> str:
        first = data[0] if isinstance(data, list | tuple) and data else data
        if isinstance(first, media):
            return str(table._cell_of_media(data))
        as_html = getattr(data, "_repr_html_", None)
        content = as_html() if as_html else html.escape(to_plain(data))
        return f'<td style="text-align: left; vertical-align: top">{content}</td>'

    table._to_html_td = cell


def _thumbnail(image: Any) -> str:
    """In its own colours and proportions, which Towhee's are not, and without its need of matplotlib."""
    cv2 = importlib.import_module("cv2")
    scale = min(1, 128 / image.width, 128 / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = cv2.resize(image.__array__(), size, interpolation=cv2.INTER_AREA)
    is_rgb = image.channel == 3 and image.mode != "BGR"
    _, png = cv2.imencode(".png", small[..., ::-1] if is_rgb else small)
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
