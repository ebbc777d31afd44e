"""Which images are right for which texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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

    :ivar pictures: their addresses, absolute, each once.
    :ivar texts: the queries, in the order of the source.
    :ivar shown: for each text the numbers of the images that are right, in order; never empty.
    :ivar classes: the class of each image; None where there are none.
    :ivar failed: rows of the source that are no pair, each with its reason.
    :ivar name: what they were read from.
    :ivar dataset: ``flickr30k`` or ``coco`` where the form of the file tells; else empty.
    :ivar split: the part of that dataset, such as ``test``; else empty.
    """

    pictures: tuple[str, ...]
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
        return f"{self.name}: {len(self.texts):,} texts, {len(self.pictures):,} images{failed}"

    def __repr__(self) -> str:
        return f"<Pairs {self}>"

    def captions(self) -> list[list[str]]:
        """The texts of each image, in the order of the source."""
        told: list[list[str]] = [[] for _ in self.pictures]
        for text, right in zip(self.texts, self.shown, strict=True):
            for number in right:
                told[number].append(text)
        return told

    def rows(self) -> list[tuple[str, str]]:
        """Each image with each of its texts, in the order of the texts."""
        return [
            (self.pictures[number], text)
            for text, right in zip(self.texts, self.shown, strict=True)
            for number in right
        ]

    def take(self, pictures: Sequence[int]) -> Pairs:
        """A part: those images, and the texts that are right for one of them.

        :param pictures: numbers of images; their order is kept.
        :raises ConfigError: If a number is no image's, or comes twice.
        """
        new = {int(number): at for at, number in enumerate(pictures)}
        if len(new) < len(pictures) or not all(0 <= number < len(self.pictures) for number in new):
            last = len(self.pictures) - 1
            raise ConfigError(
                f"images must be different numbers from 0 to {last}, got {list(pictures)!r:.80}"
            )
        kept = [
            (text, tuple(sorted(new[number] for number in right if number in new)))
            for text, right in zip(self.texts, self.shown, strict=True)
        ]
        kept = [(text, right) for text, right in kept if right]
        return replace(
            self,
            pictures=tuple(self.pictures[number] for number in new),
            texts=tuple(text for text, _ in kept),
            shown=tuple(right for _, right in kept),
            classes=None if self.classes is None else tuple(self.classes[number] for number in new),
        )

    @cached_property
    def digest(self) -> str:
        """32 hex digits, the same for the same images and texts in the same order."""
        told = json.dumps([self.pictures, self.texts, self.shown, self.classes])
        return hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def gather(
    rows: Iterable[Row | Outcome], *, merge: bool, name: str, dataset: str = "", split: str = ""
) -> Pairs:
    """Number images and texts. An image that comes again is the same one.

    :raises SourceError: If no row is a pair.
    """
    pictures: dict[str, int] = {}
    kinds: list[str] = []
    texts: list[str] = []
    shown: list[list[int]] = []
    known: dict[str, int] = {}
    failed: list[Outcome] = []
    for row in rows:
        if isinstance(row, Outcome):
            failed.append(row)
            continue
        number = pictures.setdefault(row.path, len(pictures))
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
        tuple(pictures),
        tuple(texts),
        tuple(tuple(sorted(right)) for right in shown),
        tuple(kinds) if all(kinds) else None,
        tuple(failed),
        name,
        dataset,
        split,
    )


def row_of(item: Any) -> Row | Outcome:
    """One item of an iterable: a pair, or why it is none."""
    if isinstance(item, Mapping):
        given, told = _first(item, PATH_COLUMNS), _first(item, TEXT_COLUMNS)
        kind = _first(item, CLASS_COLUMNS)
    elif isinstance(item, (tuple, list)) and len(item) in (2, 3):
        given, told, kind = (*item, None)[:3]
    else:
        return refused("", f"neither (image, caption) nor a row with a `path` and a `caption`: {item!r:.80}")
    return pair(given, told, kind)


def pair(given: Any, told: Any, kind: Any = None) -> Row | Outcome:
    """A row of an image's address and its texts, or why it is none."""
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
    """A row that is no pair."""
    return Outcome(path, path_key(path) if path else "", "failed", Reason(reason, "read"))


def _first(row: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
