"""With the weights of an older tutorial in a home, and no network, insert and search work at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import paint

MAKE = "tests/encoders/weights_at_home.py"
T2I = [sys.executable, "-c", "from t2i_pipelines.cli import main; main()"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openai", "transformers"])
def test_insert_and_search_find_them_without_a_further_argument(tmp_path, form):
    home = tmp_path / "home"
    environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    root = str(Path.cwd())
    made = subprocess.run([sys.executable, MAKE, str(home), form], env={**environment, "PYTHONPATH": root})
    assert made.returncode == 0
    for name in ("red", "green", "blue"):
        paint(tmp_path / f"photos/{name}.png", name, (40, 60))

    def run(*words: str) -> str:
        done = subprocess.run(
            [*T2I, *words], check=False, capture_output=True, text=True, cwd=tmp_path,
            env={**environment, "PYTHONPATH": root},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("insert", "photos")
    found = json.loads(run("search", "a dog", "--json"))
    assert len(found["hits"] if isinstance(found, dict) else found) == 3
    space = json.loads(run("info", "--json"))
    assert "clip_vit_base_patch32" in json.dumps(space)
