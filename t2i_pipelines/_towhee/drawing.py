"""Pipelines as images: which operator follows which, and the columns that each takes and gives."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from t2i_pipelines._towhee.door import OPType, known_operator

WIDTH, HEIGHT = 146, 48
"""Of a box, in pixels."""

ACROSS, DOWN = 22, 16
"""Pixels between boxes."""

TURN = 34
"""Pixels between the rows that a long pipeline is laid out in."""

IN_A_ROW = 6
"""Boxes beside each other, at most, unless branches leave no place to break the row."""

LETTERS = {13: 18, 11: 24}
"""Font size, in pixels -> letters that fit into a box."""

Colours = tuple[str, str]
INPUT, OPERATOR, OWN = ("#f2f4f7", "#8a94a3"), ("#e8f0fe", "#3f7df0"), ("#fdf1dc", "#d99a1c")
"""Fill and line of what comes in and goes out, of this library's operators, and of yours."""


ENDS = ("input", "output")


@dataclass(frozen=True)
class Step:
    """A node of a pipeline.

    :ivar name: as in ``ops``, without the namespace where it is ``t2i`` or too long; a function's own name.
    :ivar columns: ``taken → given``, or one of them at either end.
    :ivar what: the first line of the operator's or function's docstring.
    :ivar follows: the steps that come before it.
    :ivar layer: steps between the input and it, by the longest way.
    """

    name: str
    columns: str
    what: str
    colours: Colours
    follows: tuple[str, ...]
    layer: int


def steps(dag: Any) -> dict[str, Step]:
    """Return the nodes of a pipeline in an order in which each comes after those that it follows."""
    before: dict[str, list[str]] = defaultdict(list)
    found: dict[str, Step] = {}
    for uid, node in dag.nodes.items():
        for following in node.next_nodes or ():
            before[following].append(uid)
    waiting = list(dag.nodes)
    while waiting:
        uid = next(one for one in waiting if all(other in found for other in before[one]))
        waiting.remove(uid)
        layer = max((found[other].layer for other in before[uid]), default=-1) + 1
        found[uid] = Step(*_described(uid, dag.nodes[uid]), tuple(before[uid]), layer)
    return found


def line(dag: Any) -> str:
    """Return a pipeline in one line; of branches, one after the other."""
    return " ─▶ ".join(
        f"({step.columns})" if step.name in ENDS else step.name for step in steps(dag).values()
    )


def svg(dag: Any) -> str:
    """Return a pipeline as an SVG drawing, which asks for nothing else and reads on dark pages, too."""
    found = steps(dag)
    layers: dict[int, list[str]] = defaultdict(list)
    for uid, step in found.items():
        layers[step.layer].append(uid)
    places: dict[str, tuple[float, float]] = {}
    width, top = (
        float(4 + IN_A_ROW * (WIDTH + ACROSS) - ACROSS),
        0.0,
    )  # boxes of all drawings look equally large
    for row in _rows([layers[at] for at in range(len(layers))]):
        lanes = max(map(len, row))
        for column, uids in enumerate(row):
            for at, uid in enumerate(uids):
                lane = at + (lanes - len(uids)) / 2
                places[uid] = 2 + column * (WIDTH + ACROSS), 2 + top + lane * (HEIGHT + DOWN)
        width = max(width, 4 + len(row) * (WIDTH + ACROSS) - ACROSS)
        top += lanes * (HEIGHT + DOWN) - DOWN + TURN
    arrows = [_arrow(places[other], places[uid]) for uid, step in found.items() for other in step.follows]
    boxes = [_box(step, *places[uid]) for uid, step in found.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {4 + top - TURN:g}" width="100%" '
        f'style="max-width: {width:g}px" font-family="system-ui, sans-serif" text-anchor="middle">\n'
        + "\n".join([*arrows, *boxes])
        + "\n</svg>"
    )


def _rows(layers: list[list[str]]) -> list[list[list[str]]]:
    """Layers in rows of about the same length; a row ends only where one step alone leads to one step."""
    length = -(-len(layers) // -(-len(layers) // IN_A_ROW))
    rows = [[layers[0]]]
    for before, layer in pairwise(layers):
        if len(rows[-1]) >= length and len(before) == len(layer) == 1:
            rows.append([])
        rows[-1].append(layer)
    return rows


def _described(uid: str, node: Any) -> tuple[str, str, str, Colours]:
    taken, given = ", ".join(node.inputs), ", ".join(node.outputs)
    if (end := uid.strip("_")) in ENDS:
        return end, taken, "", INPUT
    columns = f"{taken} → {given}"
    operator = node.op_info.operator
    if node.op_info.type == OPType.HUB:
        name = operator.replace("-", "_").removeprefix("t2i/").replace("/", ".")
        name = name if len(name) <= LETTERS[13] else name.rpartition(".")[2]
        made_by = known_operator(operator)  # None for one in Towhee's local cache
        ours = getattr(made_by, "__module__", "").startswith("t2i_pipelines.")
        return name, columns, _first_line(made_by), OPERATOR if ours else OWN
    if callable(operator):
        name = getattr(operator, "__name__", type(operator).__name__)
        return name.replace("<lambda>", "lambda"), columns, _first_line(operator), OWN
    return str(operator), "", "", INPUT


def _first_line(documented: Callable[..., Any] | None) -> str:
    said = inspect.getdoc(documented) if documented else None
    return (said or "").partition("\n")[0].replace("``", "")


def _box(step: Step, left: float, top: float) -> str:
    middle = left + WIDTH / 2
    fill, stroke = step.colours
    text = [(step.name, 13, 600)] + [(step.columns, 11, 400)] * bool(step.columns)
    first = top + (20 if step.columns else 29)
    lines = "".join(
        f'<text x="{middle:g}" y="{first + 17 * at:g}" font-size="{size}" font-weight="{weight}" '
        f'fill="#1b2330">{escape(_cut(words, LETTERS[size]))}</text>'
        for at, (words, size, weight) in enumerate(text)
    )
    said = escape(": ".join(filter(None, (step.columns, step.what))))
    return (
        f'<g><title>{said}</title><rect x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" '
        f'rx="{HEIGHT / 2 if step.colours is INPUT else 8:g}" fill="{fill}" stroke="{stroke}"/>{lines}</g>'
    )


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    left, top = start[0] + WIDTH, start[1] + HEIGHT / 2
    right, bottom = end[0], end[1] + HEIGHT / 2
    if right > left:
        half = (left + right) / 2
        way = f"M{left:g} {top:g}C{half:g} {top:g} {half:g} {bottom:g} {right - 3:g} {bottom:g}"
    else:  # to the next row
        between = end[1] - TURN / 2
        way = f"M{left - WIDTH / 2:g} {top + HEIGHT / 2:g}V{between:g}H{right + WIDTH / 2:g}V{end[1] - 2:g}"
        return _path(way, f"M{right + WIDTH / 2 - 5:g} {end[1] - 7:g}l5 6l5 -6")
    return _path(way, f"M{right - 7:g} {bottom - 5:g}l6 5l-6 5")


def _path(*ways: str) -> str:
    return "".join(
        f'<path d="{way}" fill="none" stroke="#8a94a3" stroke-width="1.6" stroke-linejoin="round"/>'
        for way in ways
    )
