"""Evaluations from files to figures, on a model whose vectors can be computed in one's head."""

import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import COLOURS, paint

from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import (
    CollectionNotFoundError,
    ConfigError,
    ModelMismatchError,
    SourceError,
    VectorError,
)
from t2i_pipelines.evaluate import Pairs, evaluate, evaluate_vectors, read_pairs
from t2i_pipelines.evaluate.index import _recalls
from t2i_pipelines.images import decode, read
from t2i_pipelines.types import Hit
from tools.t2i_mini.quality import recall

FEW = {"model_name": "colour", "resamples": 10}


@pytest.fixture
def pairs(pictures):
    """Each colour's image with its name."""
    return Pairs.of([(pictures / f"{name}.png", name) for name in COLOURS], name="colours")


def test_a_model_that_knows_every_colour_finds_all(pairs):
    found = evaluate(pairs, **FEW)
    for way in ("text->image", "image->text"):
        assert found[way, "R@1"].value == found[way, "MRR"].value == 1
    assert found["R@5"] is found["text->image", "R@5"]
    assert (found.label, found.model_name, found.failed, found.index) == ("colour", "colour", (), None)
    assert found.space == load_encoder("colour").space
    assert found.misses == []


def test_wrong_captions_are_found_out(pictures):
    names = ["red", "green", "blue"]
    # green's caption says red, and is as far from green as from blue
    rows = [
        (pictures / f"{name}.png", text) for name, text in zip(names, ["red", "red", "blue"], strict=True)
    ]
    found = evaluate(Pairs.of(rows, merge=False), **FEW)
    assert found["R@1"].value == pytest.approx(2 / 3)
    assert found.main.ranks.tolist() == [1, 3, 1]
    assert found["MRR"].value == pytest.approx((1 + 1 / 3 + 1) / 3)


