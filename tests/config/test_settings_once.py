"""A setting is declared in one place, and every door shows it."""

import inspect
import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import t2i_pipelines
from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.config import SearchOptions, Settings
from t2i_pipelines.errors import ConfigError
from tools import settings as written

ROOT = Path(t2i_pipelines.__file__).parents[1]
DECLARED = """
    brightness: int | None = setting(
        None, "Leave out darker images. 1 to 9.", whole_number(9, optional=True)
    )
"""
CALLS = """
import numpy as np
from t2i_pipelines import Searcher, build_insert_pipeline, build_search_pipeline, sync
from t2i_pipelines.collection import open_collection

build_search_pipeline(brightness=3, limit=5, uri="a.db")
build_search_pipeline(brightnes=3)
Searcher(brightness="dark")
Searcher()("a dog", brightness=3)
Searcher()("a dog", limits=3)
sync("photos", batch_size="many")
build_insert_pipeline(frames="last")
open_collection("a.db").search(np.zeros((1, 3), np.float32), brightness=[])
"""
DOORS = """
import inspect
from click.testing import CliRunner
from typer.testing import CliRunner
from t2i_pipelines import Searcher, build_search_pipeline, search_steps
from t2i_pipelines.cli import app
from t2i_pipelines.config import SearchOptions
from t2i_pipelines.serve.schemas import SearchRequest

for door in (Searcher, build_search_pipeline, search_steps):
    print("brightness" in inspect.signature(door).parameters)
print("--brightness" in CliRunner().invoke(app, ["search", "--help"], env={"COLUMNS": "200"}).output)
field = SearchRequest.model_json_schema()["properties"]["brightness"]
print(field["description"] == "Leave out darker images.")
print(SearchRequest(text="a", brightness=3).options["brightness"] == 3)
try:
    build_search_pipeline(brightness=10, model_name="t2i_mini")
except ValueError as err:
    print(err)
"""


def test_what_is_derived_from_the_settings_is_up_to_date():
    assert written.ARGS.read_text(encoding="utf-8") == written.args(), "run make settings"
    assert written.DOCS.read_text(encoding="utf-8") == written.reference(), "run make settings"


def test_help_shows_the_settings_of_both_pipelines_and_of_the_searcher():
    settings = inspect.signature(Settings).parameters
    for door in (build_insert_pipeline, Searcher):
        shown = inspect.signature(door).parameters
        assert {name: shown[name].default for name in settings} == {
            name: one.default for name, one in settings.items()
        }


def test_a_setting_is_checked_where_it_is_declared():
    with pytest.raises(ConfigError, match="diversity must be a number from 0 to 1, got 2"):
        Settings(diversity=2)
    with pytest.raises(
        ConfigError, match=r"unknown setting limt \(did you mean limit\?\); known settings are"
    ):
        Settings.of(limt=2)


@pytest.mark.slow
def test_a_setting_that_is_added_in_one_place_is_seen_at_every_door(tmp_path):
    for name in ("t2i_pipelines", "tools", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    declarations = tmp_path / "t2i_pipelines/config/search.py"
    code = declarations.read_text(encoding="utf-8")
    first = "    limit: int = setting("
    declarations.write_text(code.replace(first, DECLARED.lstrip("\n") + first, 1), encoding="utf-8")
    (tmp_path / "calls.py").write_text(CALLS, encoding="utf-8")

    def run(*command):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [sys.executable, *command],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    assert run("-m", "tools.settings").returncode == 0
    assert "| `brightness` | `None` | Leave out darker images. 1 to 9. |" in (
        tmp_path / "docs/reference/settings.md"
    ).read_text(encoding="utf-8")
    doors = run("-c", DOORS)
    assert doors.stdout.splitlines() == [*["True"] * 6, "brightness must be between 1 and 9, got 10"], doors
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    found = run("-m", "mypy", "--config-file", "pyproject.toml", "calls.py").stdout
    wrong = {
        7: 'Unexpected keyword argument "brightnes"',
        8: 'Argument "brightness" to "Searcher" has incompatible type "str"',
        10: 'No overload variant of "__call__" of "Searcher" matches argument types',
        11: 'Argument "batch_size" to "sync" has incompatible type "str"',
        12: 'Argument "frames" to "build_insert_pipeline" has incompatible type "Literal[\'last\']"',
        13: 'Argument "brightness" to "search" of "Collection" has incompatible type "list[Never]"',
    }
    errors = {int(line.split(":")[1]): line for line in found.splitlines() if ": error:" in line}
    assert set(errors) == set(wrong), found
    for line, message in wrong.items():
        assert message in errors[line]


def test_settings_stay_as_they_were_checked_but_for_those_of_towhee():
    options = SearchOptions(limit=3)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'limit'"):
        options.limit = -3
    settings = Settings()
    settings.limit = -3
    with pytest.raises(ConfigError, match="limit must be between 1 and 16384, got -3"):
        _ = settings.searching


def test_help_explains_each_field():
    for name in inspect.signature(Settings).parameters:
        assert f":ivar {name}: " in Settings.__doc__
