"""Fine-tuning the bundled model, shipped as ONNX, on drawn charts; captions as others store them."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from clips import load_exact
from safetensors.torch import load_file
from tuning import QUICK, coloured
from typer.testing import CliRunner

from t2i_pipelines.cli import app
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.finetune import clip, finetune
from t2i_pipelines.finetune.output import write_model
from t2i_pipelines.finetune.start import open_start
from t2i_pipelines.images import decode, read
from tools.drawings.charts import write_charts

HEADS = {**QUICK, "model_name": "t2i_mini", "train": "heads", "learning_rate": None, "batch_size": 32}


@pytest.fixture(scope="module")
def charts(tmp_path_factory):
    return write_charts(tmp_path_factory.mktemp("charts"), 60, seed=1)


@pytest.fixture(scope="module")
def tuned(charts, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "mini"
    return finetune(charts, output_dir=out, **{**HEADS, "epochs": 12, "validation_share": 0.4, "alpha": 1.0})


def test_the_bundled_model_is_opened_by_any_spelling_of_its_name():
    assert open_start("T2I-mini", None).digest == open_start("t2i_mini", None).digest


@pytest.mark.slow
def test_the_shipped_model_comes_back_from_its_onnx(tmp_path):
    start = open_start("t2i_mini", None)
    write_model(start, start.module.state_dict(), tmp_path)
    again, shipped = load_exact(str(tmp_path)), load_exact("t2i_mini")
    texts = ["a rocket at night", "un gatto e un tulipano", "雪地里的企鹅", ""]
    np.testing.assert_allclose(again.encode_texts(texts), shipped.encode_texts(texts), atol=2e-4)
    names = ["009-rocket.webp", "003-cat-tulip.png", "097-turtle.webp"]
    pictures = [decode(read(f"data/gallery/{name}")) for name in names]
    ours, theirs = again.encode_images(pictures), shipped.encode_images(pictures)
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())
    assert again.space.preprocessing == shipped.space.preprocessing


def test_heads_learn_charts_and_the_result_takes_the_models_place(tuned):
    assert tuned.after["R@5"] >= tuned.before["R@5"] + 0.2
    by_name, by_path = load_encoder("t2i_mini", tuned.path), load_encoder(str(tuned.path))
    shipped = load_encoder("t2i_mini")
    assert by_name.space.weights == by_path.space.weights != shipped.space.weights
    assert by_name.space.dim == shipped.space.dim
    start = open_start("t2i_mini", None).module.state_dict()
    weights = load_file(tuned.path / "open_clip_model.safetensors")
    changed = {name for name, value in weights.items() if not torch.equal(value, start[name])}
    assert changed <= {*clip.HEADS, "logit_scale"}


@pytest.mark.slow
def test_what_was_tuned_can_be_tuned_further(tuned, charts, tmp_path):
    further = finetune(charts, output_dir=tmp_path / "further", **{**HEADS, "model_name": str(tuned.path)})
    assert further.before["R@5"] > tuned.before["R@5"]


@pytest.mark.slow
def test_batch_norms_keep_their_statistics(charts, tmp_path):
    options = {**HEADS, "train": "all", "max_steps": 1, "batch_size": 8}
    result = finetune(charts, output_dir=tmp_path / "tuned", **options)
    start = open_start("t2i_mini", None).module.state_dict()
    weights = load_file(result.path / "open_clip_model.safetensors")
    statistics = [name for name in weights if "running" in name]
    assert statistics
    assert all(torch.equal(weights[name], start[name]) for name in statistics)


def rows_of(table):
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_json_list(rows, path):
    path.write_text(json.dumps([{"caption_id": n, "image_id": n, **row} for n, row in enumerate(rows)]))


def as_json_lines(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), [("list.json", as_json_list), ("lines.jsonl", as_json_lines)])
def test_the_tutorials_caption_json_is_read_as_is(name, write, tmp_path):
    pairs = coloured(tmp_path / "pictures")
    rows = [{"caption": caption, "image_path": path} for path, caption in pairs]
    write(rows, tmp_path / name)
    result = finetune(str(tmp_path / name), output_dir=tmp_path / "tuned", **{**HEADS, "max_steps": 2})
    assert (result.images, result.captions) == (len(pairs) - 3, len({caption for _, caption in pairs}))


@pytest.mark.slow
def test_a_folder_of_classes_is_read_as_captions(tmp_path):
    for path, caption in coloured(tmp_path / "all"):
        kind = tmp_path / "classes" / caption.split()[1]
        kind.mkdir(parents=True, exist_ok=True)
        shutil.move(path, kind)
    result = finetune(tmp_path / "classes", output_dir=tmp_path / "tuned", **{**HEADS, "max_steps": 2})
    assert result.captions == len(list((tmp_path / "classes").iterdir()))


def test_charts_are_the_same_for_the_same_seed_and_told_apart_by_their_captions(charts, tmp_path):
    again = write_charts(tmp_path / "again", 60, seed=1)
    assert again.read_bytes() == charts.read_bytes()
    for name in ("00000.png", "00059.png"):
        assert (again.parent / name).read_bytes() == (charts.parent / name).read_bytes()
    different = write_charts(tmp_path / "different", 100, seed=2, different=True)
    captions = [row["caption"] for row in rows_of(different)]
    assert len(set(captions)) == len(captions) == 100


def test_the_command_trains_and_tells(charts, tmp_path):
    arguments = ["finetune", str(charts), "--model-name", "t2i_mini", "--train", "heads", "--max-steps", "4"]
    done = CliRunner().invoke(app, [*arguments, "--output-dir", str(tmp_path / "tuned"), "--no-export"])
    assert done.exit_code == 0, done.output
    assert "validation" in done.output
    assert "R@5" in done.output
    assert "epoch 4, step 4 of 4: loss" in done.output
    assert (tmp_path / "tuned/finetune.json").is_file()


@pytest.mark.slow
def test_the_command_counts_pictures_that_failed(charts, tmp_path):
    rows = rows_of(charts)
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption"])
        writer.writerows([str(charts.parent / row["path"]), row["caption"]] for row in rows)
        writer.writerow([str(tmp_path / "gone.png"), "gone"])
    arguments = ["finetune", str(table), "--model-name", "t2i_mini", "--train", "heads", "--max-steps", "1"]
    done = CliRunner().invoke(app, [*arguments, "--output-dir", str(tmp_path / "tuned"), "--no-export"])
    assert done.exit_code == 1
    assert "cannot read image" in done.output
    assert "1 failed" in done.output
