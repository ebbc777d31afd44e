"""Keyword arguments for type checkers and editors. Written by ``make settings``; do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from t2i_pipelines.config.settings import Frames, Reduce, Truncated
from t2i_pipelines.config.storage import VectorType
from t2i_pipelines.config.training import Augment, Train, TrainPrecision
from t2i_pipelines.types import Backend, Device, OnError, Precision


class PlaceArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.Place`."""

    uri: str | Path
    token: str
    collection_name: str
    timeout: float


class ModelArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.Model`."""

    model_name: str | None
    checkpoint_path: str | Path | None
    device: Device
    precision: Precision
    backend: Backend


class SearchArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.SearchOptions`."""

    limit: int
    offset: int
    filter: str
    where: Mapping[str, Any] | None
    output_fields: Sequence[str]
    radius: float | None
    range_filter: float | None
    group_by: str | None
    collapse: float | None
    diversity: float
    min_relevance: float


class AskingArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.Asking`."""

    templates: str | Sequence[str]


class InsertingArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.Inserting`."""

    batch_size: int
    exclude: Sequence[str]
    on_error: OnError
    refresh: bool


class StorageArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.Storage`."""

    index_type: str
    vector_type: VectorType
    mmap: bool
    partition_key: str | None
    replica_number: int


class DecodingArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.Decoding`."""

    background: str
    frames: Frames
    truncated: Truncated
    max_pixels: int
    max_bytes: int
    reduce: Reduce
    isolate: bool
    decode_timeout: float
    decode_workers: int | None


class FinetuneArgs(TypedDict, total=False):
    """Keyword arguments of :class:`~t2i_pipelines.config.FinetuneOptions`."""

    train: Train
    epochs: int
    max_steps: int | None
    batch_size: int
    learning_rate: float | None
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    alpha: float | None
    augment: Augment
    replay_share: float
    validation_share: float
    recall_at: int
    patience: int | None
    eval_steps: int | None
    save_steps: int
    seed: int
    device: Device
    precision: TrainPrecision
    resume: bool
    overwrite: bool
    export: bool


class SettingsArgs(
    PlaceArgs, ModelArgs, SearchArgs, AskingArgs, InsertingArgs, StorageArgs, DecodingArgs, total=False
):
    """Keyword arguments of :class:`~t2i_pipelines.config.Settings`."""
