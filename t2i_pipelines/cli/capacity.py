"""``t2i capacity``: what images need of memory, disk and time, and what to choose for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from t2i_pipelines.collection.sizing import INDEXES, Advice, advise, capacity
from t2i_pipelines.config.storage import Storage
from t2i_pipelines.errors import ConfigError

SIZES = tuple(10**power for power in range(5, 10))
KINDS = (
    Storage(index_type="FLAT"),
    Storage(index_type="HNSW"),
    Storage(index_type="HNSW", vector_type="FLOAT16_VECTOR"),
    Storage(index_type="HNSW", mmap=True),
    Storage(index_type="HNSW_SQ"),
    Storage(index_type="HNSW_SQ", mmap=True),
    Storage(index_type="IVF_SQ8"),
    Storage(index_type="IVF_RABITQ"),
    Storage(index_type="IVF_RABITQ", mmap=True),
    Storage(index_type="DISKANN", mmap=True),
)
CORES = 16
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


def show(
    images: Annotated[
        str | None, typer.Option(help="Number of images: 250000, 100k, 20M, 1B. By default, five sizes.")
    ] = None,
    dim: Annotated[int, typer.Option(help="Vector dimension.")] = 512,
    index_type: Annotated[str | None, typer.Option(help=f"Only this: {', '.join(INDEXES)}.")] = None,
    version: Annotated[str, typer.Option(help="Version of the Milvus server.")] = "2.6",
    memory: Annotated[
        str | None, typer.Option(help="Available memory, such as 64G; by default as much as needed.")
    ] = None,
    machine: Annotated[str, typer.Option(help="Memory of one machine.")] = "64G",
    cores: Annotated[int, typer.Option(help="Cores of one machine.")] = CORES,
    searches: Annotated[float, typer.Option(help="Peak searches per second.")] = 10.0,
    filtered_by: Annotated[
        str | None, typer.Option(help="Metadata field that every search filters by.")
    ] = None,
) -> None:
    """Compute what images need on a Milvus server, and how to store them. Prints Markdown."""
    sizes = SIZES if images is None else (read_number("images", images),)
    release = _read_version(version)
    kinds = KINDS if index_type is None else [one for one in KINDS if one.index_type == index_type.upper()]
    if not kinds:
        raise ConfigError(f"index_type must be one of {', '.join(INDEXES)}, got {index_type!r}")
    typer.echo(table(sizes, dim, kinds))
    typer.echo()
    for size in sizes:
        found = advise(
            size,
            dim,
            version=release,
            memory=None if memory is None else read_number("memory", memory),
            machine=read_number("machine", machine),
            cores=cores,
            searches=searches,
            filtered_by=filtered_by,
        )
        typer.echo(f"- {said(size, found)}")


def table(sizes: Sequence[int], dim: int = 512, kinds: Sequence[Storage] = KINDS) -> str:
    """Return what each way of storing needs at each size, as a Markdown table."""
    head = [
        "images",
        "index",
        "vectors",
        "mmap",
        "memory, GB",
        "disk, GB",
        f"index, hours on {CORES} cores",
    ]
    rule = ["---:", "---", "---", "---", "---:", "---:", "---:"]
    lines = [head, rule, *(cells for size in sizes for cells in _cells(size, dim, kinds))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def said(images: int, advice: Advice) -> str:
    """Return the advice in a sentence."""
    how = ", ".join(f"{name}={value!r}" for name, value in advice.storage.chosen.items())
    reasons = "; ".join(advice.reasons)
    if advice.needs is None:
        return f"{images:,} images: {advice.engine}. {reasons[0].upper()}{reasons[1:]}."
    machines = "1 machine" if advice.machines == 1 else f"{advice.machines:,} machines"
    needs = f"{_gigabytes(advice.needs.memory)} GB of memory and {_gigabytes(advice.needs.disk)} GB of disk"
    chosen = f"{images:,} images: {advice.engine}, {machines}, {how}: {needs}"
    return f"{chosen}. {reasons[0].upper()}{reasons[1:]}."


def read_number(name: str, text: str) -> int:
    """``250000``, ``100k``, ``1.5M``, ``64G``.

    :raises ConfigError: If it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGBT]?)B?", text.strip().upper().replace(",", ""))
    if found is None:
        raise ConfigError(f"{name} must be a number such as 250000, 100k, 20M or 1B, got {text!r}")
    return round(float(found[1]) * UNITS[found[2]])


def _cells(size: int, dim: int, kinds: Sequence[Storage]) -> Iterator[list[str]]:
    for how in kinds:
        needs = capacity(size, dim, how.index_type, vector_type=how.vector_type, mmap=how.mmap)
        vectors = "16 bits" if how.vector_type == "FLOAT16_VECTOR" else "32 bits"
        hours = needs.build_core_hours / CORES
        yield [
            f"{size:,}",
            how.index_type,
            vectors,
            "yes" if how.mmap else "",
            _gigabytes(needs.memory),
            _gigabytes(needs.disk),
            "" if hours == 0 else f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}",
        ]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f}" if size < 100e9 else f"{size / 1e9:,.0f}"


def _read_version(text: str) -> tuple[int, int]:
    found = re.match(r"v?(\d+)\.(\d+)", text)
    if found is None:
        raise ConfigError(f"version must be such as 2.6, got {text!r}")
    return int(found[1]), int(found[2])
