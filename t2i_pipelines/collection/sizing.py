"""Estimate what a collection on a Milvus server needs, and recommend an engine, an index and machines.

Every formula names its source. Those of bytes are checked against a real server at 100,000 and a million rows
(``benchmarks/scale.py``, ``docs/benchmarks/scale.md``). B is a byte, GB are 10 to the power of 9 of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from t2i_pipelines.collection.schema import GRAPH
from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.config.storage import SINCE, Storage, VectorType, Version
from t2i_pipelines.errors import ConfigError

INDEXES = ("FLAT", "HNSW", "HNSW_SQ", "IVF_SQ8", "IVF_RABITQ", "DISKANN")
LARGEST, LARGEST_DIM = 10**12, 32768

SERVER_BYTES = 350_000_000
"""Of a server that has been in use; one that has just started has 250 MB (docs/benchmarks/scale.md)."""

ROW_MEMORY, ROW_DISK = 1500, 200
"""Of a row beside its vector, without metadata of yours: id, path, size, time, digest, and what Milvus adds;
in memory also what a server keeps of what inserting took. Measured: docs/benchmarks/scale.md."""

NLIST = 1024
SEGMENT_BYTES = 1 << 30
"""Of the rows in one segment, which has its own index: ``dataCoord.segment.maxSize`` from Milvus 2.4 on."""

SECTOR = 4096
PQ_SHARE, CACHE_SHARE, DEGREE = 0.125, 0.10, 56
"""``PQCodeBudgetGBRatio``, ``SearchCacheBudgetGBRatio``, ``MaxDegree``: Milvus's defaults for DISKANN."""

KEPT_IN_MEMORY = 0.25
"""With mmap, the share of what is mapped that memory should hold: less, and searches wait for the disk.
Milvus's page "Index Explained" gives a quarter as the least, for DISKANN; an assumption for others."""

COPIES = 3.0
"""Of every row on disk until old files are deleted: in the log, as it was flushed, and as compaction wrote it
again. Milvus keeps what compaction has replaced for three hours (``dataCoord.gc.dropTolerance``), and the log
for some days. Measured: docs/benchmarks/scale.md."""

CORE_MS = {"FLAT": 0.0, "IVF_SQ8": 0.5, "IVF_RABITQ": 0.75, "HNSW": 1.6, "HNSW_SQ": 1.6, "DISKANN": 1.6}
"""Milliseconds of one core to index a vector of 512 numbers. FLAT, IVF_SQ8 and HNSW are measured
(docs/benchmarks/scale.md); the others are not: IVF_RABITQ is taken as IVF_SQ8 and a half, HNSW_SQ and DISKANN
as HNSW."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The resources that a collection needs.

    :ivar memory: bytes, of all query nodes together.
    :ivar disk: bytes, of the storage and of the query nodes together.
    :ivar index_memory: bytes of ``memory`` that are the index, once.
    :ivar index_disk: bytes of ``disk`` that are the index, once.
    :ivar build_core_hours: to build the index: on 16 cores, a 16th of that.
    """

    images: int
    dim: int
    storage: Storage
    memory: int
    disk: int
    index_memory: int
    index_disk: int
    build_core_hours: float


def capacity(
    images: int,
    dim: int = 512,
    index_type: str = "HNSW",
    *,
    vector_type: VectorType = "FLOAT_VECTOR",
    mmap: bool = False,
    replica_number: int = 1,
    row_bytes: int = 0,
) -> Capacity:
    """Memory, disk and time of that many images.

    Memory is the server's own, and for each replica the index and the rows beside it. With ``mmap``, a
    quarter of these. Disk is the rows, as often as they are kept there, and the index, in storage; and on
    each query node once more what is mapped from there (DISKANN: always).

    :param images: 1 to 10**12.
    :param dim: numbers a vector.
    :param index_type: one of ``INDEXES``, built as this library builds it.
    :param row_bytes: of your metadata, as JSON.
    :raises ConfigError: If one of them cannot be.
    """
    check_whole_number("images", images, LARGEST)
    check_whole_number("dim", dim, LARGEST_DIM)
    check_whole_number("row_bytes", row_bytes, 65535, lowest=0)
    storage = Storage(
        index_type=index_type, vector_type=vector_type, mmap=mmap, replica_number=replica_number
    )
    if storage.index_type not in INDEXES:
        raise ConfigError(f"index_type must be one of {', '.join(INDEXES)}, got {index_type!r}")
    number = 2 if vector_type == "FLOAT16_VECTOR" else 4
    index_memory, index_disk = _index(images, dim, storage.index_type, number)
    rows = images * (ROW_MEMORY + row_bytes)
    held = index_memory + rows
    from_disk = storage.index_type == "DISKANN"
    local = index_disk * from_disk + (held if mmap and not from_disk else rows * mmap)
    if mmap:
        held = int(KEPT_IN_MEMORY * (rows if from_disk else held)) + index_memory * from_disk
    stored = COPIES * images * (dim * number + ROW_DISK + row_bytes)
    return Capacity(
        images=images,
        dim=dim,
        storage=storage,
        memory=int(SERVER_BYTES + replica_number * held),
        disk=int(stored + index_disk + replica_number * local),
        index_memory=index_memory,
        index_disk=index_disk,
        build_core_hours=images * CORE_MS[storage.index_type] * dim / 512 / 3.6e6,
    )


def _index(images: int, dim: int, index_type: str, number: int) -> tuple[int, int]:
    """Bytes of the index in memory and on disk."""
    links = _links(GRAPH["M"])
    centroids = NLIST * dim * 4 * math.ceil(images * dim * number / SEGMENT_BYTES)
    match index_type:
        case "FLAT":  # the vectors themselves, of which storage holds no second copy
            return images * dim * number, 0
        case "HNSW":
            size = images * (dim * number + links)
        case "HNSW_SQ":
            size = images * (dim + links + 2 * dim)
        case "IVF_SQ8":
            size = images * (dim + 8) + centroids
        case "IVF_RABITQ":
            size = images * (math.ceil(dim / 8) + 8 + 8 + dim) + centroids
        case _:
            return int(images * dim * number * (PQ_SHARE + CACHE_SHARE)), images * _on_sectors(dim * number)
    return size, size


def _links(degree: int) -> int:
    """Bytes of an image's links in HNSW.

    2 M on the ground, M on each layer above, of which it reaches 1 / (M - 1) on average; 4 B each, and 12 B
    for layer and place. Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
    Hierarchical Navigable Small World graphs", 4.1 and 4.2.3 (a layer has an M-th of the images of the one
    below). Milvus's page "Index Explained" counts links x 4 B, too.
    """
    return round(4 * degree * (2 + 1 / (degree - 1))) + 12


def _on_sectors(vector: int) -> int:
    """Bytes of an image in DISKANN's file: vector, number of links, and links, whole ones in a sector.

    Subramanya et al., "DiskANN: Fast Accurate Billion-point Nearest Neighbor Search on a Single Node", 3.2,
    and the layout of microsoft/DiskANN.
    """
    node = vector + 4 + 4 * DEGREE
    return SECTOR // (SECTOR // node) if node <= SECTOR else SECTOR * math.ceil(node / SECTOR)


LITE_UP_TO = 50_000
"""Images that Milvus Lite searches while one waits; measured: docs/benchmarks/scale.md."""

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
    """Return how many searches a machine with so many rows answers."""
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
