"""What images need, by formula: beside what FAISS writes, and what a real server took."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import scale_table
from t2i_pipelines.cli import app
from t2i_pipelines.cli.capacity import KINDS, SIZES, read_number, table
from t2i_pipelines.collection import sizing as sizes
from t2i_pipelines.collection.sizing import INDEXES, PREFERRED, advise, capacity, searches_a_second
from t2i_pipelines.config.storage import SINCE
from t2i_pipelines.errors import ConfigError

ROOT = Path(__file__).parents[2]
MEASURED = [
    json.loads(line) for line in (ROOT / "docs" / "benchmarks" / "scale.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize("index_type", ["HNSW", "IVF_SQ8", "IVF_RABITQ"])
def test_an_index_takes_the_bytes_that_faiss_writes(index_type, monkeypatch):
    """Milvus's own library for indexes builds on FAISS. IVF_RABITQ's second look is 8 bits a number."""
    faiss = pytest.importorskip("faiss")
    rows, dim, lists = 4000, 64, 16
    monkeypatch.setattr(sizes, "NLIST", lists)
    vectors = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    made = {
        "HNSW": lambda: faiss.IndexHNSWFlat(dim, 32),
        "IVF_SQ8": lambda: faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatL2(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit
        ),
        "IVF_RABITQ": lambda: faiss.IndexRefine(
            faiss.IndexIVFRaBitQ(faiss.IndexFlatL2(dim), dim, lists),
            faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit),
        ),
    }[index_type]()
    made.train(vectors)
    made.add(vectors)
    told = capacity(rows, dim, index_type)
    assert told.index_memory == told.index_disk == pytest.approx(len(faiss.serialize_index(made)), rel=0.01)


def test_the_examples_of_milvus_own_page(monkeypatch):
    """ "Index Explained", one million vectors of 128 numbers: HNSW of 32 links 640 MB, IVF_SQ8 131 MB."""
    monkeypatch.setattr(sizes, "GRAPH", {"M": 16})
    assert capacity(10**6, 128, "HNSW").index_memory == pytest.approx(640e6, rel=0.05)
    assert capacity(10**6, 128, "IVF_SQ8").index_memory == pytest.approx(131e6, rel=0.06)


def test_diskann_keeps_a_share_in_memory_and_a_sector_a_picture_on_disk():
    needs = capacity(10**6, 512, "DISKANN")
    assert needs.index_memory == pytest.approx(0.225 * 2048e6)
    assert needs.index_disk == 4096 * 10**6  # 2,048 and 228 B: one in 4 KiB
    assert capacity(10**6, 384, "DISKANN").index_disk == 2048 * 10**6  # 1,536 and 228 B: two
    assert capacity(10**6, 1024, "DISKANN").index_disk == 8192 * 10**6  # 4,096 and 228 B: two sectors


def test_half_the_bytes_a_number_are_half_the_vectors():
    full, half = (
        capacity(10**6, 512, "FLAT", vector_type=kind) for kind in ("FLOAT_VECTOR", "FLOAT16_VECTOR")
    )
    assert full.memory - half.memory == 1024 * 10**6
    assert full.disk - half.disk == sizes.COPIES * 1024 * 10**6


def test_mmap_trades_memory_for_disk_and_replicas_multiply_both():
    held, mapped = (capacity(10**7, index_type="HNSW", mmap=mmap) for mmap in (False, True))
    assert mapped.memory < 0.3 * held.memory
    assert mapped.disk - held.disk == pytest.approx(held.memory, rel=0.02)
    three = capacity(10**7, index_type="HNSW", mmap=True, replica_number=3)
    assert three.memory == pytest.approx(3 * mapped.memory, rel=0.1)
    assert three.disk - mapped.disk == 2 * (mapped.disk - held.disk)


def test_metadata_is_counted():
    assert capacity(1000, row_bytes=500).memory - capacity(1000).memory == 500_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images must be between 1 and"),
        ({"images": 1.5}, "images must be a whole number"),
        ({"images": 1, "dim": 0}, "dim must be between"),
        ({"images": 1, "index_type": "IVF_PQ"}, "index_type must be one of FLAT, HNSW, .*got 'IVF_PQ'"),
        ({"images": 1, "row_bytes": -1}, "row_bytes must be between 0"),
        ({"images": 1, "vector_type": "INT8"}, "vector_type must be one of"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        capacity(**arguments)


@pytest.mark.parametrize(
    ("images", "version", "engine", "index_type"),
    [
        (10_000, (2, 6), "Milvus Lite", "AUTO"),
        (90_000, (2, 6), "Milvus standalone", "FLAT"),
        (500_000, (2, 6), "Milvus standalone", "HNSW"),
        (5_000_000, (2, 6), "Milvus standalone", "HNSW_SQ"),
        (5_000_000, (2, 4), "Milvus standalone", "HNSW"),
        (100_000_000, (2, 6), "Milvus cluster", "IVF_RABITQ"),
        (100_000_000, (2, 5), "Milvus cluster", "DISKANN"),
        (1_000_000_000, (2, 6), "Milvus cluster", "IVF_RABITQ"),
    ],
)
def test_the_choice_by_size_and_version(images, version, engine, index_type):
    found = advise(images, version=version)
    assert (found.engine, found.storage.index_type) == (engine, index_type)


@pytest.mark.parametrize("version", [(2, 3), (2, 4), (2, 5), (2, 6)])
@pytest.mark.parametrize("gigabytes", [80, 25, 18, 9])
def test_with_a_limit_it_is_the_first_that_keeps_within_it_and_that_the_server_knows(version, gigabytes):
    images, limit = 10**7, gigabytes * 10**9
    possible = [
        how
        for how in PREFERRED
        if not any(version < SINCE.get(str(one), (0, 0)) for one in how.chosen.values())
        and capacity(images, index_type=how.index_type, vector_type=how.vector_type, mmap=how.mmap).memory
        <= limit
    ]
    found = advise(images, version=version, memory=limit)
    assert found.storage == possible[0]
    assert found.needs.memory <= limit


def test_too_little_memory_is_told_with_what_it_takes():
    with pytest.raises(ConfigError, match=r"memory 1000000000 is too little .* needs [\d,.]+ GB at least"):
        advise(10**9, memory=10**9)


def test_more_searches_take_replicas_and_a_filter_a_partition_key():
    one, many = (
        advise(10**7),
        advise(10**7, searches=19.5 * searches_a_second(10**7, 16), filtered_by="album"),
    )
    assert (one.storage.replica_number, one.storage.partition_key) == (1, None)
    assert (many.storage.replica_number, many.storage.partition_key) == (20, "album")
    assert many.machines > 5 * one.machines
    assert advise(10**5, filtered_by="album").storage.partition_key is None
    assert advise(10**7, filtered_by="album", version=(2, 3)).storage.partition_key is None


def test_searches_a_second_are_those_that_were_published():
    """VectorDBBench, Milvus 2.6.14, HNSW_SQ, 16 cores: 4,006 over 1M rows, 1,833 over 10M."""
    assert searches_a_second(10**6, 16) == pytest.approx(4006, rel=0.05)
    assert searches_a_second(10**7, 16) == pytest.approx(1833, rel=0.05)


def test_the_table_has_every_index_at_every_size():
    lines = table(SIZES).splitlines()
    assert len(lines) == 2 + len(SIZES) * len(KINDS)
    assert {how.index_type for how in KINDS} == set(INDEXES)
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [("100k", 10**5), ("20M", 2 * 10**7), ("1B", 10**9), ("1.5m", 1_500_000), ("64GB", 64 * 10**9)],
)
def test_numbers_are_read_as_people_write_them(text, number):
    assert read_number("images", text) == number


def test_the_command_tells_what_to_buy():
    ran = CliRunner().invoke(app, ["capacity", "--images", "100M", "--index-type", "hnsw", "--searches", "5"])
    assert ran.exit_code == 0
    assert "| 100,000,000 | HNSW | 32 bits |  |" in ran.output
    assert "IVF_SQ8" not in ran.output
    assert (
        "- 100,000,000 images: Milvus cluster, 2 machines, index_type='IVF_RABITQ', mmap=True: " in ran.output
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "many"], "images must be a number such as"),
        (["--version", "new"], "version must be such as 2.6"),
        (["--index-type", "FOO"], "index_type must be one of"),
    ],
)
def test_the_command_names_what_it_cannot_read(arguments, message):
    ran = CliRunner().invoke(app, ["capacity", *arguments])
    assert isinstance(ran.exception, ConfigError)
    assert message in str(ran.exception)


@pytest.mark.parametrize(
    "record",
    [one for one in MEASURED if one["engine"] == "server" and one["rows"] in (10**5, 10**6)],
    ids=lambda record: f"{record['index']} {record['rows']:,}",
)
def test_a_real_server_took_what_the_formulas_tell(record):
    needs = scale_table.told(record)
    assert record["memory"] == pytest.approx(needs.memory, rel=0.15)
    own = record.get("disk_index_new", 0)
    assert own == pytest.approx(needs.index_disk, rel=0.15)
    disk = record["disk"] - record["disk_empty"] - record["disk_index"] + own
    assert disk == pytest.approx(needs.disk, rel=0.15)


def test_a_real_server_was_measured_at_100000_rows_and_a_million():
    at = {(one["index"], one["rows"]) for one in MEASURED if one["engine"] == "server"}
    assert {(index, rows) for index in ("FLAT", "HNSW") for rows in (10**5, 10**6)} <= at


def test_building_took_as_long_as_is_told():
    for record in MEASURED:
        if record["index"] in ("HNSW", "IVF_SQ8") and record["rows"] >= 10**5 and "build_s" in record:
            needs = capacity(record["rows"], record["dim"], record["index"])
            assert record["build_s"] == pytest.approx(
                3600 * needs.build_core_hours / record["cores"], rel=0.15
            )


def test_the_document_shows_what_was_measured_and_what_is_computed():
    text = (ROOT / "docs" / "benchmarks" / "scale.md").read_text(encoding="utf-8")
    assert scale_table.filled(text, ROOT / "docs" / "benchmarks" / "scale.jsonl") == text
