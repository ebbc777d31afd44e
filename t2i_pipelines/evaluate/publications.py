"""Published retrieval figures, and whether a model gives them here.

Sources, by the names that ``published.csv`` uses:

* ``open_clip``: mlfoundations/open_clip, ``docs/openclip_retrieval_results.csv`` at 89fb801.
* ``big_vision``: google-research/big_vision, issue 166, which quotes the SigLIP 2 paper.

The protocol is theirs: Karpathy's test split, every caption a query of its own. A caption finds if its own
image is among the first k; an image finds if any of its captions is.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from t2i_pipelines.encoders.models import find
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.evaluate.metrics import Metric
from t2i_pipelines.evaluate.pairs import AnyPairs, Pairs
from t2i_pipelines.evaluate.reading import DEFAULT, read_pairs
from t2i_pipelines.evaluate.report import Evaluation, Grid, Tabular
from t2i_pipelines.evaluate.run import evaluate

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.3
"""Points by which two careful measurements of one model may differ: open_clip's table and CLIP_benchmark's
agree within 0.2, and half precision and the resizing of images add some."""


@dataclass(frozen=True)
class Protocol:
    """The pairs that published figures are of.

    :ivar captions: all of them, each a query.
    :ivar file: the file that defines them.
    """

    title: str
    images: int
    captions: int
    file: str


PROTOCOLS = MappingProxyType(
    {
        "flickr30k": Protocol("Flickr30k", 1_000, 5_000, "dataset_flickr30k.json"),
        "coco": Protocol("COCO", 5_000, 25_010, "dataset_coco.json"),
    }
)


@dataclass(frozen=True)
class Published:
    """What was published of a model.

    :ivar model: as the source calls it.
    :ivar percent: (direction, metric) -> per cent.
    :ivar source: ``open_clip`` or ``big_vision``; see :mod:`t2i_pipelines.evaluate.publications`.
    """

    model: str
    dataset: str
    percent: Mapping[tuple[str, str], float]
    source: str


@dataclass(frozen=True)
class Line:
    """One figure, published and measured.

    :ivar published: per cent.
    :ivar difference: points by which it was measured higher.
    """

    direction: str
    published: float
    measured: Metric
    difference: float


@dataclass(frozen=True, repr=False)
class PublishedComparison(Tabular):
    """Published figures beside measured ones. Made by :func:`compare_to_published`.

    :ivar tolerance: points within which they agree.
    """

    published: Published
    evaluation: Evaluation
    tolerance: float = TOLERANCE

    @property
    def lines(self) -> list[Line]:
        """Each published figure."""
        found = []
        for (way, name), percent in self.published.percent.items():
            measured = self.evaluation[way, name]
            found.append(Line(way, percent, measured, 100 * measured.value - percent))
        return found

    @property
    def agrees(self) -> bool:
        """Whether every figure is within the tolerance."""
        return all(abs(line.difference) <= self.tolerance for line in self.lines)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each figure.

        :return: columns ``direction``, ``metric``, ``published``, ``measured``, ``low``, ``high`` (per cent),
            ``difference`` (points) and ``agrees`` (bool). The source is in ``.attrs["source"]``.
        """
        import pandas as pd

        rows = [
            {
                "direction": line.direction,
                "metric": line.measured.name,
                "published": line.published,
                "measured": 100 * line.measured.value,
                "low": 100 * line.measured.low,
                "high": 100 * line.measured.high,
                "difference": line.difference,
                "agrees": abs(line.difference) <= self.tolerance,
            }
            for line in self.lines
        ]
        table = pd.DataFrame(rows)
        table.attrs |= {"source": self.published.source, "model": self.published.model}
        return table

    def as_dict(self) -> dict[str, Any]:
        """Source, tolerance and each figure in per cent, of JSON's types."""
        return {
            "model": self.published.model,
            "dataset": self.published.dataset,
            "source": self.published.source,
            "tolerance": self.tolerance,
            "agrees": self.agrees,
            "figures": self.to_pandas().to_dict("records"),
        }

    @property
    def grid(self) -> Grid:
        """The table as people read it."""
        found = self.to_pandas()
        points = {name: found[name].map("{:.2f}".format) for name in ("published", "measured")}
        table = found.assign(**points, points=found.difference.map("{:+.2f}".format))
        table[""] = found.agrees.map({True: "", False: "differs"})
        table = table.set_index(found.direction + " " + found.metric)[[*points, "points", ""]]
        protocol = PROTOCOLS[self.published.dataset]
        notes = [
            f"published: {self.published.model}, {self.published.source}; {protocol.title}, Karpathy's test "
            "split, every caption a query, any of an image's captions right",
            f"{'agrees' if self.agrees else 'differs'}, at a tolerance of {self.tolerance:g} points",
        ]
        return Grid(f"{self.evaluation.label}, per cent", table, notes)


