"""Models of the table from the Hugging Face hub, by ``huggingface_hub`` and its own conventions.

``HF_HOME`` (or ``HF_HUB_CACHE``) says where downloads are kept, ``HF_ENDPOINT`` which server is asked,
``HF_TOKEN`` who asks, ``HF_HUB_OFFLINE=1`` that none is asked. What is in the cache is used without asking.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.encoders.models import ModelInfo
from t2i_pipelines.encoders.onnx import FILES
from t2i_pipelines.errors import CheckpointError

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
    """The forms of a model that can run here, best first: ONNX, then torch where it is installed."""
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
    """A folder with the model's files: from the cache, or downloaded into it.

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
    """The folder, if all that is wanted is in it; else the reason why not."""
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
