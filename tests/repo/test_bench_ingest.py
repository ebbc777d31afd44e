"""The benchmark of inserting: its arithmetic, and the script itself on next to nothing."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from benchmarks import ingest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    return vars(ingest)


def test_a_verdict_says_what_is_wanted_and_by_how_much_it_is_missed(script):
    verdict = script["verdict"]
    assert verdict("a", 0.72, 0.9) == "a: wanted at least 0.9, found 0.72: [red]missed[/] by 20 %"
    assert verdict("a", 3.6, 3.0) == "a: wanted at least 3, found 3.6: [green]met[/] by 20 %"
    assert verdict("a", 300, 600, most=True) == "a: wanted at most 600, found 300: [green]met[/] by 50 %"
    assert verdict("a", 900, 600, most=True) == "a: wanted at most 600, found 900: [red]missed[/] by 50 %"


def test_medians_the_slowest_stage_and_what_the_cores_allow(script):
    found = script["Found"]()
    for speed in (10, 40, 20):
        found.add("decode", "12 MP", "m", {"speed": speed, "core": 0.05})
    found.add("encode", "500 x 375", "m", {"speed": 50, "core": 0.03})
    found.add("insert", "500 x 375", "m", {"speed": 900, "core": 0.02})
    assert found.slowest("12 MP", "m") == (20, "decode")
    assert found.bound("12 MP", "m", cores=2) == pytest.approx(2 / (0.05 + 0.03 + 0.02))


@pytest.mark.slow
def test_every_file_has_bytes_of_its_own_and_a_photo_has_twelve_megapixels(script, tmp_path):
    photos = script["write_files"](tmp_path, "12 MP", 9)
    assert len({Path(path).read_bytes() for path in photos}) == 9
    assert cv2.imread(photos[8]).shape == (3000, 4000, 3)
    assert 3e6 < Path(photos[0]).stat().st_size < 8e6
    pictures = script["write_files"](tmp_path, "500 x 375", 70)
    assert len({Path(path).read_bytes() for path in pictures}) == 70
    assert cv2.imread(pictures[69]).shape == (375, 500, 3)


@pytest.mark.slow
def test_the_script_prints_stages_ratios_and_verdicts(tmp_path):
    few = ["--photos", "2", "--pictures", "40", "--many", "32", "64", "--workdir", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.ingest", "--quick", "--model", "tiny", *few]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    number = r" +[\d.]+"
    for size in ("12 MP", "500 x 375"):
        assert re.search(rf"^{size}, tiny{7 * number} *$", done.stdout, re.MULTILINE), done.stdout
        assert re.search(rf"^{size}, tiny{4 * number} *$", done.stdout, re.MULTILINE)
        assert re.search(
            rf"^{size}, tiny: end to end / \w+ alone: wanted at least 0.9, found", done.stdout, re.M
        )
        assert f"{size}, tiny: end to end / faster tutorial: wanted at least 3, found" in done.stdout
    assert "12 MP, tiny: MB over the model's: wanted at most 600, found" in done.stdout
    assert re.search(r"decoding 12 MP for tiny: [\d.]+/s with reduce='auto', [\d.]+/s with", done.stdout)
    assert re.search(r"tiny, Milvus Lite in a process of its own: 32: \d+ MB, 64: \d+ MB", done.stdout)
