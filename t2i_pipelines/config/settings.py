"""The settings that both pipelines share, checked as soon as they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

from PIL import ImageColor

from t2i_pipelines.config.checks import check_known, check_one_of, check_whole_number, templates_of
from t2i_pipelines.config.search import SearchArgs, SearchOptions
from t2i_pipelines.config.storage import Storage, StorageArgs, VectorType
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


class DecodingArgs(TypedDict, total=False):
    """What decoding takes as keyword arguments; :class:`Decoding` says what each means."""

    background: str
    frames: Frames
    truncated: Truncated
    max_pixels: int
    max_bytes: int
    reduce: Reduce
    isolate: bool
    decode_timeout: float
    decode_workers: int | None


class SettingsArgs(DecodingArgs, SearchArgs, StorageArgs, total=False):
    """What the builders take as keyword arguments; :class:`Settings` says what each means."""

    uri: str | Path
    token: str
    collection_name: str
    model_name: str | None
    checkpoint_path: str | Path | None
    device: Device
    precision: Precision
    backend: Backend
    batch_size: int
    templates: str | Sequence[str]
    exclude: Sequence[str]
    on_error: OnError
    refresh: bool
    timeout: float


def option(default: Any, help: str) -> Any:
    """Declare a setting with the help of its command-line option; see :mod:`t2i_pipelines.cli.options`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How files become pixels.

    :ivar background: what shows through transparent parts: a name or ``#rrggbb``.
    :ivar frames: of an animation, the ``first``, the one in the ``middle``, or the ``mean`` of the vectors
        of up to 8 frames, evenly spaced.
    :ivar truncated: ``refuse`` a file that is cut off, or ``accept`` what is there, over
        black in most formats.
    :ivar max_pixels: width times height at most, 1 to 2**40; larger images are refused undecoded.
    :ivar max_bytes: size of a local file at most, 1 to 2**40; larger files are refused unread. A remote file
        and a member of a tar have at most :data:`t2i_pipelines.images.address.MAX_BYTES`.
    :ivar reduce: ``auto`` decodes an image much larger than the model's input at a half, a quarter or an
        eighth of its size (cosine to the exact vector above 0.999); ``never`` computes as the reference.
    :ivar isolate: decode in processes of their own: a file that crashes or hangs its decoder then fails
        alone. Otherwise a crash ends the program, and a file that hangs can only be ended with it. A
        500 x 375 JPEG takes 1.5 to 1.8 times as long to read and fit, a 12-megapixel one up to 1.4 times.
    :ivar decode_timeout: seconds that one file may take when isolated.
    :ivar decode_workers: images decoded at the same time, 1 to 256; None is one a core.
    """

    background: str = option("white", "Colour under transparent parts: a name, or #rrggbb.")
    frames: Frames = option("first", "Of an animation, embed the first frame, the middle, or the mean.")
    truncated: Truncated = option("refuse", "Refuse a damaged or cut off file, or accept what it has.")
    max_pixels: int = option(MAX_PIXELS, "Width times height of an image at most.")
    max_bytes: int = option(MAX_BYTES, "Size of a local file at most, in bytes.")
    reduce: Reduce = option("auto", "Decode large images at 1/2, 1/4 or 1/8: auto or never.")
    isolate: bool = option(False, "Decode in separate processes; a file that crashes or hangs fails alone.")
    decode_timeout: float = option(60.0, "Seconds that one file may take with --isolate.")
    decode_workers: int | None = option(None, "Images decoded at the same time; one a core if absent.")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        for name, kind in (("frames", Frames), ("truncated", Truncated), ("reduce", Reduce)):
            check_one_of(name, getattr(self, name), kind)
        check_whole_number("max_pixels", self.max_pixels, 2**40)
        check_whole_number("max_bytes", self.max_bytes, 2**40)
        if self.decode_workers is not None:
            check_whole_number("decode_workers", self.decode_workers, MAX_DECODE_WORKERS)
        if not isinstance(self.isolate, bool):
            raise ConfigError(f"isolate must be True or False, got {self.isolate!r}")
        if not self.decode_timeout > 0:
            raise ConfigError(f"decode_timeout must be more than 0 seconds, got {self.decode_timeout!r}")
        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except (ValueError, AttributeError, TypeError):
            opaque = False
        if not opaque:
            raise ConfigError(
                f"background must be an opaque colour such as 'white' or '#808080', got {self.background!r}"
            )

    @classmethod
    def of(cls, **settings: Unpack[DecodingArgs]) -> Decoding:
        """Build from keyword arguments.

        :raises ConfigError: If one is unknown; the message lists the known.
        """
        check_known(cls, dict(settings))
        return cls(**settings)


@dataclass(kw_only=True)
class Settings:
    """One set of settings serves both pipelines; each uses its own part.

    :ivar uri: a local file ending in ``.db`` (Milvus Lite), or a server's ``http://host:19530``.
    :ivar token: the server's ``user:password`` or API key.
    :ivar collection_name: letters, digits and underscores.
    :ivar model_name: a known model, or the path of one. Without it, the model of the collection when the
        pipeline is built; of a new collection ``clip_vit_base_patch32``. Of a search ``auto`` is the model of
        the collection at each query.
    :ivar checkpoint_path: the model's file or folder, in place of a download.
    :ivar device: ``auto``, ``cpu`` or ``cuda``.
    :ivar precision: ``auto``, ``fp32``, ``bf16`` or ``int8``; ``auto`` is bf16 where that is fast, else
        fp32. ``int8`` needs a model that :func:`t2i_pipelines.encoders.quantize` has calibrated.
    :ivar backend: ``auto``, ``onnxruntime``, ``openvino`` or ``torch``; ``auto`` takes the fastest installed.
    :ivar batch_size: insert: images a batch, 1 to 4,096.
    :ivar limit: search; with ``offset``, ``filter``, ``where``, ``output_fields``, ``radius``,
        ``range_filter``, ``group_by``, ``collapse``, ``diversity`` and ``min_relevance``, see
        :class:`~t2i_pipelines.config.SearchOptions`.
    :ivar templates: search: texts that each text of a query is put into, whose vectors are averaged:
        ``photo``, or your own with ``{}``; see :mod:`t2i_pipelines.config.checks`.
    :ivar exclude: insert: globs of files and folders that a folder, a glob, a bucket or a tar skips, such as
        ``("drafts", "2019/*")``; see :class:`t2i_pipelines.images.sources.record.Listing`.
    :ivar on_error: insert: ``record`` gives a bad image a row of its own, ``raise`` stops at the first.
    :ivar refresh: insert: read every image again, even where size and time are those that are stored,
        and fetch every URL again. Images whose content is the same are not embedded again.
    :ivar timeout: seconds that one call to Milvus may take.
    :ivar index_type: insert, of a collection that is not there yet; with ``vector_type``, ``mmap``,
        ``partition_key`` and ``replica_number``, see :class:`~t2i_pipelines.config.Storage`.
    :ivar background: insert, and images that are searched for; with ``frames``, ``truncated``,
        ``max_pixels``, ``max_bytes``, ``reduce``, ``isolate``, ``decode_timeout`` and ``decode_workers``, see
        :class:`Decoding`.
    """

    uri: str | Path = "milvus.db"
    token: str = ""
    collection_name: str = "image_collection"
    model_name: str | None = None
    checkpoint_path: str | Path | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    backend: Backend = "auto"
    batch_size: int = 32
    limit: int = SearchOptions.limit
    offset: int = SearchOptions.offset
    filter: str = SearchOptions.filter
    where: Mapping[str, Any] | None = SearchOptions.where
    output_fields: Sequence[str] = SearchOptions.output_fields
    radius: float | None = SearchOptions.radius
    range_filter: float | None = SearchOptions.range_filter
    group_by: str | None = SearchOptions.group_by
    collapse: float | None = SearchOptions.collapse
    diversity: float = SearchOptions.diversity
    min_relevance: float = SearchOptions.min_relevance
    templates: str | Sequence[str] = ()
    exclude: Sequence[str] = ()
    on_error: OnError = "record"
    refresh: bool = False
    timeout: float = 30.0
    index_type: str = Storage.index_type
    vector_type: VectorType = Storage.vector_type
    mmap: bool = Storage.mmap
    partition_key: str | None = Storage.partition_key
    replica_number: int = Storage.replica_number
    background: str = Decoding.background
    frames: Frames = Decoding.frames
    truncated: Truncated = Decoding.truncated
    max_pixels: int = Decoding.max_pixels
    max_bytes: int = Decoding.max_bytes
    reduce: Reduce = Decoding.reduce
    isolate: bool = Decoding.isolate
    decode_timeout: float = Decoding.decode_timeout
    decode_workers: int | None = Decoding.decode_workers

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        check_whole_number("batch_size", self.batch_size, MAX_BATCH_SIZE)
        if isinstance(self.exclude, str) or not all(isinstance(one, str) and one for one in self.exclude):
            raise ConfigError(f"exclude must be a list of globs such as ['drafts'], got {self.exclude!r}")
        if self.on_error not in ("record", "raise"):
            raise ConfigError(f"on_error must be 'record' or 'raise', got {self.on_error!r}")
        for name, kind in (("device", Device), ("precision", Precision), ("backend", Backend)):
            check_one_of(name, getattr(self, name), kind)
        if not isinstance(self.refresh, bool):
            raise ConfigError(f"refresh must be True or False, got {self.refresh!r}")
        templates_of(self.templates)
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be more than 0 seconds, got {self.timeout!r}")
        _ = self.decoding, self.searching, self.storage

    @property
    def decoding(self) -> Decoding:
        """The settings that say how files become pixels."""
        return Decoding(**{one.name: getattr(self, one.name) for one in fields(Decoding)})

    @property
    def searching(self) -> SearchOptions:
        """The settings that say what a search is asked for."""
        return SearchOptions(**{one.name: getattr(self, one.name) for one in fields(SearchOptions)})

    @property
    def storage(self) -> Storage:
        """The settings that say how a collection is stored."""
        return Storage(**{one.name: getattr(self, one.name) for one in fields(Storage)})

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """Build from keyword arguments.

        :raises ConfigError: If one is unknown; the message lists the known.
        """
        check_known(cls, settings)
        return cls(**settings)
