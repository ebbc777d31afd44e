"""Evaluations side by side, and beside what was published."""

import base64
import csv
import json
import re
import sys
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import COLOURS

from t2i_pipelines.encoders import models
from t2i_pipelines.errors import ConfigError, MissingExtraError
from t2i_pipelines.evaluate import (
    Evaluation,
    Pairs,
    compare,
    compare_to_published,
    evaluate_many,
    evaluate_vectors,
    published,
)
from t2i_pipelines.evaluate.publications import check_protocol
from t2i_pipelines.evaluate.report import Speed


def made(
    count: int = 40, *, noise: float = 0.0, ms: float = 1.0, label: str = "made", seed: int = 0
) -> Evaluation:
    """An evaluation of vectors, of which noise makes some miss, that claims to have taken so long."""
    rng = np.random.default_rng(seed)
    pairs = Pairs.of([(f"/{number}.png", f"text {number}") for number in range(count)], name="made")
    pictures = np.eye(count)
    texts = pictures + noise * rng.normal(size=(count, count))
    found = evaluate_vectors(pairs, texts, pictures, resamples=50, label=label)
    return Evaluation(**{**vars(found), "speed": Speed(1000 / ms, ms / 2, ms / 2)})


def test_differences_are_of_single_queries_and_their_intervals_paired():
    good, bad = made(label="good"), made(noise=0.8, label="bad")
    table = compare([good, bad, good], ["good", "bad", "good again"], metric="R@1")
    first, second, third = table.differences
    assert first is None
    assert second.value == pytest.approx(bad["R@1"].value - good["R@1"].value)
    assert second.low < second.value < second.high < 0
    # alone, both have an interval; of the same queries the same rows have no difference at all
    assert (third.value, third.low, third.high) == (0, 0, 0)


def test_paired_intervals_are_narrower_than_those_of_two_figures_apart():
    one, other = made(200, noise=0.55, label="one"), made(200, noise=0.56, label="other")
    difference = compare([one, other], metric="R@1").differences[1]
    apart = one["R@1"].high - one["R@1"].low
    assert difference.high - difference.low < apart / 2


def test_the_pareto_front_is_what_nothing_beats():
    rows = [
        made(label="fast", noise=0.9, ms=1),
        made(label="slow and good", ms=10),
        made(label="as good and slower", ms=20),
        made(label="worse and slower", noise=0.9, ms=5),
        made(label="twin", noise=0.9, ms=1),
    ]
    table = compare(rows, metric="R@1")
    assert table.pareto == ["fast", "twin", "slow and good"]
    assert table.to_pandas()["pareto"].tolist() == [True, True, False, False, True]
    assert str(table).count("Pareto\n") == 3
    # of ranks the lower is the better
    assert rows[0]["median rank"].value > rows[1]["median rank"].value
    assert compare(rows, metric="median rank").pareto == ["fast", "twin", "slow and good"]


def test_the_plot_shows_the_numbers_of_the_table():
    table = compare(
        [made(label="fast", noise=0.9, ms=1), made(label="slow", ms=10), made(label="bad", noise=0.9, ms=20)]
    )
    frame = table.to_pandas()
    figure = table.plot()
    (axes,) = figure.axes
    points = {bars.get_label().split("  ")[1]: bars.lines[0].get_xydata()[0] for bars in axes.containers}
    for label, (ms, percent) in points.items():
        assert ms == frame.loc[label, "ms_a_query"]
        assert percent == pytest.approx(100 * frame.loc[label, "R@5"])
    assert set(points) == {"fast", "slow", "bad"}
    ends = axes.containers[0].lines[2][0].get_segments()[0]
    low, high = (100 * frame.loc["fast", f"R@5 {end}"] for end in ("low", "high"))
    assert ends[:, 1] == pytest.approx([low, high])
    (front,) = [line for line in axes.lines if line.get_label() == "Pareto front"]
    assert front.get_xydata()[:, 0].tolist() == [1, 10]
    assert (axes.get_ylabel(), axes.get_title()) == ("R@5, %", "made: 40 texts, 40 images")
    assert axes.get_xscale() == "log"
    assert compare([made(ms=9), made(ms=10, label="b")]).plot().axes[0].get_xscale() == "linear"
    assert plt.get_fignums() == []  # a notebook would show it twice


