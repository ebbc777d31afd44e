"""The models that ``model_name`` knows: ``models.csv``, one row a model, and the spellings of their names.

Sources, by the names that the rows use:

* ``open_clip``: mlfoundations/open_clip, ``docs/openclip_retrieval_results.csv`` at 05e7db4: recall at 1 of
  text-to-image retrieval, Flickr30k (1,000 test photos) and COCO (5,000), in percent.
* ``big_vision``: google-research/big_vision, issue 166, which quotes the SigLIP 2 paper for the same two.
* ``immich``: immich-app/immich, ``docs/docs/features/searching.md`` at 01a09bb: for each language the mean of
  recall at 1, 5 and 10 on Crossmodal-3600, and the MiB and milliseconds of one pass, on an AMD 7800X3D in
  fp32. It leaves out what is below 20.
* dimensions, resolutions, activations and repositories: open_clip 3.3, ``pretrained.py`` and its configs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from t2i_pipelines.errors import ConfigError

LANGUAGE_FLOOR = 50.0
_LANGUAGES = 20
"""Columns of ``models.csv`` before those of languages."""

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
"""Of files with a checkpoint."""
FAST, MEDIUM = 6.0, 30.0
"""Milliseconds of one pass up to which a model counts as ``fast`` and as ``medium``."""
LOCAL = "local-dir:"
PREFIXES = ("hf-hub:", "hf_hub:", LOCAL, "open_clip:")
"""What open_clip and others write before a name."""
PATHS = ("/", "./", "../", "~")
"""What a path begins with, whatever else its name is the same as."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""``org/name`` of the Hugging Face hub."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model.

    :ivar name: what ``model_name`` takes, and what a collection remembers.
    :ivar aliases: further spellings of the name. Case, and which of ``- _ / . : @`` separates words, make no
        difference; each repository is a spelling, too.
    :ivar family: such as ``CLIP``, ``OpenCLIP``, ``SigLIP 2``, ``Chinese-CLIP``; ``t2i`` for the bundled one.
    :ivar dim: length of a vector; 0 where only the model's own files tell it.
    :ivar resolution: side of the square that the model sees, in pixels; 0 likewise.
    :ivar parameters: of both towers, in millions; None where it was not counted.
    :ivar quick_gelu: the activation of towers that are OpenAI's architecture; None where they are not.
    :ivar languages: ISO 639-1 codes: those whose ``recall`` is at least 50, or what its authors state.
    :ivar scripts: writing systems that it learned; empty if it learned from every language of the web.
    :ivar licence: of the weights; empty where it is not known here: see the model's own page.
    :ivar flickr30k: text-to-image R@1 in percent, None where it was not published; likewise ``coco``.
    :ivar source: who published these two.
    :ivar recall: language -> mean of R@1, 5 and 10 on Crossmodal-3600 in percent (``immich``).
    :ivar memory: MiB while it runs (``immich``), both towers in fp32; None where it was not published.
    :ivar ms: one pass on the machine of ``immich``. A model that is not in its list has the figure of
        the listed model of its architecture. It ranks models; your machine has its own milliseconds.
    :ivar onnx: Hugging Face repositories with ONNX towers, best first; ``a/b+c/d`` has one in each.
    :ivar torch: Hugging Face repositories with open_clip's, transformers' or sentence-transformers' files.
    :ivar files: names of the file in ``~/.cache/clip``, where OpenAI's ``clip`` and open_clip keep it.
    :ivar image_tower: the model whose image tower goes with this text tower; empty if it has its own.
    :ivar refused: why the model cannot be used; empty for all that can.
    """

    name: str
    aliases: tuple[str, ...] = ()
    family: str = ""
    dim: int = 0
    resolution: int = 0
    parameters: float | None = None
    quick_gelu: bool | None = None
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    licence: str = ""
    flickr30k: float | None = None
    coco: float | None = None
    source: str = ""
    recall: Mapping[str, float] = field(default_factory=dict)
    memory: float | None = None
    ms: float | None = None
    onnx: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    image_tower: str = ""
    refused: str = ""

    def __post_init__(self) -> None:
        """Make the one mutable field read-only."""
        object.__setattr__(self, "recall", MappingProxyType(dict(self.recall)))

    @property
    def speed(self) -> str:
        """``fast``, ``medium`` or ``slow``, by :attr:`ms`; empty where that is not known."""
        if self.ms is None:
            return ""
        return "fast" if self.ms <= FAST else "medium" if self.ms <= MEDIUM else "slow"

    @property
    def pair(self) -> str | None:
        """open_clip's name of a model that only open_clip can build: architecture and tag."""
        is_pair = self.family and "/" in self.name and self.quick_gelu is None
        return self.name if is_pair else None


@cache
def _table() -> tuple[ModelInfo, ...]:
    text = (files("t2i_pipelines.encoders") / "models.csv").read_text(encoding="utf-8")
    return tuple(_info(row) for row in csv.DictReader(text.splitlines()))


