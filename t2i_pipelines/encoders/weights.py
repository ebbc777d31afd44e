"""Find the weights of a model on this machine, or download them from the Hugging Face hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.encoders.models import SUFFIXES, ModelInfo
from t2i_pipelines.encoders.onnx import FILES, OnnxEncoder, read_json
from t2i_pipelines.errors import CheckpointError, MissingExtraError
from t2i_pipelines.types import AUTO, Compute, Encoder, Image, Matrix, Space

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class Place(NamedTuple):
    """Where one form of a model is.

    :ivar repo: repository on the hub.
    :ivar wanted: files that must be there.
    :ivar welcome: files that are taken if they are there.
    """

    repo: str
    wanted: tuple[str, ...]
    welcome: tuple[str, ...]


def places_of(info: ModelInfo, *, torch_only: bool = False) -> list[Place]:
    """Return the forms of a model that can run here, best first: ONNX, then torch where it is installed."""
    places = []
    if info.onnx and not torch_only:
        # towers above 2 GB keep their weights in further files
        more = ("visual/*.onnx.data", "textual/*.onnx.data", f"textual/{_TOKENIZER[1]}")
        places.append(Place(info.onnx, FILES, more))
    if info.torch and find_spec("torch") is not None:
        for weights in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
            places.append(Place(info.torch, ("open_clip_config.json", weights), _TOKENIZER))
    return places


def fetch(info: ModelInfo, *, torch_only: bool = False) -> Path:
    """Return a folder with the model's files: from the cache, or downloaded into it.

    :param torch_only: take torch weights although there is an ONNX form.

    :raises CheckpointError: If there is no way to the files; names what was tried, and the ways out.
    """
    import huggingface_hub
    from huggingface_hub import constants

    places = places_of(info, torch_only=torch_only)
    for place in places:
        if isinstance(found := _snapshot(huggingface_hub, place, local_files_only=True), Path):
            return found
    tried = [f"the cache {constants.HF_HUB_CACHE} (no {_or(place.repo for place in places)})"]
    way_out = f"reach {constants.ENDPOINT} once, or a mirror named by HF_ENDPOINT"
    if constants.HF_HUB_OFFLINE:
        tried.append("not the hub, because HF_HUB_OFFLINE is set")
        way_out = "unset HF_HUB_OFFLINE once"
    else:
        for place in places:
            found = _snapshot(huggingface_hub, place, local_files_only=False)
            if isinstance(found, Path):
                return found
            tried.append(f"{constants.ENDPOINT}/{place.repo} ({found})")
    if info.onnx is None and find_spec("torch") is None:
        tried.append("no ONNX form is published, and torch, for the other, is not installed")
    default = ", the default model" if info.name == DEFAULT_MODEL else ""
    raise CheckpointError(
        f"no weights for {info.name!r}{default}. Tried: {'; '.join(dict.fromkeys(tried))}. "
        f"Ways out: {way_out}; or give a file or folder that you have, by checkpoint_path= "
        "(--checkpoint-path); or take the small model that is bundled, by model_name='t2i_mini' "
        "(--model-name t2i_mini)"
    )


def _snapshot(client: Any, place: Place, *, local_files_only: bool) -> Path | str:
    """Return the folder, if all that is wanted is in it; else the reason why not."""
    patterns = [*place.wanted, *place.welcome]
    try:
        folder = Path(
            client.snapshot_download(place.repo, allow_patterns=patterns, local_files_only=local_files_only)
        )
    except Exception as err:  # the client's own errors, its HTTP library's, and the file system's
        return str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
    missing = [name for name in place.wanted if not (folder / name).is_file()]
    return f"has no {', '.join(missing)}" if missing else folder


def _or(names: Iterator[str]) -> str:
    return " or ".join(dict.fromkeys(names)) or "repository is known"


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
    pair: str | None = None,
) -> LoadedEncoder:
    """Return the encoder of a model on disk; weights are read when they are first used.

    :param path: an ONNX folder, a folder with open_clip's or transformers' files, or a checkpoint file.
    :param info: the model that it should be.
    :param pair: open_clip's name of it, where it has no config: see ``formats.read_checkpoint``.
    :raises CheckpointError: If there is nothing, or a model of other sizes.
    :raises MissingExtraError: If it needs torch, and torch is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no file or folder at {path}")
    if any((path / name).is_file() for name in FILES if "/" in name):
        encoder = OnnxEncoder(str(path), model_name, info.scripts if info else (), compute)
        dim = read_json(path / "config.json").get("embed_dim")
        if info is not None and dim != info.dim:
            raise CheckpointError(f"{path} is not {info.name}: its embed_dim is {dim}, not {info.dim}")
        return encoder
    if path.is_file() and path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} is no checkpoint: those end in {', '.join(SUFFIXES)}")
    if find_spec("torch") is None:
        raise MissingExtraError(
            f"{path} is a torch checkpoint, and torch is not installed; run: pip install "
            "'t2i-pipelines[torch]', or export the model where it is: t2i export"
        )
    from t2i_pipelines.encoders.torch_encoder import TorchEncoder

    return TorchEncoder(str(path), model_name, info, compute, pair)


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
                self._opened = open_path(fetch(self._info), self._info.name, self._info, self._compute)
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
