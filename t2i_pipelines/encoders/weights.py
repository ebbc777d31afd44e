"""Open a model's files, wherever they are, as an encoder."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from t2i_pipelines.encoders.models import SUFFIXES, ModelInfo, find
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.onnx_folder import is_onnx_folder
from t2i_pipelines.encoders.places import Found, Kind, copies
from t2i_pipelines.errors import CheckpointError, MissingExtraError
from t2i_pipelines.types import AUTO, Compute, Encoder, Image, Matrix, Space

logger = logging.getLogger(__name__)


class LoadedEncoder(Encoder, Protocol):
    """An encoder that tells how it is run."""

    @property
    def running(self) -> Compute:
        """What ``auto`` came to."""
        ...

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        ...


def open_path(
    path: str | Path,
    model_name: str,
    info: ModelInfo | None = None,
    compute: Compute = AUTO,
    *,
    kind: Kind | None = None,
    texts: Path | None = None,
    pair: str | None = None,
) -> LoadedEncoder:
    """Return the encoder of a model on disk; weights are read when they are first used.

    :param path: an ONNX folder, a folder with open_clip's or transformers' files, or a checkpoint file.
    :param info: the model that it should be.
    :param kind: which of its files to take, where a folder has both; None prefers ONNX.
    :param texts: the folder of the text tower, where it has one of its own.
    :param pair: open_clip's name of it, where it has no config and ``info`` does not tell: see
        ``formats.read_checkpoint``.
    :raises CheckpointError: If there is nothing, or a model of other sizes.
    :raises MissingExtraError: If it needs torch, and torch is not installed.
    """
    path = Path(path)
    if not os.path.exists(path):  # noqa: PTH110 - Path's raises where a name is too long
        raise CheckpointError(f"no file or folder at {path}")
    if kind != "torch" and path.is_dir() and is_onnx_folder(path):
        scripts = info.scripts if info else ()
        encoder = OnnxEncoder(str(path), model_name, scripts, compute, texts)
        if info is not None and info.dim and encoder.layout.dim != info.dim:
            raise CheckpointError(
                f"{path} is not {info.name}: its embed_dim is {encoder.layout.dim}, not {info.dim}"
            )
        return encoder
    if path.is_file() and path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} is no checkpoint: those end in {', '.join(SUFFIXES)}")
    if find_spec("torch") is None:
        raise MissingExtraError(
            f"{path} is a torch checkpoint, and torch is not installed; run: pip install "
            "'t2i-pipelines[torch]', or export the model where it is: t2i export"
        )
    from t2i_pipelines.encoders.torch_encoder import TorchEncoder

    return TorchEncoder(str(path), model_name, info, compute, pair or (info.pair if info else None))


def open_model(info: ModelInfo, compute: Compute = AUTO) -> LoadedEncoder:
    """Return the encoder of a model of the table or the hub, from its files on this machine or downloaded.

    A copy that lacks a file, is damaged or of another model is passed over, with a warning.

    :raises CheckpointError: If there is no way to the files, or none can be used; says why the first cannot.
    :raises MissingExtraError: If they need what is not installed.
    """
    first: CheckpointError | None = None
    try:
        for found in copies(info, compute=compute):
            try:
                return _open_found(found, info, compute)
            except CheckpointError as err:
                logger.warning("passed over: %s", err)
                first = first or err
    except CheckpointError as err:
        raise (first or err) from err
    assert first is not None
    raise first


def _open_found(found: Found, info: ModelInfo, compute: Compute) -> LoadedEncoder:
    if found.kind == "onnx":
        return open_path(found.path, info.name, info, compute, kind="onnx", texts=found.texts)
    encoder: LoadedEncoder
    if info.image_tower:
        from t2i_pipelines.encoders.two_towers import TextTower, TwoTowers

        image = find(info.image_tower)
        assert image is not None
        encoder = TwoTowers(info.name, HubEncoder(image, compute), TextTower(found.path, info.name, compute))
    else:
        encoder = open_path(found.path, info.name, info, compute, kind="torch")
    encoder.space  # noqa: B018 - loads, which shows damage
    return encoder


class HubEncoder:
    """A model of the table. Its files are looked for, and downloaded, when they are first needed."""

    def __init__(self, info: ModelInfo, compute: Compute = AUTO) -> None:
        self._info = info
        self._compute = compute
        self._lock = threading.Lock()
        self._opened: LoadedEncoder | None = None

    @property
    def opened(self) -> LoadedEncoder:
        """The encoder of the files that were found.

        :raises CheckpointError: If there are none; the next call looks again.
        """
        with self._lock:
            if self._opened is None:
                self._opened = open_model(self._info, self._compute)
            return self._opened

    @property
    def running(self) -> Compute:
        """How the model is run: what ``auto`` came to."""
        return self.opened.running

    @property
    def space(self) -> Space:
        """What the vectors mean."""
        return self.opened.space

    def fit(self, image: Image) -> Image:
        """(H, W, 3) uint8 -> the square that the model sees."""
        return self.opened.fit(image)

    def encode_images(self, images: Sequence[Image]) -> Matrix:
        """N images -> (N, D) float32, not normalised."""
        return self.opened.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """N texts -> (N, D) float32, not normalised."""
        return self.opened.encode_texts(texts)

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        return self.opened.cut(texts)