def _info(row: Mapping[str, str]) -> ModelInfo:
    def words(column: str) -> tuple[str, ...]:
        return tuple(row[column].split())

    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    return ModelInfo(
        name=row["name"], aliases=words("aliases"), family=row["family"], dim=int(row["dim"] or 0),
        resolution=int(row["resolution"] or 0), parameters=number("parameters"),
        quick_gelu={"yes": True, "no": False}.get(row["quick_gelu"]), languages=words("languages"),
        scripts=words("scripts"), licence=row["licence"], flickr30k=number("flickr30k"),
        coco=number("coco"), source=row["source"], memory=number("memory"), ms=number("ms"),
        onnx=words("onnx"), torch=words("torch"), files=words("files"), image_tower=row["image_tower"],
        refused=row["refused"],
        recall={column: float(row[column]) for column in list(row)[_LANGUAGES:] if row[column]},
    )  # fmt: skip


@cache
def _spellings() -> Mapping[str, ModelInfo]:
    """Normalised spelling -> model. A repository that two models share is a spelling of the first."""
    found: dict[str, ModelInfo] = {}
    for info in _table():
        for name in (info.name, *info.aliases):
            found[_normalised(name)] = info
    for info in _table():
        repositories = [one for names in (*info.onnx, *info.torch) for one in names.split("+")]
        for name in repositories:
            found.setdefault(_normalised(name), info)
            if name.startswith("immich-app/"):
                found.setdefault(_normalised(name.partition("/")[2]), info)
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def bare(name: str) -> str:
    """Return a name without what open_clip and others write before it, such as ``hf-hub:``.

    What follows ``local-dir:`` is a path.
    """
    rest = next((name[len(one) :] for one in PREFIXES if name.startswith(one)), name)
    return f"./{rest}" if name.startswith(LOCAL) and not rest.startswith(PATHS) else rest


def models() -> tuple[ModelInfo, ...]:
    """Return every model that is known by name and can be used, the bundled one first."""
    return tuple(info for info in _table() if not info.refused)


def find(name: str) -> ModelInfo | None:
    """Return the model of a name, an alias or a repository, refused ones included; None for others.

    A model of the hub that the table does not have is known by its repository alone, ``org/name``, unless
    that looks like a pair of open_clip's with a tag that does not exist. A path is none, however it is named.
    """
    name = bare(str(name))
    if name.startswith(PATHS):
        return None
    if known := _spellings().get(_normalised(name)):
        return known
    if REPOSITORY.fullmatch(name) and _normalised(name.partition("/")[0]) not in _architectures():
        return ModelInfo(name=name, onnx=(name,), torch=(name,))
    return None


@cache
def _architectures() -> frozenset[str]:
    """Return the first halves of open_clip's pairs, normalised."""
    pairs = (name for info in _table() for name in (info.name, *info.aliases) if "/" in name)
    return frozenset(_normalised(pair.partition("/")[0]) for pair in pairs)


def recommend(
    languages: Sequence[str] = ("en",),
    max_ms: float = 20,
    *,
    memory: float | None = None,
    licence: Sequence[str] | None = None,
) -> ModelInfo:
    """Return the model that finds best in the languages that you name, among those within your limits.

    Best is the highest ``recall``, taken for each model in the language it is worst at; models without
    published recall are left out, ``t2i_mini`` among them.

    :param languages: ISO 639-1 codes.
    :param max_ms: the most that ``ModelInfo.ms`` may be. That is another machine's time: give the
        milliseconds of a model that is fast enough for you, or 20 for anything up to ViT-L/14.
    :param memory: the most that ``ModelInfo.memory`` may be, in MiB.
    :param licence: licences that you accept, such as ``["MIT", "Apache-2.0"]``; None accepts any.
    :raises ConfigError: If no model does; the message lists what models can do.
    """
    if isinstance(languages, str) or not languages:
        raise ConfigError(f"languages must be a list of codes such as ['en', 'de'], got {languages!r}")
    if isinstance(licence, str):
        raise ConfigError(f"licence must be a list such as ['MIT', 'Apache-2.0'], got {licence!r}")
    fits = [model for model in models() if set(languages) <= set(model.languages) & set(model.recall)]
    if not fits:
        spoken = sorted({language for model in models() for language in model.recall})
        raise ConfigError(f"no model knows {', '.join(languages)} at once; known are {', '.join(spoken)}")
    if licence is not None:
        accepted = {one.lower() for one in licence}
        found = sorted({model.licence for model in fits})
        fits = [model for model in fits if model.licence.lower() in accepted]
        if not fits:
            raise ConfigError(
                f"licence={list(licence)} is not that of any such model; theirs are {', '.join(found)}"
            )
    if memory is not None:
        smallest = min(fits, key=lambda model: model.memory or 0)
        fits = [model for model in fits if model.memory is not None and model.memory <= memory]
        if not fits:
            raise ConfigError(
                f"memory={memory} MiB is too little; the smallest is {smallest.name}, {smallest.memory:g} MiB"
            )
    fast = [model for model in fits if model.ms is not None and model.ms <= max_ms]
    if not fast:
        fastest = min(fits, key=lambda model: model.ms or 0)
        raise ConfigError(f"max_ms={max_ms} is too little; the fastest is {fastest.name}, {fastest.ms} ms")
    return max(fast, key=lambda model: min(model.recall[language] for language in languages))
