"""Pairs of images and texts, and the caption files of Flickr30k and COCO.

Sources of the file formats: Young et al. 2014 (``results_20130124.token``: ``name.jpg#0<TAB>caption``), its
copy on Kaggle (``results.csv``), Karpathy & Fei-Fei 2015 (``dataset_flickr30k.json`` and
``dataset_coco.json``, with the splits of published tables), ``flickr_annotations_30k.csv`` of the copy on the
Hugging Face hub, with the same splits, and cocodataset.org (``captions_val2017.json``).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.images import normal, path_key
from t2i_pipelines.types import Outcome, Reason

PATH_COLUMNS = ("path", "url", "image_path", "image")
TEXT_COLUMNS = ("caption", "captions", "text")
CLASS_COLUMNS = ("class", "label")

AnyPairs: TypeAlias = "Pairs | str | os.PathLike[str] | Iterable[Any]"
"""What :meth:`Pairs.of` takes."""


class Row(NamedTuple):
    """An image and its texts, as a source tells it.

    :ivar kind: the class of the image; empty without one.
    """

    path: str
    texts: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Pairs:
    """Which images are right for which texts. Made by :meth:`of` or :func:`read_pairs`.

    :ivar images: their addresses, absolute, each once.
    :ivar texts: the queries, in the order of the source.
    :ivar shown: for each text the numbers of the images that are right, in order; never empty.
    :ivar classes: the class of each image; None where there are none.
    :ivar failed: rows of the source that are no pair, each with its reason.
    :ivar name: what they were read from.
    :ivar dataset: ``flickr30k`` or ``coco`` where the form of the file tells; else empty.
    :ivar split: the part of that dataset, such as ``test``; else empty.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    shown: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...] | None = None
    failed: tuple[Outcome, ...] = ()
    name: str = ""
    dataset: str = ""
    split: str = ""

    @classmethod
    def of(cls, pairs: AnyPairs, *, merge: bool | None = None, name: str = "") -> Pairs:
        """Take pairs in any form.

        :param pairs: pairs, which are given back as they are; what :func:`read_pairs` reads; or an iterable
            of (image, text or list of texts), or of mappings with a ``path`` (``url``, ``image_path``,
            ``image``), a ``caption`` (``captions``, ``text``) and perhaps a ``class`` (``label``).
        :param merge: texts that are the same are one query, and each of their images is right. False lets
            each be a query of its own with its own image. None: merged, but for Flickr30k and COCO, whose
            published figures take each caption for a query of its own.
        :param name: what they are called in reports.
        :raises SourceError: If there is no pair among them.
        :raises ConfigError: If it is something else.
        """
        from t2i_pipelines.evaluate.reading import read_pairs

        if isinstance(pairs, Pairs):
            return pairs
        if isinstance(pairs, (str, os.PathLike)):
            return read_pairs(pairs, merge=merge)
        if isinstance(pairs, (Mapping, bytes)) or not isinstance(pairs, Iterable):
            raise ConfigError(
                f"pairs are a list of (image, caption), a file of captions or a folder of classes; "
                f"got {type(pairs).__name__}"
            )
        return gather(map(row_of, pairs), merge=merge is not False, name=name or "pairs")

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)

    def __str__(self) -> str:
        failed = f", {len(self.failed):,} rows failed" if self.failed else ""
        return f"{self.name}: {len(self.texts):,} texts, {len(self.images):,} images{failed}"

    def __repr__(self) -> str:
        return f"<Pairs {self}>"

    def captions(self) -> list[list[str]]:
        """Return the texts of each image, in the order of the source."""
        told: list[list[str]] = [[] for _ in self.images]
        for text, right in zip(self.texts, self.shown, strict=True):
            for number in right:
                told[number].append(text)
        return told

    def rows(self) -> list[tuple[str, str]]:
        """Return each image with each of its texts, in the order of the texts."""
        return [
            (self.images[number], text)
            for text, right in zip(self.texts, self.shown, strict=True)
            for number in right
        ]

    def take(self, images: Sequence[int]) -> Pairs:
        """Return a part: those images, and the texts that are right for one of them.

        :param images: numbers of images; their order is kept.
        :raises ConfigError: If a number is no image's, or comes twice.
        """
        new = {int(number): at for at, number in enumerate(images)}
        if len(new) < len(images) or not all(0 <= number < len(self.images) for number in new):
            last = len(self.images) - 1
            raise ConfigError(f"images must be different numbers from 0 to {last}, got {list(images)!r:.80}")
        kept = [
            (text, tuple(sorted(new[number] for number in right if number in new)))
            for text, right in zip(self.texts, self.shown, strict=True)
        ]
        kept = [(text, right) for text, right in kept if right]
        return replace(
            self,
            images=tuple(self.images[number] for number in new),
            texts=tuple(text for text, _ in kept),
            shown=tuple(right for _, right in kept),
            classes=None if self.classes is None else tuple(self.classes[number] for number in new),
        )

    @cached_property
    def digest(self) -> str:
        """32 hex digits, the same for the same images and texts in the same order."""
        told = json.dumps([self.images, self.texts, self.shown, self.classes])
        return hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def gather(
    rows: Iterable[Row | Outcome], *, merge: bool, name: str, dataset: str = "", split: str = ""
) -> Pairs:
    """Number images and texts. An image that comes again is the same one.

    :raises SourceError: If no row is a pair.
    """
    images: dict[str, int] = {}
    kinds: list[str] = []
    texts: list[str] = []
    shown: list[list[int]] = []
    known: dict[str, int] = {}
    failed: list[Outcome] = []
    for row in rows:
        if isinstance(row, Outcome):
            failed.append(row)
            continue
        number = images.setdefault(row.path, len(images))
        if number == len(kinds):
            kinds.append(row.kind)
        for text in row.texts:
            at = known.setdefault(text, len(texts)) if merge else len(texts)
            if at == len(texts):
                texts.append(text)
                shown.append([])
            if number not in shown[at]:
                shown[at].append(number)
    if not texts:
        why = f"; the first of {len(failed)} rows that failed: {failed[0].reason}" if failed else ""
        raise SourceError(f"{name} holds no pair of an image and a text{why}")
    return Pairs(
        tuple(images),
        tuple(texts),
        tuple(tuple(sorted(right)) for right in shown),
        tuple(kinds) if all(kinds) else None,
        tuple(failed),
        name,
        dataset,
        split,
    )


