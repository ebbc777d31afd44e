"""Which images are right for which texts, however that is told."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import paint

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.evaluate import Pairs, read_pairs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        paint(tmp_path / f"{name}.png", "red")
    return tmp_path


def test_a_list_of_pairs_is_numbered_in_its_order(here):
    pairs = Pairs.of([("b.png", "one"), ("a.png", ["two", " three "])])
    assert pairs.images == (str(here / "b.png"), str(here / "a.png"))
    assert pairs.texts == ("one", "two", "three")
    assert pairs.shown == ((0,), (1,), (1,))
    assert pairs.captions() == [["one"], ["two", "three"]]
    assert pairs.rows() == [
        (str(here / "b.png"), "one"),
        *((str(here / "a.png"), t) for t in ("two", "three")),
    ]
    assert (len(pairs), pairs.classes, pairs.failed) == (3, None, ())
    assert str(pairs) == "pairs: 3 texts, 2 images"
    assert Pairs.of(pairs) is pairs


def test_the_same_text_twice_is_one_query_with_two_right_pictures():
    rows = [("/a.png", "a dog"), ("/b.png", "a cat"), ("/c.png", "a dog"), ("/a.png", "a dog")]
    merged = Pairs.of(rows)
    assert (merged.texts, merged.shown) == (("a dog", "a cat"), ((0, 2), (1,)))
    assert len(merged.images) == 3
    apart = Pairs.of(rows, merge=False)
    assert apart.texts == ("a dog", "a cat", "a dog", "a dog")
    assert apart.shown == ((0,), (1,), (2,), (0,))


@pytest.mark.parametrize(
    "row",
    [
        {"path": "/a.png", "caption": "one", "class": 3},
        {"image_path": "/a.png", "text": "one", "label": "3"},
        ["/a.png", ("one",), "3"],
    ],
)
def test_rows_may_be_mappings_with_a_class(row):
    pairs = Pairs.of([row])
    assert (pairs.images, pairs.texts, pairs.classes) == (("/a.png",), ("one",), ("3",))


def test_rows_that_are_no_pair_are_named_and_the_others_stay():
    bad = [
        ("/a.png", ""),
        ("", "a dog"),
        ("/b.png", 7),
        "/c.png",
        ("file://elsewhere/d.png", "a dog"),
    ]
    pairs = Pairs.of([*bad, ("/e.png", "fine")])
    assert pairs.texts == ("fine",)
    assert [str(one.reason) for one in pairs.failed] == [
        "/a.png: it has no caption",
        "no image is named for the caption 'a dog'",
        "/b.png: a caption is a text or a list of texts, got 7",
        "neither (image, caption) nor a row with a `path` and a `caption`: '/c.png'",
        "cannot read image file://elsewhere/d.png: 'file://elsewhere/d.png' is a file of the machine "
        "'elsewhere'; write file:///path",
    ]
    assert {one.status for one in pairs.failed} == {"failed"}
    assert str(pairs) == "pairs: 1 texts, 1 images, 5 rows failed"


def test_no_pair_at_all_is_an_error_that_says_why():
    with pytest.raises(SourceError, match="pairs holds no pair of an image and a text; the first of 1 rows"):
        Pairs.of([("/a.png", "")])
    with pytest.raises(SourceError, match="pairs holds no pair of an image and a text$"):
        Pairs.of([])


@pytest.mark.parametrize("wrong", [7, {"a.png": "a dog"}, b"a"])
def test_what_holds_no_pairs_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"pairs are a list of \(image, caption\), .*; got "):
        Pairs.of(wrong)


def test_a_part_keeps_its_texts_and_renumbers():
    pairs = Pairs.of([("/a.png", ["dog", "both"], "x"), ("/b.png", "cat", "y"), ("/c.png", "both", "z")])
    part = pairs.take([2, 0])
    assert part.images == ("/c.png", "/a.png")
    assert dict(zip(part.texts, part.shown, strict=True)) == {"dog": (1,), "both": (0, 1)}
    assert part.classes == ("z", "x")
    assert part.digest != pairs.digest
    assert pairs.take([0, 1, 2]).digest == pairs.digest
    for wrong in ([3], [-1], [0, 0]):
        with pytest.raises(ConfigError, match="images must be different numbers from 0 to 2, got"):
            pairs.take(wrong)


def test_class_folders_are_classes_and_their_names_texts(here):
    for name in ("grizzly_bear/1.png", "grizzly_bear/deep/2.png", "cat/3.png"):
        paint(here / "classes" / name, "red")
    paint(here / "classes" / "stray.png", "red")
    pairs = read_pairs(here / "classes")
    assert dict(zip(pairs.texts, map(len, pairs.shown), strict=True)) == {
        "a photo of a cat": 1,
        "a photo of a grizzly bear": 2,
    }
    assert sorted(pairs.classes) == ["cat", "grizzly_bear", "grizzly_bear"]
    assert [str(one.reason) for one in pairs.failed] == [
        f"{here}/classes/stray.png: it lies in no class folder"
    ]
    assert "{}" not in read_pairs(here / "classes", template="{}, drawn").texts[0]
    with pytest.raises(SourceError, match="has no class folders, so nothing tells what its images show"):
        read_pairs(here / "classes" / "cat")
    with pytest.raises(ConfigError, match="template must be a text with one {} for the class, got 'dog'"):
        read_pairs(here / "classes", template="dog")


def test_a_table_has_a_caption_column(here):
    (here / "t.csv").write_text(
        "path,caption,class\na.png,2015,x\nb.png,a cat,y\nmissing.png,gone,z\nc.png,,z\n"
    )
    pairs = Pairs.of("t.csv")
    assert pairs.texts == ("2015", "a cat")
    assert pairs.classes == ("x", "y")
    assert [str(one.reason) for one in pairs.failed] == [
        f"cannot read image {here}/missing.png: No such file or directory",
        f"{here}/c.png: it has no caption",
    ]


def test_captions_may_stand_in_several_columns(here):
    (here / "t.csv").write_text("path,caption_en,caption_de,year\na.png,a dog,ein Hund,7\nb.png,a cat,,8\n")
    assert read_pairs("t.csv").texts == ("a dog", "ein Hund", "a cat")
    assert read_pairs("t.csv", captions="caption_de").texts == ("ein Hund",)
    assert read_pairs("t.csv", captions=["caption_de", "year"]).texts == ("ein Hund", "7", "8")


def test_a_table_without_captions_is_an_error_that_lists_its_columns(here):
    (here / "t.csv").write_text("path,year\na.png,7\n")
    with pytest.raises(
        SourceError, match="'t.csv' has no column `caption`, .* its columns are path, year; name one"
    ):
        read_pairs("t.csv")


def test_json_lines_and_parquet_hold_lists_of_captions(here):
    rows = [{"path": "a.png", "captions": ["one", "two"]}, {"path": "b.png", "captions": ["three"]}]
    (here / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), here / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        pairs = read_pairs(name)
        assert (pairs.texts, pairs.shown) == (("one", "two", "three"), ((0,), (0,), (1,)))
        assert pairs.images == (str(here / "a.png"), str(here / "b.png"))


def test_the_captions_of_webdataset_tars_are_read(here):
    (here / "a.json").write_text('{"caption": "in a tar"}')
    with tarfile.open(here / "t.tar", "w") as tar:
        tar.add(here / "a.png", "a.png")
        tar.add(here / "a.json", "a.json")
    pairs = read_pairs(here / "t.tar")
    assert (pairs.images, pairs.texts) == ((f"tar://a.png::{here}/t.tar",), ("in a tar",))


@pytest.mark.parametrize("lines", [False, True])
def test_hugging_faces_caption_json_is_read_as_it_is(here, lines):
    # as run_clip.py and the deep-dive tutorial have it
    rows = [
        {"caption_id": 0, "image_id": 0, "caption": "this is an image of cat.", "image_path": "sub/a.png"},
        {
            "caption_id": 1,
            "image_id": 1,
            "caption": "this is an image of cat.",
            "image_path": str(here / "b.png"),
        },
        {"caption_id": 2, "image_id": 2, "caption": "", "image_path": "c.png"},
    ]
    paint(here / "sub" / "a.png", "red")
    (here / "sub" / "train.json").write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    pairs = read_pairs("sub/train.json")  # from the current folder, as Hugging Face does
    assert pairs.images == (str(here / "sub" / "a.png"), str(here / "b.png"))
    assert pairs.shown == ((0, 1),)
    assert len(pairs.failed) == 1


def test_paths_of_a_caption_json_start_where_it_is_or_where_images_says(here):
    rows = [{"caption": "one", "image_path": "a.png"}]
    (here / "lists").mkdir()
    (here / "lists" / "t.json").write_text(json.dumps(rows))
    assert read_pairs("lists/t.json").images == (str(here / "a.png"),)
    paint(here / "lists" / "a.png", "red")
    assert read_pairs("lists/t.json").images == (str(here / "lists" / "a.png"),)
    assert read_pairs("lists/t.json", images=here).images == (str(here / "a.png"),)


def test_a_json_that_is_no_list_of_captions_is_an_error(here):
    (here / "t.json").write_text("[1")
    with pytest.raises(SourceError, match="cannot read 't.json' as a JSON list of captions: "):
        read_pairs("t.json")
    (here / "t.json").write_text("[1]")
    with pytest.raises(SourceError, match="t.json holds no pair .*a row of t.json is no JSON object: 1"):
        read_pairs("t.json")
    with pytest.raises(SourceError, match="no such folder or file: 'nowhere.csv'"):
        read_pairs("nowhere.csv")
