"""Count how large and how deep the package is: ``make house``.

A floor is the longest chain of imports between rooms, the packages and modules directly in ``t2i_pipelines``.
"""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "t2i_pipelines"
SMALL = 60
"""Lines below which a file counts as small."""


class House(NamedTuple):
    """The figures.

    :ivar names: packages and modules directly in the package.
    :ivar loose: modules among them.
    :ivar circles: files that import one another in a circle.
    :ivar small: files of fewer than :data:`SMALL` lines.
    """

    names: int
    loose: int
    floors: int
    circles: int
    files: int
    lines: int
    small: int
    median: float
    largest: int


def measure() -> House:
    """Read every file of the package, and count."""
    files = sorted(PACKAGE.rglob("*.py"))
    lengths = [len(file.read_text(encoding="utf-8").splitlines()) for file in files]
    by_name = {_dotted(file): file for file in files}
    graph = {name: set(_imported(file, by_name)) - {name} for name, file in by_name.items()}
    rooms: dict[str, set[str]] = {}
    for name, others in graph.items():
        rooms.setdefault(_room(name), set()).update(_room(other) for other in others)
    rooms = {room: others - {room} for room, others in rooms.items()}
    tops = [one for one in PACKAGE.iterdir() if one.suffix == ".py" or (one / "__init__.py").exists()]
    loose = [one for one in tops if one.suffix == ".py" and one.name != "__init__.py"]
    return House(
        names=len(tops) - 1,
        loose=len(loose),
        floors=count_floors(rooms),
        circles=count_circles(graph),
        files=len(files),
        lines=sum(lengths),
        small=sum(length < SMALL for length in lengths),
        median=statistics.median(lengths),
        largest=max(lengths),
    )


def loaded(code: str) -> int:
    """Count the package's modules that a fresh interpreter has loaded after this code."""
    count = "import sys; print(sum(name.split('.')[0] == 't2i_pipelines' for name in sys.modules))"
    command = [sys.executable, "-c", f"{code}\n{count}"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _dotted(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def _imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the package's files that a file imports when it is imported itself."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            found = name if name in known else name.rpartition(".")[0]
            if found in known:
                yield found


def count_floors(rooms: dict[str, set[str]]) -> int:
    """Return the length of the longest chain of imports."""
    depth: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        depth[room] = 1 + max((depth[other] for other in rooms.get(room, ())), default=0)
    return max(depth.values())


def count_circles(graph: dict[str, set[str]]) -> int:
    """Count circles, taking one edge away from each that is found."""
    left, found = {name: set(others) for name, others in graph.items()}, 0
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as err:
            circle = err.args[1]
            left[circle[1]].discard(circle[0])
            found += 1
        else:
            return found


def main() -> None:
    """Print the figures, one a line."""
    for name, value in measure()._asdict().items():
        sys.stdout.write(f"{name:<10}{value:>8,}\n")
    sys.stdout.write(f"loaded by the command line {loaded('import t2i_pipelines.cli'):>8,}\n")


if __name__ == "__main__":
    main()
