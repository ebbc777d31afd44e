"""The settings that both pipelines share, checked as soon as they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, get_args

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.types import Backend, Device, OnError, Precision

DEFAULT_MODEL = "clip_vit_base_patch32"
MAX_LIMIT = 16384  # Milvus: "topk [20000] is invalid, it should be in range [1, 16384]"
MAX_BATCH_SIZE = 4096


class SettingsArgs(TypedDict, total=False):
    """What the builders take as keyword arguments; :class:`Settings` says what each means."""

    uri: str | Path
    token: str
    collection_name: str
    model_name: str
    checkpoint_path: str | Path | None
    device: Device
    precision: Precision
    backend: Backend
    batch_size: int
    limit: int
    output_fields: Sequence[str]
    filter: str
    on_error: OnError
    refresh: bool
    timeout: float


@dataclass(kw_only=True)
class Settings:
    """One set of settings serves both pipelines; each uses its own part.

    :ivar uri: a local file ending in ``.db`` (Milvus Lite), or a server's ``http://host:19530``.
    :ivar token: the server's ``user:password`` or API key.
    :ivar collection_name: letters, digits and underscores.
    :ivar model_name: a known model; insert and search must name the same.
    :ivar checkpoint_path: a folder with the model's files, in place of those that the name stands for.
    :ivar device: ``auto``, ``cpu`` or ``cuda``.
    :ivar precision: ``auto``, ``fp32``, ``bf16`` or ``int8``; ``auto`` is bf16 where that is fast, else
        fp32. ``int8`` needs a model that :func:`t2i_pipelines.quantize` has calibrated.
    :ivar backend: ``auto``, ``onnxruntime``, ``openvino`` or ``torch``; ``auto`` takes the fastest installed.
    :ivar batch_size: insert: pictures a batch, 1 to 4,096.
    :ivar limit: search: hits a query, 1 to 16,384.
    :ivar output_fields: search: further columns in each hit.
    :ivar filter: search: a Milvus filter expression, for example ``year > 2015``.
    :ivar on_error: insert: ``record`` gives a bad picture a row of its own, ``raise`` stops at the first.
    :ivar refresh: insert: read every picture again, even where size and time are those that are stored,
        and fetch every URL again. Pictures whose content is the same are not embedded again.
    :ivar timeout: seconds that one call to Milvus may take.
    """

    uri: str | Path = "milvus.db"
    token: str = ""
    collection_name: str = "image_collection"
    model_name: str = DEFAULT_MODEL
    checkpoint_path: str | Path | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    backend: Backend = "auto"
    batch_size: int = 32
    limit: int = 10
    output_fields: Sequence[str] = ()
    filter: str = ""
    on_error: OnError = "record"
    refresh: bool = False
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        check_whole_number("batch_size", self.batch_size, MAX_BATCH_SIZE)
        check_whole_number("limit", self.limit, MAX_LIMIT)
        if self.on_error not in ("record", "raise"):
            raise ConfigError(f"on_error must be 'record' or 'raise', got {self.on_error!r}")
        for name, kind in (("device", Device), ("precision", Precision), ("backend", Backend)):
            if (given := getattr(self, name)) not in get_args(kind):
                known = ", ".join(map(repr, get_args(kind)))
                raise ConfigError(f"{name} must be one of {known}, got {given!r}")
        if not isinstance(self.refresh, bool):
            raise ConfigError(f"refresh must be True or False, got {self.refresh!r}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be more than 0 seconds, got {self.timeout!r}")
        if isinstance(self.output_fields, str):
            raise ConfigError(
                f"output_fields must be a list of names, got the string {self.output_fields!r}; "
                f"write [{self.output_fields!r}]"
            )

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """Build from keyword arguments.

        :raises ConfigError: If one is unknown; the message lists the known.
        """
        known = [one.name for one in fields(cls)]
        if unknown := sorted(settings.keys() - set(known)):
            raise ConfigError(f"unknown setting {', '.join(unknown)}; known settings are {', '.join(known)}")
        return cls(**settings)


def check_whole_number(name: str, value: object, highest: int) -> None:
    """Check that a setting is an int from 1 to ``highest``.

    :raises ConfigError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    if not 1 <= value <= highest:
        raise ConfigError(f"{name} must be between 1 and {highest}, got {value}")