def test_what_fails_is_counted_named_and_not_found(pairs, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paint(tmp_path / "black.png", (0, 0, 0))
    rows = [
        *pairs.rows(),
        (tmp_path / "broken.png", "red red blue"),
        (tmp_path / "black.png", "blue blue green"),
        ("/x.png", ""),
    ]
    found = evaluate(rows, **FEW)
    assert [str(one.reason) for one in found.failed] == [
        "/x.png: it has no caption",
        f"cannot read image {tmp_path}/broken.png: not an image in a known format",
        f"cannot embed image {tmp_path}/black.png: a vector of length 0.0 has no direction",
    ]
    assert found.failed[1].path == str(tmp_path / "broken.png")
    assert found["R@1"].value == pytest.approx(7 / 9)
    assert found["image->text", "R@1"].value == pytest.approx(7 / 9)
    assert "3 failed; what could not be embedded counts as not found" in str(found)
    assert found.worst()[0][-1].fields == {"rank": "failed", "right": "yes"}


def test_a_text_that_cannot_be_asked_fails_alone(pairs):
    rows = [*pairs.rows(), (pairs.images[0], "bad \x00 text")]
    found = evaluate(rows, **FEW)
    (failed,) = found.failed
    assert failed.path == pairs.images[0]
    assert re.match(
        r"cannot ask 'bad \\x00 text': the query has the control character U\+0000", failed.reason
    )
    assert found["R@1"].value == pytest.approx(7 / 8)


def test_nothing_that_can_be_embedded_is_an_error(tmp_path):
    with pytest.raises(
        SourceError, match="none of 1 images could be embedded; the first: cannot read image /x"
    ):
        evaluate([("/x.png", "red")], **FEW)


def test_pictures_of_a_class_find_each_other(tmp_path):
    for name, colours in {"warm": [(250, 0, 0), (240, 40, 0)], "cold": [(0, 0, 250), (0, 40, 240)]}.items():
        for at, colour in enumerate(colours):
            paint(tmp_path / name / f"{at}.png", colour)
    found = evaluate(read_pairs(tmp_path, template="{}"), directions=["image->image"], **FEW)
    assert found["mAP@10"].value == found["R@1"].value == 1
    assert list(found.directions) == ["image->image"]
    with pytest.raises(ConfigError, match="misses are those of text->image, and only image->image was asked"):
        found.worst()


def test_the_worst_misses_come_first_and_end_with_the_right_picture(pictures):
    texts = {"red": "red", "green": "red and yellow", "blue": "yellow", "white": "white"}
    found = evaluate([(pictures / f"{name}.png", text) for name, text in texts.items()], **FEW)
    worst = found.worst(shown=2)
    assert [hits.query for hits in worst] == ["yellow", "red and yellow"]
    last = worst[0][-1]
    assert (last.path, last.fields) == (str(pictures / "blue.png"), {"rank": 4, "right": "yes"})
    assert last.score == 0
    # (2, 1, 0) and (1, 1, 1)
    assert worst[1][0].fields == {"rank": 1}
    assert worst[1][0].score == pytest.approx(2 / np.sqrt(5), abs=1e-6)
    assert len(found.worst(count=1)) == 1
    assert [hit.fields.get("right") for hit in found.worst(shown=4)[0]] == [None, None, None, "yes"]
    assert "blue.png" in found.misses._repr_html_()
    with pytest.raises(ConfigError, match="shown must be between 1 and 10, got 11"):
        found.worst(shown=11)


def test_texts_are_put_into_templates(pairs):
    asked = load_encoder("colour")
    before = asked.texts
    found = evaluate(pairs, **FEW, templates=["{} and red", "{}"])
    assert found["R@1"].value < 1
    # two prompts each, with the first once more to load the model, and each alone to take its time
    assert asked.texts - before == 2 * (1 + 7 + 7)


def test_progress_is_told(pairs):
    told = []
    evaluate(pairs, **FEW, batch_size=4, on_progress=lambda *one: told.append(one))
    assert told == [("images", 4, 7), ("images", 7, 7), ("texts", 7, 7)]


def test_it_is_timed(pairs):
    speed = evaluate(pairs, **FEW).speed
    assert speed.queries_a_second > 0
    assert speed.ms_a_query == speed.encode_ms + speed.search_ms > 0


def test_through_milvus_the_index_loses_nothing_where_it_compares_all(pairs, tmp_path):
    uri = tmp_path / "milvus.db"
    found = evaluate(pairs, **FEW, uri=uri)
    index = found.index
    assert (index.index, index.rows, index.missing, index.recall.value) == ("FLAT", 7, (), 1)
    for name, metric in index.metrics.items():
        assert metric.value == found[name].value, name
    assert "MRR" not in index.metrics
    assert index.queries_a_second > 0
    assert index.search_ms > 0
    # the collection that was made for it is gone
    assert open_collection(uri, collection_name=index.collection_name).space() is None


def test_another_index_may_be_asked_for(pairs, tmp_path):
    found = evaluate(pairs, **FEW, uri=tmp_path / "milvus.db", index_type="IVF_FLAT")
    assert (found.index.index, found.index.recall.value) == ("IVF_FLAT", 1)


def test_a_named_collection_is_searched_as_it_is(pairs, pictures, tmp_path):
    settings = {"uri": tmp_path / "milvus.db", "model_name": "colour", "collection_name": "mine"}
    for at in range(3):
        paint(tmp_path / "more" / f"{at}.png", (250 - at, 0, 0))
    stored = [*(path for path in pairs.images if not path.endswith("red.png")), tmp_path / "more"]
    build_insert_pipeline(**settings)(stored[:-1])
    build_insert_pipeline(**settings)(stored[-1])
    found = evaluate(pairs, **FEW, uri=settings["uri"], collection_name="mine")
    index = found.index
    assert (index.collection_name, index.rows) == ("mine", 9)
    assert index.missing == (str(pictures / "red.png"),)
    assert found["R@5"].value == 1
    # others that are as red are not the image that was meant
    assert index["R@10"].value == pytest.approx(6 / 7)
    assert index.recall.value == 1  # what is stored, is found
    assert "1 images are not in the collection" in str(found)
    assert open_collection(settings["uri"], collection_name="mine").count() == 9


def test_a_collection_that_is_not_there_or_of_another_model_is_an_error(pairs, tmp_path):
    uri = tmp_path / "milvus.db"
    with pytest.raises(CollectionNotFoundError, match="there is no database .*milvus.db; insert images"):
        evaluate(pairs, **FEW, uri=uri, collection_name="mine")
    paint(tmp_path / "one" / "a.png", "red")
    build_insert_pipeline(uri=uri, model_name="t2i_mini", collection_name="other")(tmp_path / "one")
    with pytest.raises(
        CollectionNotFoundError, match="no collection 'mine' at .*milvus.db; its collections: other. Insert"
    ):
        evaluate(pairs, **FEW, uri=uri, collection_name="mine")
    build_insert_pipeline(uri=uri, model_name="t2i_mini", collection_name="mine")(tmp_path / "one")
    with pytest.raises(ModelMismatchError):
        evaluate(pairs, **FEW, uri=uri, collection_name="mine")


def test_recall_of_an_index_counts_what_is_as_good_as_the_exact_best():
    angles = np.linspace(0, 1.5, 20)
    stored = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    query = np.float32([[1, 0]])

    def hits(numbers):
        return [[Hit(str(n), float(stored[n] @ query[0]), f"/{n}.png") for n in numbers]]

    assert _recalls(query, hits(range(10)), stored).tolist() == [1]
    assert _recalls(query, hits([*range(8), 12, 13]), stored).tolist() == [0.8]
    assert _recalls(query, hits(range(4)), stored).tolist() == [0.4]
    twins = stored.copy()
    twins[10:] = twins[9]  # any of eleven equals will do for the tenth place
    assert _recalls(query, hits([*range(9)]), twins).tolist() == [0.9]
    as_good = [[*hits(range(9))[0], Hit("15", float(twins[15] @ query[0]), "/15.png")]]
    assert _recalls(query, as_good, twins).tolist() == [1]
    assert _recalls(query, hits([0, 1]), stored[:2]).tolist() == [1]


def test_vectors_of_ones_own_are_evaluated_alike(pairs):
    encoder = load_encoder("colour")
    texts = encoder.encode_texts(list(pairs.texts)) * 3
    seen = np.float32([COLOURS[text] for text in pairs.texts])
    found = evaluate_vectors(pairs, texts, seen, label="mine", resamples=10)
    asked = evaluate(pairs, **FEW)
    assert {n: m.value for n, m in found.main.metrics.items()} == {
        n: m.value for n, m in asked.main.metrics.items()
    }
    assert (found.label, found.speed, found.space, found.running) == ("mine", None, None, "")
    with pytest.raises(VectorError, match="the pairs have 7 texts and 7 images; got 6 and 7 vectors"):
        evaluate_vectors(pairs, texts[:6], seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"directions": ["text->text"]},
            r"directions must be some of text->image, image->text, image->image, got",
        ),
        ({"directions": "text->image"}, "directions must be some of .* got 'text->image'"),
        (
            {"directions": ["image->image"]},
            "image->image needs classes of two and more images, and colours has none",
        ),
        ({"collection_name": "mine"}, "collection_name='mine' needs a uri, such as uri='milvus.db'"),
        (
            {"uri": "m.db", "directions": ["image->text"]},
            "through Milvus goes text->image, which is not among",
        ),
        ({"batch_size": 0}, "batch_size must be between 1 and 4096, got 0"),
        ({"templates": "no braces"}, "templates must be 'photo' or texts of your own"),
        ({"precision": "fp64"}, "precision must be one of 'auto', 'fp32', 'bf16', 'fp16', 'int8', got"),
        ({"model_name": "colur"}, "unknown model 'colur'"),
        ({"confidence": 95}, "confidence must be between 0 and 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_embedded(pairs, setting, message):
    before = load_encoder("colour").images
    with pytest.raises(ConfigError, match=message):
        evaluate(pairs, **{**FEW, **setting})
    assert load_encoder("colour").images == before


def test_a_figure_or_direction_that_there_is_not_is_an_error_that_lists_them(pairs):
    found = evaluate(pairs, **FEW, directions=["text->image"])
    with pytest.raises(ConfigError, match="no figure is called 'R@3'; there are R@1, R@5, R@10, P@10, MRR"):
        found["R@3"]
    with pytest.raises(ConfigError, match="nothing was asked 'image->text'; there are text->image"):
        found["image->text", "R@1"]


def test_it_is_a_table_in_every_form(pairs, tmp_path):
    found = evaluate(pairs, **FEW, uri=tmp_path / "milvus.db", label="<b>colours</b>")
    text = str(found)
    assert text.splitlines()[0] == "<b>colours</b>, on colours: 7 texts, 7 images"
    assert re.search(r"^R@1 +100\.0 % \(100\.0 to 100\.0\) +100\.0 %", text, re.MULTILINE)
    assert re.search(r"^median rank +1 \(1 to 1\) +1 \(1 to 1\)$", text, re.MULTILINE)
    assert "FLAT over 7 rows in Milvus: recall@10 of the exact best 100.0 %" in text
    frame = found.to_pandas()
    assert list(frame.columns) == ["direction", "search", "metric", "value", "low", "high", "queries"]
    row = frame[(frame.direction == "image->text") & (frame.metric == "nDCG@10")].iloc[0]
    assert (row.search, row.value, row.queries) == ("exact", found["image->text", "nDCG@10"].value, 7)
    assert set(frame[frame.metric == "recall@10"].search) == {"FLAT"}
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["directions"]["text->image"]["metrics"]["R@1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert (told["index"]["index"], told["failed"]) == ("FLAT", [])
    html = found._repr_html_()
    assert "&lt;b&gt;colours" in html
    assert "<b>colours" not in html
    assert html.count("<tr>") == 9


def test_a_single_query_is_of_jsons_types_all_the_same(pictures):
    found = evaluate([(pictures / "red.png", "red")], **FEW)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["directions"]["text->image"]["metrics"]["R@1"] == {"value": 1.0, "low": None, "high": None}


def test_the_page_shows_the_misses_with_their_pictures(pictures, tmp_path):
    found = evaluate([(pictures / "red.png", "blue"), (pictures / "blue.png", "yellow")], **FEW)
    page = found.save_html(tmp_path / "deep" / "page.html", title="Colours").read_text()
    assert "<h1>Colours</h1>" in page
    assert "The worst misses" in page
    assert page.count('src="data:image/') == 4
    without = evaluate([(pictures / "red.png", "red"), (pictures / "blue.png", "blue")], **FEW)
    assert "The worst misses" not in without.save_html(tmp_path / "page.html").read_text()


def test_texts_that_the_model_cuts_are_counted(pictures):
    rows = [(pictures / "red.png", "a red ball " * 40), (pictures / "blue.png", "blue")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a text of .* tokens is cut", UserWarning)
        found = evaluate(rows, model_name="t2i_mini", resamples=10)
    assert found.cut == 1
    assert "1 texts are longer than the model reads and were cut" in str(found)
    assert evaluate(rows, **FEW).cut is None


@pytest.mark.slow
def test_english_captions_of_the_gallery_find_what_quality_counts():
    pairs = read_pairs("data/gallery.csv", captions="caption_en")
    asked = evaluate(pairs, model_name="t2i_mini", precision="fp32", resamples=10)
    encoder = load_encoder("t2i_mini", precision="fp32")
    seen = encoder.encode_images([decode(read(path), path) for path in pairs.images])
    told = encoder.encode_texts(pairs.texts)
    scores = told / np.linalg.norm(told, axis=1)[:, None] @ (seen / np.linalg.norm(seen, axis=1)[:, None]).T
    for at in (1, 5, 10):
        assert asked[f"R@{at}"].value == pytest.approx(recall(scores, at))
    assert asked["R@1"].value >= 0.75


def test_importing_it_loads_nothing_heavy():
    heavy = ("torch", "scipy", "ir_measures", "matplotlib", "pandas", "pyarrow", "onnxruntime", "pymilvus")
    code = f"import sys, t2i_pipelines.evaluate; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
