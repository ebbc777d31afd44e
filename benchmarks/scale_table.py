"""Tables of what ``scale.py`` measured, as Markdown, with how each figure grows from row to row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from t2i_pipelines.cli.capacity import SIZES, said, table
from t2i_pipelines.collection.schema import GRAPH
from t2i_pipelines.collection.sizing import Capacity, advise, capacity

Record = dict[str, Any]

COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "insert_per_s": ("rows/s in", lambda n: f"{n:,.0f}"),
    "build_s": ("index, s", lambda n: f"{n:,.0f}"),
    "load_s": ("load, s", lambda n: f"{n:,.1f}"),
    "p50_ms": ("p50, ms", lambda n: f"{n:,.1f}"),
    "p99_ms": ("p99, ms", lambda n: f"{n:,.1f}"),
    "recall_words": ("recall@10, words", lambda n: f"{n:.3f}"),
    "recall_pictures": ("images", lambda n: f"{n:.3f}"),
    "memory": ("memory, MB", lambda n: f"{n / 1e6:,.0f}"),
    "disk": ("disk, MB", lambda n: f"{n / 1e6:,.0f}"),
}
GROWS = ("build_s", "p50_ms", "p99_ms", "memory", "disk")


def records(file: Path) -> list[Record]:
    """One a line; of two with engine, index and rows alike, the later."""
    lines = file.read_text(encoding="utf-8").splitlines()
    last = {(one["engine"], one["index"], one["rows"]): one for one in map(json.loads, lines)}
    return list(last.values())


def tables(file: Path) -> str:
    """One for each engine."""
    found = records(file)
    return "\n\n".join(
        _table([one for one in found if one["engine"] == name]) for name in _names(found, "engine")
    )


def told(record: Record) -> Capacity:
    """What the formulas give for a record of the server, with the graph that it had."""
    own = dict(GRAPH)
    GRAPH["M"] = record["params"].get("M", GRAPH["M"])
    try:
        return capacity(record["rows"], record["dim"], record["index"].partition(" ")[0])
    finally:
        GRAPH.update(own)


def against(file: Path) -> str:
    """Measured sizes of the server beside those by formula, in MB."""
    head = ["index", "rows", "memory", "by formula", "index on disk", "by formula", "disk", "by formula"]
    lines = [head]
    for one in _in_order([one for one in records(file) if one["engine"] == "server"]):
        needs = told(one)
        index = one.get("disk_index_new")
        pairs = [
            (one["memory"], needs.memory),
            (index, needs.index_disk if index else None),
            # what earlier indexes left behind is not this one's
            (one["disk"] - one["disk_empty"] - one["disk_index"] + (index or 0), needs.disk),
        ]
        shown = ["" if size is None else f"{size / 1e6:,.0f}" for pair in pairs for size in pair]
        lines.append([one["index"], f"{one['rows']:,}", *shown])
    return _markdown(lines)


def filled(text: str, file: Path) -> str:
    """A document with the tables between its marks made anew: ``<!-- measured -->`` to ``<!-- end -->``."""
    advice = "\n".join(f"- {said(size, advise(size))}" for size in SIZES)
    parts = {
        "measured": tables(file),
        "against": against(file),
        "capacity": table(SIZES),
        "advice": advice,
    }
    for name, content in parts.items():
        pattern = rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)"
        text, count = re.subn(pattern, f"{content}\n".replace("\\", r"\\"), text, count=1, flags=re.DOTALL)
        assert count == 1, f"no place for {name}"
    return text


def _table(found: list[Record]) -> str:
    first = found[0]
    engine = {"lite": "Milvus Lite", "server": "Milvus server"}[first["engine"]]
    where = f"{first['cpu']}, {first['cores']} cores, {first['memory_gb']} GB"
    title = f"{engine} {first['version']}, {first['dim']} numbers a vector; {where}; {first['date']}"
    columns = [name for name in COLUMNS if any(one.get(name) is not None for one in found)]
    grows = [name for name in GROWS if name in columns]
    head = ["index", "rows", *(COLUMNS[name][0] for name in columns)]
    lines = [
        [one["index"], f"{one['rows']:,}", *(_shown(one, name) for name in columns)]
        for one in _in_order(found)
    ]
    growth = [["index", "rows", *(COLUMNS[name][0].partition(",")[0] for name in grows)]]
    for index in _names(found, "index"):
        same = sorted((one for one in found if one["index"] == index), key=lambda one: int(one["rows"]))
        for one, next in pairwise(same):
            step = f"{one['rows']:,} to {next['rows']:,}"
            growth.append([index, step, *(_factor(one, next, name) for name in grows)])
    text = f"{title}\n\n{_markdown([head, *lines])}"
    if len(growth) > 1:
        text += f"\n\nGrows, for ten times the rows, by a factor of\n\n{_markdown(growth)}"
    return text


def _in_order(found: list[Record]) -> list[Record]:
    names = _names(found, "index")
    return sorted(found, key=lambda one: (names.index(one["index"]), one["rows"]))


def _names(found: list[Record], key: str) -> list[str]:
    return list(dict.fromkeys(str(one[key]) for one in found))


def _shown(record: Record, name: str) -> str:
    value = record.get(name)
    return "" if value is None else COLUMNS[name][1](value)


def _factor(one: Record, next: Record, name: str) -> str:
    """To the power that turns the rows' growth into one by ten: 10 is linear, 1 none."""
    if not one.get(name) or not next.get(name):
        return ""
    return f"{10 ** (math.log(next[name] / one[name]) / math.log(next['rows'] / one['rows'])):.1f}"


def _markdown(lines: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], rule, *lines[1:]])
