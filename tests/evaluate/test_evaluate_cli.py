"""``t2i eval``."""

import json
from pathlib import Path

import pytest
from conftest import COLOURS, paint
from rich.console import Console
from typer.testing import CliRunner

from t2i_pipelines.cli import app, console
from t2i_pipelines.errors import ConfigError


@pytest.fixture
def table(pictures):
    rows = [f"{name}.png,{name}" for name in COLOURS]
    (pictures / "t.csv").write_text("\n".join(["path,caption", *rows]))
    return str(pictures / "t.csv")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Room for a table of any width."""
    monkeypatch.setattr(console, "out", Console(width=200))


def run(*arguments: object, code: int = 0):
    done = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_one_model_is_a_table_of_its_figures(table):
    done = run(table, "--model-name", "colour")
    assert "colour, on t.csv: 7 texts, 7 images" in done.stdout
    assert "100.0 % (100.0 to 100.0)" in done.stdout
    assert "queries a second; one alone" in done.stdout
    assert done.stderr.splitlines() == ["colour auto auto: 7 images", "colour auto auto: 7 texts"]


def test_json_page_and_plot_are_written(table, tmp_path):
    page, plot = tmp_path / "new" / "page.html", tmp_path / "plots" / "plot.png"
    uri = ["--uri", tmp_path / "m.db"]
    done = run(table, "--model-name", "colour", "--json", "--html", page, "--plot", plot, *uri)
    told = json.loads(done.stdout)
    assert told["directions"]["text->image"]["metrics"]["R@1"]["value"] == 1
    assert told["index"]["metrics"]["recall@10"]["value"] == 1
    assert "<table" in page.read_text()
    assert plot.read_bytes()[1:4] == b"PNG"
    assert f"wrote {page}" in done.stderr
    assert f"wrote {plot}" in done.stderr


def test_several_models_precisions_and_backends_are_compared(table, tmp_path):
    page = tmp_path / "page.html"
    chosen = ["--model-name", "colour", "--precision", "fp32", "--precision", "bf16", "--metric", "R@1"]
    done = run(table, *chosen, "--html", page)
    assert "colour fp32" in done.stdout
    assert "colour bf16" in done.stdout
    assert "R@1 to the first" in done.stdout
    assert "data:image/png" in page.read_text()
    told = json.loads(run(table, *chosen, "--json").stdout)
    assert [one["label"] for one in told["evaluations"]] == ["colour fp32", "colour bf16"]
    assert told["differences"]["colour bf16"]["value"] == 0


def test_a_picture_that_fails_is_named_and_the_exit_code_is_one(table):
    Path(table).with_name("red.png").write_bytes(b"no picture")
    done = run(table, "--model-name", "colour", code=1)
    assert "red.png: not an image in a known format" in done.stdout


def test_class_folders_ask_in_other_directions(tmp_path):
    for name, colours in {"warm": [(250, 0, 0), (240, 40, 0)], "cold": [(0, 0, 250), (0, 40, 240)]}.items():
        for at, colour in enumerate(colours):
            paint(tmp_path / name / f"{at}.png", colour)
    done = run(tmp_path, "--model-name", "colour", "--direction", "image->image", "--json")
    assert json.loads(done.stdout)["directions"]["image->image"]["metrics"]["mAP@10"]["value"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "R@2"], "metric must be one of R@1, .*, got 'R@2'"),
        (
            ["--published", "coco"],
            "t.csv is not what published figures are of: Karpathy's test split of COCO",
        ),
        (["--published", "imagenet"], "dataset must be one of flickr30k, coco, got 'imagenet'"),
        (["--model-name", "b", "--checkpoint-path", "x"], "--checkpoint-path is one model's; give paths as"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_embedded(table, options, message):
    with pytest.raises(ConfigError, match=message):
        run(table, "--model-name", "colour", *options)


def test_published_figures_are_shown_below(table, monkeypatch):
    from t2i_pipelines.evaluate import publications

    known = publications._table()
    small = publications.Protocol("Flickr30k", 7, 7, "dataset_flickr30k.json")
    monkeypatch.setattr(publications, "PROTOCOLS", {"flickr30k": small})
    monkeypatch.setattr(publications, "_table", lambda: {"colour": known["RN50/openai"]})
    done = run(table, "--model-name", "colour", "--published", "flickr30k")
    assert "differs, at a tolerance of 0.3 points" in done.stdout
    assert "57.36" in done.stdout
    told = json.loads(run(table, "--model-name", "colour", "--published", "flickr30k", "--json").stdout)
    assert told["published"][0]["agrees"] is False