def test_the_plot_may_be_of_another_figure_and_in_ones_own_axes():
    table = compare([made(noise=0.9), made(label="b", ms=3)])
    own, axes = plt.subplots()
    assert table.plot("median rank", axes) is own
    plt.close(own)
    assert axes.get_ylabel() == "median rank"
    front = next(line for line in axes.lines if line.get_label() == "Pareto front")
    assert front.get_ydata()[0] == table.to_pandas()["median rank"].iloc[0]


def test_what_was_not_timed_cannot_be_plotted():
    pairs = Pairs.of([("/a.png", "a"), ("/b.png", "b")])
    table = compare([evaluate_vectors(pairs, np.eye(2), np.eye(2), resamples=10)])
    with pytest.raises(ConfigError, match="nothing was timed, so there is nothing to plot"):
        table.plot()
    assert table.pareto == []
    assert table.as_dict()["evaluations"][0]["speed"] is None


def test_without_matplotlib_the_page_lacks_the_plot_and_plot_names_the_extra(monkeypatch, tmp_path):
    table = compare([made(), made(label="b")])
    with_plot = table.save_html(tmp_path / "with.html").read_text()
    assert base64.b64decode(with_plot.split("data:image/png;base64,")[1].split('"')[0])[1:4] == b"PNG"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(
        MissingExtraError, match=r"matplotlib is not installed; run: pip install 't2i-.*\[eval\]'"
    ):
        table.plot()
    without = table.save_html(tmp_path / "without.html").read_text()
    assert "image/png" not in without
    assert without.count("<table") == 3


def test_the_table_in_text_and_html():
    table = compare([made(label="first"), made(noise=0.9, label="<i>second")], metric="R@1")
    lines = str(table).splitlines()
    assert lines[0] == "made: 40 texts, 40 images"
    assert re.split(" {2,}", lines[1].strip()) == [
        *("R@1", "R@5", "R@10", "MRR", "nDCG@10", "mAP@10"),
        *("R@1 to the first", "ms", "queries/s"),
    ]
    assert lines[2].split()[:2] == ["first", "100.0"]
    second = table.differences[1]
    assert f"{100 * second.value:+.1f} ({100 * second.low:+.1f} to {100 * second.high:+.1f})" in lines[3]
    assert "&lt;i&gt;second" in table._repr_html_()
    told = json.loads(json.dumps(table.as_dict(), allow_nan=False))
    assert told["differences"]["<i>second"]["value"] == second.value


def test_precisions_and_indexes_are_evaluated_and_compared_at_once(pictures, tmp_path):
    pairs = [(pictures / f"{name}.png", name) for name in COLOURS]
    table = evaluate_many(
        pairs,
        [{"index_type": "FLAT"}, {"index_type": "IVF_FLAT", "templates": "blue or {}"}],
        model_name="colour",
        uri=tmp_path / "milvus.db",
        resamples=10,
    )
    assert [(row.label, row.search) for row in table.rows] == [
        ("FLAT", "exact"),
        ("FLAT FLAT", "FLAT"),
        ("IVF_FLAT blue or {}", "exact"),
        ("IVF_FLAT blue or {} IVF_FLAT", "IVF_FLAT"),
    ]
    assert table.to_pandas()["index_recall"].tolist()[1::2] == [1, 1]
    assert table.differences[1].value == 0
    exact, index = table.rows[:2]
    assert index.ms_a_query == table.evaluations[0].speed.encode_ms + table.evaluations[0].index.search_ms
    assert exact.ms_a_query == table.evaluations[0].speed.ms_a_query
    named = evaluate_many(pairs, [{}], ["mine"], model_name="colour", resamples=10)
    assert [row.label for row in named.rows] == ["mine"]


