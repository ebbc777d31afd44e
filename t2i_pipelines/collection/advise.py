"""Which engine, index and machines a number of images asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from t2i_pipelines.collection.capacity import Capacity, capacity
from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.storage import SINCE, Storage, Version
from t2i_pipelines.errors import ConfigError

LITE_UP_TO = 50_000
"""Images that Milvus Lite searches while one waits; measured: docs/scale.md."""

FLAT_UP_TO, FULL_UP_TO, HELD_UP_TO = 100_000, 1_000_000, 100_000_000
"""Images of which all are compared; over which a graph keeps whole numbers; that are held in memory. By the
first two AUTO chooses. The third is an opinion: beyond it, machines for each 20 million images are dearer
than waiting for a disk."""

KEYED_FROM = 1_000_000
"""Images from which a partition key is worth while: with fewer, a filter is quick anyway."""

USABLE = 0.8
"""Of a machine's memory: the rest is the operating system's, and for building the index of a segment."""

SEARCHES_A_CORE, SLOWER = 250.0, 0.34
"""Searches a second of a core over a million rows on its machine, and the power of the rows by which they
become fewer. VectorDBBench's published results of Milvus 2.6.14 (HNSW_SQ, 768 numbers, 16 cores, recall 0.95
to 0.96, run by the vendor): 4,006 a second over 1M rows, 1,833 over 10M."""

PREFERRED = (
    Storage(index_type="HNSW"),
    Storage(index_type="HNSW", vector_type="FLOAT16_VECTOR"),
    Storage(index_type="HNSW_SQ"),
    Storage(index_type="HNSW_SQ", mmap=True),
    Storage(index_type="IVF_RABITQ", mmap=True),
    Storage(index_type="DISKANN", mmap=True),
)
"""From the quickest and most exact to what needs least memory."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to run, and how to make the collection.

    :ivar engine: ``Milvus Lite``, ``Milvus standalone`` or ``Milvus cluster``.
    :ivar storage: settings of the insert pipeline.
    :ivar machines: with the memory that was given, for all replicas together.
    :ivar needs: None for Milvus Lite.
    :ivar reasons: sentences.
    """

    engine: str
    storage: Storage
    machines: int
    needs: Capacity | None
    reasons: tuple[str, ...]


def advise(
    images: int,
    dim: int = 512,
    *,
    version: Version = (2, 6),
    memory: int | None = None,
    machine: int = 64 * 10**9,
    cores: int = 16,
    searches: float = 10.0,
    filtered_by: str | None = None,
) -> Advice:
    """Choose for that many images.

    :param version: of the server.
    :param memory: bytes that there may be in all; None for as many as it takes.
    :param machine: bytes of memory of one machine.
    :param cores: of one machine.
    :param searches: a second, at the busiest.
    :param filtered_by: a metadata field of text that every search asks for one value of.
    :raises ConfigError: If no index keeps within ``memory``.
    """
    check_whole_number("machine", machine, 10**15, lowest=10**9)
    check_whole_number("cores", cores, 4096)
    if images <= LITE_UP_TO and searches <= cores and memory is None:
        reason = f"up to {LITE_UP_TO:,} images, Milvus Lite answers at once and needs no server"
        return Advice(engine="Milvus Lite", storage=Storage(), machines=1, needs=None, reasons=(reason,))
    needs = _first_that_fits(images, dim, version, memory)
    reasons = [_why(needs, memory)]
    at_once = math.ceil(needs.memory / (USABLE * machine))
    replicas = max(1, math.ceil(searches / searches_a_second(images // at_once, cores)))
    if replicas > 1:
        how = needs.storage
        needs = capacity(
            images, dim, how.index_type, vector_type=how.vector_type, mmap=how.mmap, replica_number=replicas
        )
        reasons.append(f"{replicas} replicas for {searches:g} searches a second")
    storage = needs.storage
    if filtered_by is not None and images >= KEYED_FROM and version >= SINCE["partition_key"]:
        storage = replace(storage, partition_key=filtered_by)
        reasons.append(f"a search looks at the rows of one {filtered_by} alone")
    machines = math.ceil(needs.memory / (USABLE * machine))
    engine = "Milvus standalone" if machines == 1 else "Milvus cluster"
    return Advice(engine=engine, storage=storage, machines=machines, needs=needs, reasons=tuple(reasons))


def searches_a_second(rows: int, cores: int) -> float:
    """How many searches a machine with so many rows answers."""
    return float(cores * SEARCHES_A_CORE * (max(rows, 1) / 1e6) ** -SLOWER)


def _first_that_fits(images: int, dim: int, version: Version, memory: int | None) -> Capacity:
    tried = []
    for how in _candidates(images, version, limited=memory is not None):
        tried.append(capacity(images, dim, how.index_type, vector_type=how.vector_type, mmap=how.mmap))
        if memory is None or tried[-1].memory <= memory:
            return tried[-1]
    least = min(one.memory for one in tried)
    raise ConfigError(
        f"memory {memory} is too little for {images} images of {dim} numbers: "
        f"Milvus {version[0]}.{version[1]} needs {least / 1e9:,.1f} GB at least"
    )


def _candidates(images: int, version: Version, *, limited: bool) -> Iterator[Storage]:
    if images < FLAT_UP_TO:
        yield Storage(index_type="FLAT")
    known = [how for how in PREFERRED if not _too_new(how, version)]
    if not limited and images >= HELD_UP_TO:
        known = [how for how in known if how.mmap and how.index_type != "HNSW_SQ"]
    elif not limited and images >= FULL_UP_TO:
        known = [how for how in known if how.index_type == "HNSW_SQ"] or known
    yield from known


def _too_new(how: Storage, version: Version) -> bool:
    return any(version < SINCE.get(one, (0, 0)) for one in (how.index_type, how.vector_type))


def _why(needs: Capacity, memory: int | None) -> str:
    if memory is not None:
        return f"the quickest that keeps within {memory / 1e9:,.0f} GB"
    if needs.storage.index_type == "FLAT":
        return f"below {FLAT_UP_TO:,} images, comparing all is quick and misses none"
    if needs.images < FULL_UP_TO:
        return "a graph, over the vectors as they are"
    if needs.images < HELD_UP_TO:
        return f"a graph, held in memory, which is affordable below {HELD_UP_TO:,} images"
    return f"from {HELD_UP_TO:,} images on, memory costs more than waiting for a disk"
