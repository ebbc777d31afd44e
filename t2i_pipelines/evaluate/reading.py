"""Pairs from files and folders; which kind it is tells its name and its first line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.evaluate import datasets
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
from t2i_pipelines.types import Outcome, Record

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
        if path.is_dir() and (found := datasets.file_in(path)):
            path = found
        if known := datasets.read(path, images, split):
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
    """Images below class folders; those that lie beside the class folders have no class."""
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
    """A cell's texts; a caption that reads as a number is one all the same."""
    if isinstance(cell, (list, tuple)):
        return [text for one in cell for text in _texts(one)]
    return [] if cell is None else [str(cell)]


def _listed(path: Path) -> list[Any] | None:
    """The rows of a JSON list, or of JSON lines, that say ``image_path``; None of another file."""
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
