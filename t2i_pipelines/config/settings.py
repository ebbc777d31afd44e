"""The settings of both pipelines, each declared once and checked as soon as it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from PIL import ImageColor

from t2i_pipelines.config.checks import (
    REPEATABLE,
    Checked,
    Cli,
    by_value,
    described,
    flag,
    one_of,
    seconds,
    setting,
    templates_of,
    whole_number,
)
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.config.storage import Storage
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Backend, Device, OnError, Precision

DEFAULT_MODEL = "clip_vit_base_patch32"
MAX_BATCH_SIZE = 4096
MAX_DECODE_WORKERS = 256
MAX_PIXELS = 178_956_970
"""Twice Pillow's ``MAX_IMAGE_PIXELS``: an image of 512 MiB as 24-bit RGB."""
MAX_BYTES = 512 << 20
"""An uncompressed image of ``MAX_PIXELS`` in 24 bits."""

Frames: TypeAlias = Literal["first", "middle", "mean"]
Truncated: TypeAlias = Literal["refuse", "accept"]
Reduce: TypeAlias = Literal["auto", "never"]


def _check_colour(name: str, value: Any) -> None:
    try:
        opaque = len(ImageColor.getrgb(value)) == 3
    except (ValueError, AttributeError, TypeError):
        opaque = False
    if not opaque:
        raise ConfigError(f"{name} must be an opaque colour such as 'white' or '#808080', got {value!r}")


def _check_globs(name: str, value: Any) -> None:
    if isinstance(value, str) or not all(isinstance(one, str) and one for one in value):
        raise ConfigError(f"{name} must be a list of globs such as ['drafts'], got {value!r}")


@dataclass(kw_only=True, unsafe_hash=True)
class Place(Checked):
    """Where the collection is."""

    uri: str | Path = setting(
        "milvus.db",
        "A local file ending in .db, or a Milvus server's ``http://host:19530``. A local file is Milvus "
        "Lite.",
        cli=Cli(kind=str),
    )
    token: str = setting("", "``user:password`` or API key of the server.", cli=Cli(envvar="MILVUS_TOKEN"))
    collection_name: str = setting(
        "image_collection",
        "Collection; insert and search must name the same. Letters, digits and underscores.",
    )
    timeout: float = setting(30.0, "Seconds that one call to Milvus may take.", seconds)


@dataclass(kw_only=True, unsafe_hash=True)
class Model(Checked):
    """Which model, and how it runs."""

    model_name: str | None = setting(
        None,
        f"Name (see `t2i models`) or path. Without it, the model of the collection; of a new collection "
        f"{DEFAULT_MODEL}, downloaded once. t2i_mini is bundled. For a search, ``auto`` follows reembed.",
        cli=Cli(
            help="Name (see `t2i models`) or path. Without it, the model of the collection; of a new "
            f"collection {DEFAULT_MODEL}, downloaded once. t2i_mini is bundled. For a search, auto "
            "follows reembed."
        ),
    )
    checkpoint_path: str | Path | None = setting(
        None, "The model's file or folder, if you have it. In place of a download.", cli=Cli(kind=Path | None)
    )
    device: Device = setting("auto", "auto, cpu or cuda.", one_of(Device))
    precision: Precision = setting(
        "auto",
        "auto, fp32, bf16, fp16 (GPUs), or int8, which `t2i quantize` prepares. ``auto`` is bf16 where that "
        "is fast, else fp32.",
        one_of(Precision),
    )
    backend: Backend = setting(
        "auto",
        "auto, onnxruntime, openvino or torch. ``auto`` takes the fastest installed.",
        one_of(Backend),
    )

    @property
    def lookup(self) -> tuple[Any, Any, Device, Precision, Backend]:
        """The arguments of :func:`t2i_pipelines.encoders.load_encoder`."""
        return self.model_name, self.checkpoint_path, self.device, self.precision, self.backend


@dataclass(kw_only=True, unsafe_hash=True)
class Target(Storage, Model, Place):
    """The collection and the model that the operators of a pipeline share."""

    @property
    def place(self) -> dict[str, Any]:
        """The arguments of :func:`t2i_pipelines.collection.open_collection`."""
        named = {one.name: getattr(self, one.name) for one in fields(Place)}
        return named | self.chosen


