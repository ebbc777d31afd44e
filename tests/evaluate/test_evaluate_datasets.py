"""The caption files of Flickr30k and COCO, in small."""

import csv
import json

import pytest
from conftest import paint

from t2i_pipelines.errors import SourceError
from t2i_pipelines.evaluate import Pairs, read_pairs

ONE, TWO = "1000092795.jpg", "10002456.jpg"
CAPTIONS = {
    ONE: ["Two young guys with shaggy hair look at their hands .", "Two men in green shirts , in a yard ."],
    TWO: ["Several men in hard hats operate a pulley system .", "Two men in green shirts , in a yard ."],
}


@pytest.fixture
def flickr(tmp_path):
    for name in CAPTIONS:
        paint(tmp_path / "flickr30k-images" / name, "red")
    return tmp_path


def as_read(pairs: Pairs) -> list[tuple[str, str]]:
    return [(path.rpartition("/")[2], text) for path, text in pairs.rows()]


ROWS = [(name, text) for name, texts in CAPTIONS.items() for text in texts]


def check(pairs, folder):
    assert as_read(pairs) == ROWS
    assert pairs.images[0] == str(folder / "flickr30k-images" / ONE)
    assert pairs.dataset == "flickr30k"
    # each caption is a query of its own, though two are the same
    assert pairs.shown == ((0,), (0,), (1,), (1,))


def test_the_token_file_is_read(flickr):
    lines = [f"{name}#{at}\t{text}" for name, texts in CAPTIONS.items() for at, text in enumerate(texts)]
    (flickr / "results_20130124.token").write_text("\n".join(lines) + "\n")
    pairs = read_pairs(flickr / "results_20130124.token")
    check(pairs, flickr)
    assert (pairs.split, pairs.name, pairs.failed) == ("", "results_20130124.token", ())
    assert read_pairs(flickr).digest == pairs.digest  # the folder will do


def test_kaggles_results_are_read_with_the_row_that_lacks_a_bar(flickr):
    lines = [f"{name}| {at}| {text}" for name, texts in CAPTIONS.items() for at, text in enumerate(texts)]
    lines[2] = lines[2].replace("| 0| ", "| 0   ")
    (flickr / "results.csv").write_text(
        "image_name| comment_number| comment\n" + "\n".join(lines) + "\nnothing\n"
    )
    pairs = read_pairs(flickr / "results.csv")
    check(pairs, flickr)
    assert [str(one.reason) for one in pairs.failed] == [
        f"a line of {flickr}/results.csv is no image and caption: 'nothing\\n'"
    ]


def karpathy(dataset: str, **folders: str) -> dict:
    def image(name: str, split: str) -> dict:
        sentences = [
            {"raw": text, "tokens": text.lower().split()} for text in CAPTIONS.get(name, ["a train"])
        ]
        return {"filename": name, "split": split, "sentences": sentences, "imgid": 1, **folders}

    return {"dataset": dataset, "images": [image("3.jpg", "train"), image(ONE, "test"), image(TWO, "test")]}


def test_karpathys_file_gives_the_split_that_is_asked_for(flickr):
    (flickr / "dataset_flickr30k.json").write_text(json.dumps(karpathy("flickr30k")))
    pairs = read_pairs(flickr)
    check(pairs, flickr)
    assert pairs.split == "test"
    paint(flickr / "flickr30k-images" / "3.jpg", "red")
    assert as_read(read_pairs(flickr, split="train")) == [("3.jpg", "a train")]
    assert len(read_pairs(flickr, split="all")) == 5
    with pytest.raises(
        SourceError, match="dataset_flickr30k.json' has no split 'dev'; it has test, train, or 'all'"
    ):
        read_pairs(flickr, split="dev")