def row_of(item: Any) -> Row | Outcome:
    """Return one item of an iterable: a pair, or why it is none."""
    if isinstance(item, Mapping):
        given, told = _first(item, PATH_COLUMNS), _first(item, TEXT_COLUMNS)
        kind = _first(item, CLASS_COLUMNS)
    elif isinstance(item, (tuple, list)) and len(item) in (2, 3):
        given, told, kind = (*item, None)[:3]
    else:
        return refused("", f"neither (image, caption) nor a row with a `path` and a `caption`: {item!r:.80}")
    return pair(given, told, kind)


def pair(given: Any, told: Any, kind: Any = None) -> Row | Outcome:
    """Return a row of an image's address and its texts, or why it is none."""
    if not given or not isinstance(given, (str, os.PathLike)):
        return refused("", f"no image is named for the caption {told!r:.80}")
    try:
        address = normal(given)
    except SourceError as err:
        return refused(os.fspath(given), f"cannot read image {given}: {err}")
    texts = [told] if isinstance(told, str) else told
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return refused(address, f"{address}: a caption is a text or a list of texts, got {told!r:.80}")
    # an empty query cannot be asked
    spoken = [text.strip() for text in texts if text.strip()]
    if not spoken:
        return refused(address, f"{address}: it has no caption")
    return Row(address, spoken, "" if kind is None else str(kind))


def refused(path: str, reason: str) -> Outcome:
    """Return a row that is no pair."""
    return Outcome(path, path_key(path) if path else "", "failed", Reason(reason, "read"))


def _first(row: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


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
    """Return the caption file in a folder, or in its ``annotations``; None if there is none."""
    places = (folder / below / name for name in FILES for below in ("", "annotations"))
    return next((place for place in places if place.is_file()), None)


def read(path: Path, images: str | os.PathLike[str] | None, split: str) -> Known | None:
    """Return the pairs of a caption file; None if it is none of these.

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
    """Return the name below the folder; a folder ``val2014`` need not hold another of that name."""
    return (
        name if (place / name).exists() else Path(name).name if (place / Path(name).name).exists() else name
    )
