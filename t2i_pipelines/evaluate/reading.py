"""Read pairs from files and folders, by their name and first line, and evaluate one direction of search."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.evaluate import pairs
from t2i_pipelines.evaluate.metrics import DEPTH, Bootstrap, Metric, Ranking, in_order, judged, rank_units
from t2i_pipelines.evaluate.pairs import (
    CLASS_COLUMNS,
    PATH_COLUMNS,
    TEXT_COLUMNS,
    Pairs,
    Row,
    gather,
    pair,
    refused,
)
from t2i_pipelines.images import records
from t2i_pipelines.images.address import beside, scheme
from t2i_pipelines.types import Matrix, Outcome, Record

TEMPLATE = "a photo of a {}"


def read_pairs(
    source: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    captions: str | Sequence[str] | None = None,
    split: str = "test",
    template: str = TEMPLATE,
    merge: bool | None = None,
) -> Pairs:
    """Read pairs from a file or folder.

    * Flickr30k: ``results_20130124.token``, Kaggle's ``results.csv``, ``flickr_annotations_30k.csv``,
      Karpathy's ``dataset_flickr30k.json``; or the folder with one of these.
    * COCO: ``captions_val2017.json``, Karpathy's ``dataset_coco.json``; or the folder with one of these.
    * Hugging Face's caption JSON, a list or lines, with ``image_path`` and ``caption``.
    * A folder of class folders: the text is the name of the folder, in the template.
    * Anything that :func:`t2i_pipelines.images.records` reads, such as CSV, JSON lines, Parquet, WebDataset
      tars, with a column ``caption``, ``captions`` or ``text``, or columns ``caption_*``; perhaps ``class``.

    :param images: the folder of the images; if left out, one of the usual names beside the file.
    :param captions: the columns of a table that hold texts.
    :param split: of the datasets whose file tells it: ``test``, ``val``, ``train``, or ``all``.
    :param template: a text with ``{}`` for the name of a class folder, whose underscores are spaces.
    :param merge: texts that are the same are one query, and each of their images is right. None: so it is,
        but for Flickr30k and COCO, whose published figures take each caption for a query of its own.
    :raises SourceError: If nothing can be read, or no pair is in it.
    :raises ConfigError: If an option is wrong.
    """
    if template.count("{}") != 1:
        raise ConfigError(f"template must be a text with one {{}} for the class, got {template!r}")
    address = os.fspath(source)
    if not scheme(address):
        path = Path(address).expanduser()
        if path.is_dir() and (found := pairs.file_in(path)):
            path = found
        if known := pairs.read(path, images, split):
            return gather(
                known.rows, merge=bool(merge), name=path.name, dataset=known.dataset, split=known.split
            )
        rows = _rows(path, images, captions, template)
        return gather(rows, merge=merge is not False, name=path.name)
    return gather(_of_table(address, captions), merge=merge is not False, name=address)


def _rows(
    path: Path,
    images: str | os.PathLike[str] | None,
    captions: str | Sequence[str] | None,
    template: str,
) -> Iterable[Row | Outcome]:
    if path.is_dir():
        return _of_folders(path, template)
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") and (listed := _listed(path)) is not None:
        return (_listed_row(path, row, images) for row in listed)
    return _of_table(str(path), captions)


def _of_folders(folder: Path, template: str) -> Iterator[Row | Outcome]:
    """Yield images below class folders; those that lie beside the class folders have no class."""
    classes = [one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
    if not classes:
        raise SourceError(
            f"{str(folder)!r} has no class folders, so nothing tells what its images show; give a "
            "table with the columns `path` and `caption`"
        )
    base = os.path.abspath(folder)  # noqa: PTH100 - links stay as the user named them
    for record in records(folder):
        inner = Path(os.path.relpath(record.path, base)).parts
        if record.status is not None:
            yield record.outcome
        elif len(inner) < 2:
            yield refused(record.path, f"{record.path}: it lies in no class folder")
        else:
            yield Row(record.path, [template.replace("{}", inner[0].replace("_", " "))], inner[0])


def _of_table(address: str, captions: str | Sequence[str] | None) -> Iterator[Row | Outcome]:
    columns = [captions] if isinstance(captions, str) else list(captions or ())
    for record in records(address):
        if record.status is not None:
            yield record.outcome
            continue
        columns = columns or _text_columns(record, address)
        told = [text for column in columns for text in _texts(record.metadata.get(column))]
        kind = next((record.metadata[name] for name in CLASS_COLUMNS if name in record.metadata), None)
        yield pair(record.path, told, kind)


def _text_columns(record: Record, address: str) -> list[str]:
    known = [name for name in TEXT_COLUMNS if name in record.metadata][:1]
    found = known or [name for name in record.metadata if name.startswith("caption_")]
    if not found:
        raise SourceError(
            f"{address!r} has no column `caption`, `captions`, `text` or `caption_*`; its columns are "
            f"{', '.join(['path', *record.metadata])}; name one by captions="
        )
    return found


def _texts(cell: Any) -> list[str]:
    """Return a cell's texts; a caption that reads as a number is one all the same."""
    if isinstance(cell, (list, tuple)):
        return [text for one in cell for text in _texts(one)]
    return [] if cell is None else [str(cell)]