def test_columns_that_say_nothing_are_left_out(pictures, tmp_path):
    pairs = [(pictures / f"{name}.png", name) for name in COLOURS]
    exact = evaluate_many(pairs, [{}], model_name="colour", resamples=10)
    indexed = evaluate_many(pairs, [{}], model_name="colour", resamples=10, uri=tmp_path / "milvus.db")
    assert "index recall" not in str(exact)
    assert "index recall" in str(indexed)
    assert "queries/s" in str(exact)


def test_what_cannot_be_compared_is_refused(pictures):
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([])
    with pytest.raises(
        ConfigError, match="'b' was evaluated on made: 41 texts, .* only figures of the same pairs"
    ):
        compare([made(), made(41, label="b")])
    with pytest.raises(
        ConfigError, match=r"labels must be 2 different names, got \['made', 'made'\]; give labels="
    ):
        compare([made(), made()])
    with pytest.raises(ConfigError, match="labels must be 1 different names"):
        compare([made()], ["a", "b"])
    with pytest.raises(ConfigError, match="metric must be one of R@1, .* got 'R@2'"):
        compare([made()], metric="R@2")
    pairs = [(pictures / "red.png", "red")]
    with pytest.raises(ConfigError, match="metric of what an index finds must be one of .* got 'MRR'"):
        evaluate_many(pairs, [{"uri": "m.db"}], metric="MRR", model_name="colour")


@pytest.fixture(scope="module")
def split() -> Pairs:
    """As many images and captions as Karpathy's test split of Flickr30k has."""
    rows = [(f"/{number}.jpg", [f"{number} {at}" for at in range(5)]) for number in range(1000)]
    return Pairs.of(rows, merge=False, name="dataset_flickr30k.json")


def vectors(split: Pairs, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Of so many captions the own image comes first, of the others the last."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(1000, 64))
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    own = pictures[[right[0] for right in split.shown]]
    sign = np.where(np.arange(5000) < 5000 * right, 1, -1)[:, None]
    return own * sign, pictures


@pytest.fixture(scope="module")
def measured(split) -> Evaluation:
    return evaluate_vectors(split, *vectors(split, 0.5878), label="ViT-B-32", resamples=10)


def test_published_figures_stand_beside_the_measured_ones(measured):
    found = compare_to_published("clip_vit_base_patch32", "flickr30k", measured)
    assert (found.published.model, found.published.source) == ("ViT-B-32/openai", "open_clip")
    frame = found.to_pandas().set_index(["direction", "metric"])
    row = frame.loc["text->image", "R@1"]
    assert row.published == 58.78
    assert row.measured == pytest.approx(58.78)
    assert abs(row.difference) < 1e-9
    assert row.agrees
    # nothing comes second: either first or last
    assert frame.loc["text->image", "R@5"].difference == pytest.approx(58.78 - 83.56)
    assert not frame.loc["text->image", "R@5"].agrees
    assert not found.agrees
    assert compare_to_published("clip_vit_base_patch32", "flickr30k", measured, tolerance=50).agrees
    text = str(found)
    assert "text->image R@1       58.78     58.78   +0.00\n" in text
    assert "-24.78  differs" in text
    assert "differs, at a tolerance of 0.3 points" in text
    assert "test split, every caption a query" in found._repr_html_()
    assert json.loads(json.dumps(found.as_dict()))["figures"][0]["published"] == 58.78


def test_pairs_that_are_not_the_protocols_are_refused_in_a_sentence(split, measured):
    check_protocol(split, "flickr30k")
    said = "is not what published figures are of: Karpathy's test split of {} images and {} captions, each"
    few = split.take(range(999))
    with pytest.raises(
        ConfigError, match=said.format("Flickr30k has 1,000", "5,000") + ".*got 999 .* 4,995 queries"
    ):
        check_protocol(few, "flickr30k")
    with pytest.raises(
        ConfigError, match=said.format("COCO has 5,000", "25,010") + ".*got 1,000 images and 5,000"
    ):
        compare_to_published("RN50", "coco", measured)
    whole = Pairs.of(split.rows(), merge=False, name="all")
    for change in ({"split": "val", "dataset": "flickr30k"}, {"dataset": "flickr8k"}):
        other = Pairs(**{**vars_of(whole), **change})
        with pytest.raises(
            ConfigError, match=f" of {change['dataset']} .*read dataset_flickr30k.json with split="
        ):
            check_protocol(other, "flickr30k")
    several = Pairs(**{**vars_of(whole), "shown": ((0, 1), *whole.shown[1:])})
    with pytest.raises(ConfigError, match="of which some have several right images"):
        check_protocol(several, "flickr30k")


def vars_of(pairs: Pairs) -> dict:
    return {name: getattr(pairs, name) for name in Pairs.__dataclass_fields__}


def test_an_evaluation_that_lacks_pictures_or_a_direction_is_refused(split, measured):
    part = evaluate_vectors(split, *vectors(split, 1), directions=["text->image"], resamples=10)
    with pytest.raises(
        ConfigError, match="published figures need text->image and image->text; image->text was not"
    ):
        compare_to_published("RN50", "flickr30k", part)
    pairs = Pairs.of([("/a.png", ""), *split.rows()], merge=False)
    failed = Evaluation(**{**vars(measured), "pairs": pairs, "failed": pairs.failed})
    with pytest.raises(
        ConfigError, match="1 of pairs could not be read or embedded, so the figures are not the prot"
    ):
        compare_to_published("RN50", "flickr30k", failed)


def test_files_that_are_not_there_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match="there is no folder 'coco' here; get the images and .*dataset_coco.json"
    ):
        compare_to_published("RN50", "coco")