def test_the_hubs_csv_of_flickr30k_gives_the_split(flickr):
    with (flickr / "flickr_annotations_30k.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["raw", "sentids", "split", "filename", "img_id"])
        rows.writerow([json.dumps(["a train"]), "[0]", "train", "3.jpg", 0])
        for name, texts in CAPTIONS.items():
            rows.writerow([json.dumps(texts), "[1, 2]", "test", name, 1])
        rows.writerow(["not a list", "[3]", "test", TWO, 2])
    pairs = read_pairs(flickr / "flickr_annotations_30k.csv")
    check(pairs, flickr)
    assert pairs.split == "test"
    assert [str(one.reason) for one in pairs.failed] == [
        f"{flickr}/flickr30k-images/{TWO}: it has no caption"
    ]


def test_same_captions_can_be_merged_all_the_same(flickr):
    (flickr / "dataset_flickr30k.json").write_text(json.dumps(karpathy("flickr30k")))
    assert read_pairs(flickr, merge=True).shown == ((0,), (0, 1), (1,))
    assert Pairs.of(flickr, merge=True).shown == ((0,), (0, 1), (1,))
    assert Pairs.of(flickr).shown == ((0,), (0,), (1,), (1,))


def test_cocos_own_captions_are_read_beside_their_pictures(tmp_path):
    names = {139: "000000000139.jpg", 285: "000000000285.jpg"}
    for name in names.values():
        paint(tmp_path / "val2017" / name, "red")
    captions = [
        (139, "A woman stands in the dining area ."),
        (285, "A big burly grizzly bear ."),
        (139, "A room ."),
    ]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text(
        json.dumps(
            {
                "info": {"year": 2017},
                "images": [{"id": key, "file_name": name, "height": 1} for key, name in names.items()],
                "annotations": [
                    *(
                        {"image_id": key, "id": at, "caption": text}
                        for at, (key, text) in enumerate(captions)
                    ),
                    {"image_id": 7, "id": 9, "caption": "of no image"},
                ],
            }
        )
    )
    pairs = read_pairs(tmp_path)
    assert as_read(pairs) == [(names[key], text) for key, text in captions]
    assert pairs.images[0] == str(tmp_path / "annotations" / "../val2017" / names[139]).replace(
        "annotations/../", ""
    )
    assert (pairs.dataset, pairs.split) == ("coco", "val2017")
    assert len(pairs.failed) == 1
    assert (
        read_pairs(tmp_path / "annotations/captions_val2017.json", images=tmp_path / "val2017").digest
        == pairs.digest
    )


def test_karpathys_coco_names_the_folder_of_each_picture(tmp_path):
    for name in CAPTIONS:
        paint(tmp_path / "coco" / "val2014" / name, "red")
    (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy("coco", filepath="val2014")))
    pairs = read_pairs(tmp_path / "dataset_coco.json", images=tmp_path / "coco")
    assert pairs.images == tuple(str(tmp_path / "coco" / "val2014" / name) for name in CAPTIONS)
    inside = read_pairs(tmp_path / "dataset_coco.json", images=tmp_path / "coco" / "val2014")
    assert inside.images == pairs.images
    assert (pairs.dataset, pairs.split) == ("coco", "test")


def test_pictures_that_are_not_found_are_an_error_that_says_where_it_looked(tmp_path):
    (tmp_path / "results_20130124.token").write_text(f"{ONE}#0\ta dog\n")
    with pytest.raises(
        SourceError, match=f"no '{ONE}' in {tmp_path}, .* usual folders; name their folder by images="
    ):
        read_pairs(tmp_path)
    with pytest.raises(
        SourceError, match=f"no '{ONE}' in {tmp_path}/elsewhere; name their folder by images="
    ):
        read_pairs(tmp_path, images=tmp_path / "elsewhere")


def test_one_picture_that_is_missing_is_left_for_the_evaluation_to_name(flickr):
    (flickr / "results.token").write_text(f"{ONE}#0\ta dog\ngone.jpg#0\ta cat\n")
    assert [path.rpartition("/")[2] for path in read_pairs(flickr / "results.token").images] == [
        ONE,
        "gone.jpg",
    ]


def test_a_file_that_names_no_picture_is_an_error(tmp_path):
    (tmp_path / "results.token").write_text("no tab\n")
    with pytest.raises(SourceError, match="results.token' names no image"):
        read_pairs(tmp_path / "results.token")