def _listed(path: Path) -> list[Any] | None:
    """Return the rows of a JSON list, or of JSON lines, that say ``image_path``; None of another file."""
    try:
        content = path.read_text(encoding="utf-8-sig")
        rows = (
            json.loads(content)
            if content.lstrip()[:1] == "["
            else [_line(one) for one in content.splitlines() if one.strip()]
        )
    except (OSError, ValueError, RecursionError) as err:
        if path.suffix.lower() == ".json":
            raise SourceError(f"cannot read {str(path)!r} as a JSON list of captions: {err}") from err
        return None
    if path.suffix.lower() == ".json" or any(
        isinstance(row, Mapping) and "image_path" in row for row in rows[:1]
    ):
        return list(rows)
    return None


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # one bad line is one failed row


def _listed_row(path: Path, row: Any, images: str | os.PathLike[str] | None) -> Row | Outcome:
    if not isinstance(row, Mapping):
        return refused("", f"a row of {path} is no JSON object: {row!r:.80}")
    given = next((row[name] for name in PATH_COLUMNS if row.get(name)), None)
    told = next((row[name] for name in TEXT_COLUMNS if row.get(name)), None)
    kind = next((row[name] for name in CLASS_COLUMNS if row.get(name) is not None), None)
    if isinstance(given, str) and images is not None:
        given = beside(str(Path(images) / "_"), given)
    elif isinstance(given, str):
        # Hugging Face starts at the current folder, tables where they are
        near = beside(os.path.abspath(path), given)  # noqa: PTH100 - links stay as the user named them
        given = near if scheme(near) or Path(near).exists() else given
    return pair(given, told, kind)


Way: TypeAlias = Literal["text->image", "image->text", "image->image"]
"""``image->image``: images of one class are right for each other; an image does not look for itself."""

TEXT_TO_IMAGE: Way = "text->image"
DEFAULT: tuple[Way, ...] = (TEXT_TO_IMAGE, "image->text")


@dataclass(frozen=True)
class Embedded:
    """The vectors of what could be embedded.

    :ivar vectors: (M, D) float32 of length 1.
    :ivar numbers: (M,) which of all each is, rising.
    :ivar total: how many there are with those that failed.
    """

    vectors: Matrix
    numbers: NDArray[np.int64]
    total: int

    @classmethod
    def whole(cls, vectors: Matrix) -> Embedded:
        """Nothing failed."""
        return cls(vectors, np.arange(len(vectors)), len(vectors))


@dataclass(frozen=True)
class Direction:
    """One way of asking, with its figures.

    A query that could not be embedded, or whose right ones all failed, counts as a miss: its figures are 0,
    and its rank is one beyond the last.

    :ivar name: ``text->image``, ``image->text`` or ``image->image``.
    :ivar numbers: (Q,) which text or image of the pairs each query is.
    :ivar right: for each query the numbers of what is right.
    :ivar metrics: by name, in the order of :data:`~t2i_pipelines.evaluate.METRICS`.
    :ivar per_query: name -> (Q,) float64: the figure of each query.
    :ivar found: (Q, 10) numbers of the best, best first; -1 where nothing was found.
    :ivar scores: (Q, 10) their cosines.
    :ivar ranks: (Q,) rank of the best right one, from 1.
    :ivar best: (Q,) number of the best right one; -1 where there is none.
    :ivar best_scores: (Q,) its cosine; NaN where there is none.
    """

    name: Way
    numbers: NDArray[np.int64]
    right: Sequence[Sequence[int]]
    metrics: Mapping[str, Metric]
    per_query: Mapping[str, NDArray[np.float64]]
    found: NDArray[np.int64]
    scores: NDArray[np.float64]
    ranks: NDArray[np.int64]
    best: NDArray[np.int64]
    best_scores: NDArray[np.float64]

    def __getitem__(self, name: str) -> Metric:
        """One figure.

        :raises ConfigError: If there is none of this name; lists those that there are.
        """
        if name not in self.metrics:
            raise ConfigError(f"no figure is called {name!r}; there are {', '.join(self.metrics)}")
        return self.metrics[name]

    @property
    def queries(self) -> int:
        """How many queries were asked."""
        return len(self.numbers)