def published(model_name: str, dataset: str) -> Published:
    """Return what was published of a model on ``flickr30k`` or ``coco``.

    :param model_name: a name or alias of :func:`t2i_pipelines.models`, or the source's own, such as
        ``ViT-B-32/openai``.
    :raises ConfigError: If the dataset is another, or nothing was published; lists of which models there is.
    """
    if dataset not in PROTOCOLS:
        raise ConfigError(f"dataset must be one of {', '.join(PROTOCOLS)}, got {dataset!r}")
    info, table = find(model_name), _table()
    spellings = [model_name, *((info.name, *info.aliases) if info else ())]
    row = next((table[name] for name in spellings if name in table), None)
    if row is None:
        raise ConfigError(f"nothing is published of {model_name!r} here; there is of {', '.join(table)}")
    percent: dict[tuple[str, str], float] = {
        (way, name): float(cell)
        for way in DEFAULT
        for name in ("R@1", "R@5", "R@10")
        if (cell := row[f"{dataset} {way} {name}"])
    }
    return Published(row["model"], dataset, MappingProxyType(percent), row["source"])


def compare_to_published(
    model_name: str,
    dataset: str,
    pairs: AnyPairs | Evaluation | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    tolerance: float = TOLERANCE,
    **settings: Any,
) -> PublishedComparison:
    """Measure a model by the protocol of published figures, and set these beside it.

    :param model_name: whose figures; also the model that is evaluated.
    :param dataset: ``flickr30k`` or ``coco``.
    :param pairs: the test split, its file or folder, or an evaluation of it; None reads the folder of the
        dataset's name, here.
    :param images: the folder of the images, if it is not beside the file.
    :param tolerance: points within which figures agree.
    :param settings: of :func:`evaluate`, such as ``precision``.
    :raises ConfigError: If nothing is published of the model, the pairs are not the protocol's, or not all of
        them could be embedded.
    :raises SourceError: If the files are not found; says which.
    """
    known = published(model_name, dataset)
    if isinstance(pairs, Evaluation):
        found = pairs
        check_protocol(found.pairs, dataset)
    else:
        asked = _split_of(dataset, pairs, images)
        check_protocol(asked, dataset)
        found = evaluate(asked, model_name=model_name, **settings)
    if found.failed:
        raise ConfigError(
            f"{len(found.failed):,} of {found.pairs.name} could not be read or embedded, so the figures are "
            f"not the protocol's; the first: {found.failed[0].reason}"
        )
    if missing := [way for way in DEFAULT if way not in found.directions]:
        raise ConfigError(
            f"published figures need {' and '.join(DEFAULT)}; {', '.join(missing)} was not asked"
        )
    return PublishedComparison(known, found, tolerance)


def check_protocol(pairs: Pairs, dataset: str) -> None:
    """Check that pairs are the split that published figures are of.

    :raises ConfigError: If they are of another dataset or split, or their counts are other ones.
    """
    if dataset not in PROTOCOLS:
        raise ConfigError(f"dataset must be one of {', '.join(PROTOCOLS)}, got {dataset!r}")
    protocol = PROTOCOLS[dataset]
    told = (pairs.dataset or dataset, pairs.split or "test")
    counts = (len(pairs.images), len(pairs.texts))
    alone = all(len(right) == 1 for right in pairs.shown)
    if told == (dataset, "test") and counts == (protocol.images, protocol.captions) and alone:
        return
    got = f"{counts[0]:,} images and {counts[1]:,} queries"
    of = f" of {told[0]} {told[1]}" if told != (dataset, "test") else ""
    merged = "" if alone else ", of which some have several right images"
    raise ConfigError(
        f"{pairs.name} is not what published figures are of: Karpathy's test split of {protocol.title} has "
        f"{protocol.images:,} images and {protocol.captions:,} captions, each a query of its own; got "
        f"{got}{of}{merged}; read {protocol.file} with split='test'"
    )


def _split_of(dataset: str, pairs: AnyPairs | None, images: str | os.PathLike[str] | None) -> Pairs:
    place = dataset if pairs is None else pairs
    if isinstance(place, (str, os.PathLike)):
        file = PROTOCOLS[dataset].file
        if pairs is None and not Path(place).is_dir():
            raise ConfigError(
                f"there is no folder {dataset!r} here; get the images and Karpathy's {file}, and name the "
                "file by pairs= and, if the images lie elsewhere, their folder by images="
            )
        return read_pairs(place, images=images, split="test")
    return Pairs.of(place, merge=False)


@cache
def _table() -> dict[str, dict[str, str]]:
    with (files("t2i_pipelines.evaluate") / "published.csv").open(encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}
