"""How many files of the package one image and one query pass through."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_one_image_and_one_query_pass_through_few_files():
    command = [sys.executable, "-m", "tools.walk"]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    counts = dict(re.findall(r"^(one \w+ \w+): (\d+) files$", done.stdout, re.MULTILINE))
    assert int(counts["one image in"]) <= 38
    assert int(counts["one query out"]) <= 32
    assert "operators/image_decode.py" in done.stdout
    assert "search/relevance.py" in done.stdout