def check_ways(ways: Sequence[str], pairs: Pairs) -> tuple[Way, ...]:
    """Check which ways are asked for.

    :raises ConfigError: If one is unknown, or needs classes that the pairs do not have.
    """
    known = get_args(Way)
    if isinstance(ways, str) or not ways or not set(ways) <= set(known):
        raise ConfigError(f"directions must be some of {', '.join(known)}, got {ways!r}")
    if "image->image" in ways and not _alike(pairs):
        raise ConfigError(
            f"image->image needs classes of two and more images, and {pairs.name} has none; "
            "give class folders, or a column `class`"
        )
    return tuple(way for way in known if way in ways)


def measure(way: Way, pairs: Pairs, texts: Embedded, images: Embedded, bootstrap: Bootstrap) -> Direction:
    """Ask one way, exactly."""
    if way == TEXT_TO_IMAGE:
        return _asked(way, dict(enumerate(pairs.shown)), texts, images, bootstrap)
    if way == "image->text":
        told: dict[int, list[int]] = {number: [] for number in range(len(pairs.images))}
        for text, right in enumerate(pairs.shown):
            for number in right:
                told[number].append(text)
        return _asked(way, {one: some for one, some in told.items() if some}, images, texts, bootstrap)
    return _asked(way, _alike(pairs), images, images, bootstrap)


def _alike(pairs: Pairs) -> dict[int, list[int]]:
    """For each image the others of its class, where there are any."""
    members: dict[str, list[int]] = {}
    for number, kind in enumerate(pairs.classes or ()):
        members.setdefault(kind, []).append(number)
    others = {
        number: [other for other in members[kind] if other != number]
        for number, kind in enumerate(pairs.classes or ())
    }
    return {number: some for number, some in others.items() if some}


def _asked(
    way: Way, wanted: Mapping[int, Sequence[int]], queries: Embedded, gallery: Embedded, bootstrap: Bootstrap
) -> Direction:
    asked = np.array(sorted(wanted))
    right = [wanted[number] for number in asked.tolist()]
    place = {number: at for at, number in enumerate(gallery.numbers.tolist())}
    row = {number: at for at, number in enumerate(queries.numbers.tolist())}
    within = [[place[one] for one in some if one in place] for some in right]
    can = [at for at, number in enumerate(asked.tolist()) if number in row and within[at]]
    searched = [row[int(asked[at])] for at in can]
    blank = _nothing(len(asked), gallery.total + 1)
    if can:
        ranking = rank_units(
            queries.vectors[searched],
            gallery.vectors,
            [within[at] for at in can],
            DEPTH,
            without=np.array(searched) if queries is gallery else None,
        )
        _put(blank, np.array(can), ranking, gallery.numbers)
    is_lost = blank.best < 0
    found = [some[some >= 0].tolist() for some in blank.found]
    values = judged(found, right)
    values["MRR"] = np.where(is_lost, 0.0, 1 / blank.first)
    values["median rank"] = blank.first.astype(np.float64)
    return Direction(
        way,
        asked,
        right,
        MappingProxyType({name: bootstrap.metric(name, some) for name, some in in_order(values).items()}),
        MappingProxyType(in_order(values)),
        blank.found,
        blank.scores,
        blank.first,
        blank.best,
        blank.best_scores,
    )


def _nothing(queries: int, last: int) -> Ranking:
    return Ranking(
        np.full(queries, last),
        np.full((queries, DEPTH), -1),
        np.full((queries, DEPTH), np.nan),
        np.full(queries, -1),
        np.full(queries, np.nan),
    )


def _put(blank: Ranking, rows: NDArray[np.int64], ranking: Ranking, numbers: NDArray[np.int64]) -> None:
    depth = ranking.found.shape[1]
    blank.first[rows] = ranking.first
    blank.found[rows[:, None], np.arange(depth)] = numbers[ranking.found]
    blank.scores[rows[:, None], np.arange(depth)] = ranking.scores
    blank.best[rows] = numbers[ranking.best]
    blank.best_scores[rows] = ranking.best_scores