def test_the_protocol_is_checked_before_anything_is_embedded(pictures):
    with pytest.raises(ConfigError, match="pairs is not what published figures are of"):
        compare_to_published("ViT-B/32", "flickr30k", [(pictures / "red.png", "red")])


def test_what_is_not_published_is_an_error_that_lists_what_is():
    with pytest.raises(ConfigError, match="dataset must be one of flickr30k, coco, got 'flickr8k'"):
        published("RN50", "flickr8k")
    with pytest.raises(
        ConfigError, match="nothing is published of 't2i_mini' here; there is of RN50/openai, ViT-B-32"
    ):
        published("t2i_mini", "coco")


def test_the_published_table_agrees_with_that_of_the_models():
    with (files("t2i_pipelines.evaluate") / "published.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    shared = 0
    for info in models():
        for dataset in ("flickr30k", "coco"):
            value = getattr(info, dataset)
            if value is not None and {info.name, *info.aliases} & rows.keys():
                assert published(info.name, dataset).percent["text->image", "R@1"] == value, info.name
                shared += 1
    assert shared >= 28
    for row in rows.values():
        for dataset in ("flickr30k", "coco"):
            for way in ("text->image", "image->text"):
                cells = [float(cell) for k in (1, 5, 10) if (cell := row[f"{dataset} {way} R@{k}"])]
                assert cells == sorted(cells)
                assert all(0 < cell < 100 for cell in cells)


def test_an_evaluated_split_is_compared_from_its_file(monkeypatch, pictures, tmp_path):
    # the split's counts, in small
    from t2i_pipelines.evaluate import publications

    small = publications.Protocol("Flickr30k", 2, 4, "dataset_flickr30k.json")
    monkeypatch.setattr(publications, "PROTOCOLS", {"flickr30k": small})
    known = publications._table()
    monkeypatch.setattr(publications, "_table", lambda: {"colour": known["RN50/openai"]})
    told = {
        "dataset": "flickr30k",
        "images": [
            {
                "filename": f"{name}.png",
                "split": "test",
                "sentences": [{"raw": name}, {"raw": f"a {name} ball"}],
            }
            for name in ("red", "blue")
        ],
    }
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(told))
    settings = {"images": pictures, "resamples": 10}
    found = compare_to_published("colour", "flickr30k", tmp_path, **settings, label="it")
    assert [line.measured.value for line in found.lines] == [1] * 6
    assert found.lines[0].difference == pytest.approx(100 - 57.36)