@described
@dataclass(kw_only=True, unsafe_hash=True)
class Decoding(Checked):
    """How files become pixels."""

    background: str = setting("white", "Colour under transparent parts: a name, or #rrggbb.", _check_colour)
    frames: Frames = setting(
        "first",
        "Frame of an animation to embed: first, middle, or mean. ``mean`` is that of the vectors of "
        "up to 8 frames, evenly spaced.",
        one_of(Frames),
    )
    truncated: Truncated = setting(
        "refuse",
        "Refuse a damaged or truncated file, or accept its readable part. The rest is black in most formats.",
        one_of(Truncated),
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "Maximum width times height of an image. 1 to 2**40; larger images are refused undecoded.",
        whole_number(2**40),
    )
    max_bytes: int = setting(
        MAX_BYTES,
        "Maximum size of a local file, in bytes. 1 to 2**40; larger files are refused unread. A remote file "
        "and a member of a tar have at most :data:`t2i_pipelines.images.address.MAX_BYTES`.",
        whole_number(2**40),
    )
    reduce: Reduce = setting(
        "auto",
        "Decode large images at 1/2, 1/4 or 1/8: auto or never. Where an image is much larger than the "
        "model's input; the cosine to the exact vector is above 0.999. ``never`` computes as the reference.",
        one_of(Reduce),
    )
    isolate: bool = setting(
        False,
        "Decode in separate processes; a file that crashes or hangs fails alone. Otherwise a crash ends the "
        "program, and a file that hangs can only be ended with it. A 500 x 375 JPEG takes 1.5 to 1.8 times "
        "as long to read and fit, a 12-megapixel one up to 1.4 times.",
        flag,
    )
    decode_timeout: float = setting(
        60.0,
        "Seconds that one file may take with ``isolate``.",
        seconds,
        cli=Cli(help="Seconds that one file may take with --isolate."),
    )
    decode_workers: int | None = setting(
        None,
        "Images decoded at the same time; by default one per core. 1 to 256.",
        whole_number(MAX_DECODE_WORKERS, optional=True),
    )


@dataclass(kw_only=True, unsafe_hash=True)
class Inserting(Checked):
    """What an insert does."""

    batch_size: int = setting(32, "Images per batch. 1 to 4,096.", whole_number(MAX_BATCH_SIZE))
    exclude: Sequence[str] = setting(
        (),
        'Globs of files and folders to skip, such as ``("drafts", "2019/*")``. Of a folder, a glob, a bucket '
        "or a tar; see :class:`t2i_pipelines.images.record.Listing`.",
        _check_globs,
        cli=replace(
            REPEATABLE,
            help="Glob of files or folders to skip, such as 'drafts' or '2019/*'; repeatable.",
        ),
    )
    on_error: OnError = setting(
        "record",
        "``record`` gives a bad image a row of its own, ``raise`` stops at the first.",
        one_of(OnError),
        cli=Cli(
            flags=("--stop-at-error",),
            kind=bool,
            default=False,
            convert=lambda stop: "raise" if stop else "record",
            help="Stop at the first bad image.",
        ),
    )
    refresh: bool = setting(
        False,
        "Read every image and fetch every URL again; contents decide. Images whose content is the same are "
        "not embedded again.",
        flag,
    )


@dataclass(kw_only=True, unsafe_hash=True)
class Asking(Checked):
    """How a text is embedded."""

    templates: str | Sequence[str] = setting(
        (),
        "Templates that each text of a query is inserted into; their vectors are averaged. ``photo``, or "
        "your own with ``{}``; see :mod:`t2i_pipelines.config.checks`.",
        by_value(templates_of),
        cli=replace(
            REPEATABLE, help="Average several phrasings: 'photo', or a text of your own with {}; repeatable."
        ),
    )


@described
@dataclass(kw_only=True)
class Settings(Decoding, Storage, Inserting, Asking, SearchOptions, Model, Place):
    """All settings. One set serves both pipelines; each uses its own part.

    They may be changed, as Towhee's configurations are; the parts are checked again.
    """

    is_frozen: ClassVar[bool] = False

    @property
    def decoding(self) -> Decoding:
        """The settings that say how files become pixels."""
        return replace(self.part(Decoding))

    @property
    def searching(self) -> SearchOptions:
        """The settings that say what a search is asked for."""
        return replace(self.part(SearchOptions))

    @property
    def storage(self) -> Storage:
        """The settings that say how a collection is stored."""
        return replace(self.part(Storage))
