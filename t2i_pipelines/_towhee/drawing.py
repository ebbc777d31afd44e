"""Pipelines as images: which operator follows which, and the columns that each takes and gives."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from t2i_pipelines._towhee.door import OPType, known_operator

WIDTH, HEIGHT = 330, 30
"""Of a box, in pixels."""

ACROSS, DOWN = 16, 22
"""Pixels between boxes."""

LETTERS = 42
"""Letters that fit into a box."""

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
    for uid, node in dag.nodes.items():
        for following in node.next_nodes or ():
            before[following].append(uid)
    found: dict[str, Step] = {}
    waiting = list(dag.nodes)
    while waiting:  # graphlib's sorter would take turns between branches
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
    """Return a pipeline as an SVG drawing from top to bottom, one branch after the other.

    It asks for nothing else, and reads on dark pages, too.
    """
    found = steps(dag)
    layers: dict[int, list[str]] = defaultdict(list)
    for uid, step in found.items():
        layers[step.layer].append(uid)
    width = max(map(len, layers.values())) * (WIDTH + ACROSS)
    middles = {
        uid: width * (2 * at + 1) / (2 * len(uids)) for uids in layers.values() for at, uid in enumerate(uids)
    }
    tops = {uid: 2 + step.layer * (HEIGHT + DOWN) for uid, step in found.items()}
    drawn = [
        f'<path d="M{middles[other]:g} {tops[other] + HEIGHT}L{middles[uid]:g} {tops[uid] - 2}'
        'm-5 -6l5 6l5 -6" fill="none" stroke="#8a94a3" stroke-width="1.6"/>'
        for uid, step in found.items()
        for other in step.follows
    ]
    drawn += [_box(step, middles[uid], tops[uid]) for uid, step in found.items()]
    height = len(layers) * (HEIGHT + DOWN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="100%" '
        f'style="max-width: {width}px" font-family="system-ui, sans-serif" font-size="13" '
        'text-anchor="middle">\n' + "\n".join(drawn) + "\n</svg>"
    )


def _described(uid: str, node: Any) -> tuple[str, str, str, Colours]:
    taken, given = ", ".join(node.inputs), ", ".join(node.outputs)
    if (end := uid.strip("_")) in ENDS:
        return end, taken, "", INPUT
    columns = f"{taken} → {given}"
    operator = node.op_info.operator
    if node.op_info.type == OPType.HUB:
        name = operator.replace("-", "_").removeprefix("t2i/").replace("/", ".")
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


def _box(step: Step, middle: float, top: int) -> str:
    columns = step.columns
    if len(step.name) + len(columns) > LETTERS:
        columns = columns[: max(0, LETTERS - len(step.name))] + "…"
    said = escape(": ".join(filter(None, (f"{step.name} {step.columns}", step.what))))
    fill, stroke = step.colours
    return (
        f'<g><title>{said}</title><rect x="{middle - WIDTH / 2:g}" y="{top}" width="{WIDTH}" '
        f'height="{HEIGHT}" rx="{15 if step.colours is INPUT else 8}" fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{middle:g}" y="{top + 20}" fill="#1b2330">'
        f'<tspan font-weight="600">{escape(step.name)}</tspan><tspan dx="8">{escape(columns)}</tspan>'
        "</text></g>"
    )
