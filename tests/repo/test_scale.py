"""The benchmark of how cost grows: its vectors, its truth, and a small run of it."""

import json

import numpy as np
import pytest


def test_vectors_lie_as_the_recipe_says_and_are_the_same_in_any_pieces():
    from benchmarks.clip_like import ClipLike

    made = ClipLike()
    ((_, whole),) = made.chunks(0, 10_000)
    pieces = [*made.chunks(0, 4_000), *made.chunks(4_000, 12_000)]
    assert [number for number, _ in pieces] == [0, 4_000, 10_000]
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in pieces])[:10_000], whole)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    pictures, words = made.pictures(200) @ whole.T, made.words(200) @ whole.T
    assert pictures.mean() == pytest.approx(0.25, abs=0.01)
    assert pictures.max(axis=1).mean() == pytest.approx(0.72, abs=0.03)
    assert abs(words.mean()) < 0.02
    assert not np.isin(made.pictures(50)[:, 0], whole[:, 0]).any()


def test_the_truth_is_that_of_a_full_sort():
    from benchmarks.clip_like import Truth

    random = np.random.default_rng(5)
    queries, rows = (random.normal(size=(count, 8)).astype(np.float32) for count in (20, 900))
    truth = Truth(queries)
    for first in range(0, 900, 300):
        truth.add(first, rows[first : first + 300])
    best = np.argsort(-(queries @ rows.T), axis=1)[:, :10].tolist()
    assert truth.recall(best) == 1.0
    assert truth.recall([[*ten[:7], -1, -2, -3] for ten in best]) == pytest.approx(0.7)


@pytest.mark.slow
def test_a_small_run_writes_its_lines_and_prints_its_tables(tmp_path, capsys, monkeypatch):
    from benchmarks import scale

    monkeypatch.setattr(scale, "SEARCHES", 20)
    out = tmp_path / "lines.jsonl"
    scale.main(["lite", "--rows", "300", "900", "--out", str(out)])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["rows"], one["index"], one["recall_words"]) for one in lines] == [
        (300, "FLAT", 1.0),
        (900, "FLAT", 1.0),
    ]
    for one in lines:
        assert one["p50_ms"] <= one["p99_ms"]
        assert min(one[name] for name in ("insert_per_s", "p50_ms", "memory", "disk")) > 0
    assert lines[1]["disk"] > 900 * 2048
    capsys.readouterr()
    scale.main(["--table", str(out)])
    printed = capsys.readouterr().out
    assert f"| FLAT | 900 | {lines[1]['insert_per_s']:,.0f} |" in printed
    assert "| FLAT | 300 to 900 |" in printed


def test_growth_is_told_for_ten_times_the_rows(tmp_path):
    from benchmarks.scale_table import tables

    about = {
        "engine": "lite",
        "version": "3",
        "dim": 512,
        "cpu": "c",
        "cores": 2,
        "memory_gb": 1,
        "date": "d",
    }
    lines = [
        {**about, "index": "FLAT", "rows": 10_000, "p50_ms": 1.0, "disk": 50e6},
        {**about, "index": "FLAT", "rows": 1_000_000, "p50_ms": 9.0, "disk": 5e9},
    ]
    (tmp_path / "x").write_text("\n".join(map(json.dumps, lines)))
    assert tables(tmp_path / "x").splitlines()[-1] == "| FLAT | 10,000 to 1,000,000 | 3.0 | 10.0 |"
