"""Flickr30k and COCO, as their caption files are distributed.

Sources of the forms: Young et al. 2014 (``results_20130124.token``: ``name.jpg#0<TAB>caption``), its copy on
Kaggle (``results.csv``), Karpathy & Fei-Fei 2015 (``dataset_flickr30k.json`` and ``dataset_coco.json``, with
the splits of published tables), ``flickr_annotations_30k.csv`` of the copy on the Hugging Face hub, with the
same splits, and cocodataset.org (``captions_val2017.json``).
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from t2i_pipelines.errors import SourceError
from t2i_pipelines.evaluate.pairs import Row, pair, refused
from t2i_pipelines.types import Outcome

FILES = (
    "dataset_flickr30k.json",
    "flickr_annotations_30k.csv",
    "dataset_coco.json",
    "results_20130124.token",
    "results.csv",
    "captions_val2017.json",
    "captions_val2014.json",
)
"""The usual names, those that tell the split first."""

FOLDERS = (
    ".",
    *("images", "Images"),
    *("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images"),
    *("val2017", "train2017", "val2014", "train2014"),
    *("../val2017", "../train2017", "../val2014", "../train2014"),
    *("..", "../images", "../flickr30k-images", "../flickr30k_images"),
)
"""Where the images are, seen from the file: COCO has ``annotations/`` beside ``val2017/``."""

_KAGGLE = re.compile(r"([^|]+)\|\s*\d+\s*\|?\s*(.*)")
"""One row of Kaggle's file lacks its second bar."""


class Known(NamedTuple):
    """What a file holds.

    :ivar dataset: ``flickr30k`` or ``coco``, or what the file says.
    :ivar split: empty where the file does not tell.
    """

    rows: Iterator[Row | Outcome]
    dataset: str
    split: str = ""


class _Told(NamedTuple):
    """The name of an image in the file, and its captions."""

    name: str
    captions: list[Any]


def file_in(folder: Path) -> Path | None:
    """The caption file in a folder, or in its ``annotations``; None if there is none."""
    places = (folder / below / name for name in FILES for below in ("", "annotations"))
    return next((place for place in places if place.is_file()), None)


def read(path: Path, images: str | os.PathLike[str] | None, split: str) -> Known | None:
    """The pairs of a caption file; None if it is none of these.

    :raises SourceError: If it is one, and has no such split, or its images are not found.
    """
    if not path.is_file():
        return None
    if ".token" in path.name.lower():
        return _placed(_tokens(path), path, images, "flickr30k")
    if path.suffix.lower() == ".csv":
        return _csv(path, images, split)
    if path.suffix.lower() == ".json":
        return _json(path, images, split)
    return None


def _tokens(path: Path) -> Iterator[_Told]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            name, tab, caption = line.rstrip("\n").partition("\t")
            if line.strip():
                yield _Told(name.rpartition("#")[0] if tab else "", [caption if tab else line])


def _csv(path: Path, images: str | os.PathLike[str] | None, split: str) -> Known | None:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        head = lines.readline()
    if "|" in head and "comment" in head:
        return _placed(_bars(path), path, images, "flickr30k")
    columns = {name.strip() for name in head.split(",")}
    if {"raw", "split", "filename"} <= columns:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        chosen = _of_split(
            [(row["split"], _Told(row["filename"], _raw(row["raw"]))) for row in rows], split, path
        )
        return _placed(iter(chosen), path, images, "flickr30k", split)
    return None


def _raw(cell: str) -> list[Any]:
    try:
        captions = json.loads(cell)
    except ValueError:
        return []
    return captions if isinstance(captions, list) else [captions]


def _bars(path: Path) -> Iterator[_Told]:
    with path.open(encoding="utf-8-sig") as lines:
        next(lines)
        for line in lines:
            found = _KAGGLE.fullmatch(line.strip())
            if found:
                yield _Told(found[1].strip(), [found[2]])
            elif line.strip():
                yield _Told("", [line])


def _json(path: Path, images: str | os.PathLike[str] | None, split: str) -> Known | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        return None
    if "annotations" in content:
        return _placed(_coco(content), path, images, "coco", path.stem.removeprefix("captions_"))
    told = [
        (str(one.get("split", "")), _Told(_name(one), [some.get("raw") for some in one.get("sentences", ())]))
        for one in content["images"]
    ]
    return _placed(iter(_of_split(told, split, path)), path, images, str(content.get("dataset", "")), split)


def _name(image: Mapping[str, Any]) -> str:
    return str(Path(str(image.get("filepath", ""))) / str(image.get("filename", "")))


def _coco(content: Mapping[str, Any]) -> Iterator[_Told]:
    names = {one["id"]: str(one.get("file_name", "")) for one in content["images"]}
    for one in content["annotations"]:
        yield _Told(names.get(one.get("image_id"), ""), [one.get("caption")])


def _of_split(told: list[tuple[str, _Told]], split: str, path: Path) -> list[_Told]:
    splits = sorted({of for of, _ in told})
    if split != "all" and split not in splits:
        raise SourceError(
            f"{str(path)!r} has no split {split!r}; it has {', '.join(splits) or 'none'}, or 'all'"
        )
    return [one for of, one in told if split in ("all", of)]


def _placed(
    told: Iterator[_Told],
    path: Path,
    images: str | os.PathLike[str] | None,
    dataset: str,
    split: str = "",
) -> Known:
    """Names to addresses; the first tells which folder it is."""
    seen = list(told)
    first = next((one for one in seen if one.name), None)
    if first is None:
        raise SourceError(f"{str(path)!r} names no image")
    folder = _folder(first.name, path, images)

    def rows() -> Iterator[Row | Outcome]:
        for one in seen:
            if not one.name:
                yield refused("", f"a line of {path} is no image and caption: {str(one.captions[0])!r:.80}")
            else:
                yield pair(str(folder / _inner(one.name, folder)), one.captions)

    return Known(chain(rows()), dataset, split)


def _folder(name: str, path: Path, images: str | os.PathLike[str] | None) -> Path:
    beside = path.parent.absolute()
    places = (
        [Path(images).expanduser().absolute()] if images is not None else [beside / one for one in FOLDERS]
    )
    for place in places:
        if (place / _inner(name, place)).is_file():
            return place
    raise SourceError(
        f"the images of {str(path)!r} are not found: no {name!r} in {', '.join(map(str, places[:3]))}"
        f"{' and the other usual folders' if len(places) > 3 else ''}; name their folder by images="
    )


def _inner(name: str, place: Path) -> str:
    """The name below the folder; a folder ``val2014`` need not hold another of that name."""
    return (
        name if (place / name).exists() else Path(name).name if (place / Path(name).name).exists() else name
    )
