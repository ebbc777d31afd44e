"""The wheel alone, in an empty environment outside the checkout, inserts a folder and finds an image."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import paint

ROOT = Path(__file__).parents[2]

SCRIPT = """
import socket, sys
connect = socket.socket.connect
def local_only(self, address):
    assert not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost"), address
    return connect(self, address)
socket.socket.connect = local_only
import t2i_pipelines
assert "site-packages" in t2i_pipelines.__file__, t2i_pipelines.__file__
from t2i_pipelines import build_insert_pipeline, build_search_pipeline
rows = build_insert_pipeline(uri="x.db", model_name="t2i_mini")("gallery").to_list()
assert {status for _, _, status, _ in rows} == {"inserted"}, rows
text, hits = build_search_pipeline(uri="x.db", model_name="t2i_mini")(sys.argv[1]).get()
assert "torch" not in sys.modules
print(hits[0].path)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, ROOT]
    subprocess.run(command, check=True)
    (built,) = place.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "t2i_pipelines/py.typed",
        "t2i_pipelines/search/templates/page.html",
        "t2i_pipelines/search/templates/style.css",
        "t2i_pipelines/search/background.txt",
        "t2i_pipelines/ui/page.css",
        "t2i_pipelines/operators/clip.py",
        "t2i_pipelines/encoders/t2i_mini/visual/model.onnx",
        "t2i_pipelines/encoders/t2i_mini/textual/tokenizer.json",
    ):
        assert needed in names
    top = {"t2i_command.py", "t2i_pipelines", "t2i_pipelines-0.1.0.dist-info"}
    assert {name.split("/")[0] for name in names} == top


@pytest.mark.slow
def test_the_wheel_alone_inserts_a_folder_and_finds_a_picture_offline(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, cwd=tmp_path)
    for name in ("red", "green", "blue"):
        paint(tmp_path / "gallery" / f"{name}.png", name, (200, 300))
    done = subprocess.run(
        [python, "-c", SCRIPT, "a plain red background"],
        check=False, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent.name == "gallery"
    told = subprocess.run([python.with_name("t2i"), "--version"], check=True, capture_output=True, text=True)
    assert told.stdout == "t2i-pipelines 0.1.0\n"
