"""Find the files of a model on this machine, in whatever form it has them, or download them from the hub.

Places, in this order:

1. ``~/.cache/clip``, where OpenAI's ``clip`` and open_clip keep single files;
2. the Hugging Face cache (``HF_HOME``, ``HF_HUB_CACHE``): every snapshot of each repository of the model;
3. the cache of sentence-transformers (``SENTENCE_TRANSFORMERS_HOME``, else ``~/.cache/torch``) and that of
   fastembed (``FASTEMBED_CACHE_PATH``, else the system's temporary folder);
4. the hub, unless ``HF_HUB_OFFLINE`` is set. Only the files of one form are downloaded.

A copy that cannot be opened, such as one that lacks a file, is passed over with a warning.

An ONNX export runs everywhere, and goes before a torch checkpoint in the caches and on the hub.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from t2i_pipelines.config.settings import DEFAULT_MODEL
from t2i_pipelines.encoders.models import ModelInfo
from t2i_pipelines.encoders.onnx_folder import (
    FILES,
    IMAGE_TOWERS,
    ONE_TOWER,
    TEXT_TOWERS,
    TOKENIZER_CONFIG,
    external_files,
)
from t2i_pipelines.errors import CheckpointError, MissingExtraError
from t2i_pipelines.types import AUTO, Compute

logger = logging.getLogger(__name__)

Kind = Literal["onnx", "torch"]
_T = TypeVar("_T")
_OPENCLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TRANSFORMERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OF = re.compile(r"-of-(\d+)\.")
"""How many there are, in the name of one of several files of weights."""
_SMALL = (".json", ".txt", ".model")
_BYTES_A_WEIGHT = 4


class Form(NamedTuple):
    """One form in which a repository has a model.

    :ivar kind: what runs it.
    :ivar files: relative paths of the files that it needs.
    """

    kind: Kind
    files: tuple[str, ...]


class Found(NamedTuple):
    """A model on this machine.

    :ivar path: its file or folder.
    :ivar kind: what runs it.
    :ivar texts: the folder of the text tower, where it has one of its own.
    :ivar files: all files that it needs.
    """

    path: Path
    kind: Kind
    texts: Path | None
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.stat().st_size for file in self.files)


def forms_of(names: Iterable[str]) -> list[Form]:
    """Return the forms in which a model is among files, ONNX first.

    :param names: relative paths of a repository or folder.
    """
    there = set(names)
    small = sorted(name for name in there if "/" not in name and name.endswith(_SMALL))
    found: list[Form] = []
    if set(FILES) <= there:
        more = {f"textual/{TOKENIZER_CONFIG}"} & there
        outside = _external_files([name for name in FILES if name.endswith(".onnx")], there)
        found.append(Form("onnx", (*FILES, *more, *outside)))
    else:
        towers = [_first(there, IMAGE_TOWERS), _first(there, TEXT_TOWERS)]
        if not any(towers):
            towers = [_first(there, (ONE_TOWER,))]
        if all(towers):
            heads = list(filter(None, towers))
            found.append(Form("onnx", (*heads, *_external_files(heads, there), *small)))
    if "open_clip_config.json" in there and (weights := _first(there, _OPENCLIP)):
        found.append(Form("torch", (weights, *small)))
    elif "modules.json" in there:
        nested = sorted(name for name in there if name[:1].isdigit() and "/" in name and not _exported(name))
        found.append(Form("torch", (*_lightest(nested), *_weights(there), *small)))
    elif "config.json" in there and (heavy := _weights(there)):
        found.append(Form("torch", (*heavy, *small)))
    return found


def _first(there: set[str], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in there), None)


def _external_files(towers: Iterable[str], there: set[str]) -> list[str]:
    return sorted({name for tower in towers for name in external_files(tower, there)})


def _exported(name: str) -> bool:
    return "onnx" in name or "openvino" in name


def _weights(there: set[str]) -> tuple[str, ...]:
    """Return transformers' weights at the top of a folder: one file, or an index with its shards."""
    first = _first(there, _TRANSFORMERS)
    if first is None or not first.endswith(".index.json"):
        return (first,) if first else ()
    start, _, kind = first.removesuffix(".index.json").partition(".")
    shards = sorted(one for one in there if one.startswith(f"{start}-") and one.endswith(f".{kind}"))
    of = _OF.search(shards[0]) if shards else None
    is_whole = bool(shards) and (of is None or len(shards) == int(of[1]))  # or a download broke off
    return (first, *shards) if is_whole else ()


def _lightest(names: Sequence[str]) -> list[str]:
    """Leave out other frameworks' weights, and ``pytorch_model.bin`` where there is ``model.safetensors``."""
    safe = {name.removesuffix("model.safetensors") for name in names if name.endswith("model.safetensors")}
    doubled = {f"{folder}pytorch_model.bin" for folder in safe}
    return [name for name in names if name not in doubled and not name.endswith((".h5", ".msgpack", ".ot"))]


def kinds(compute: Compute, *, torch_only: bool = False) -> tuple[Kind, ...]:
    """Return the kinds of files that can be run as asked, installed or not."""
    if torch_only or compute.backend == "torch":
        return ("torch",)
    if compute.backend in ("onnxruntime", "openvino") or compute.precision == "int8":
        return ("onnx",)
    return ("onnx", "torch")


def find_local(info: ModelInfo, wanted: tuple[Kind, ...] = ("onnx", "torch")) -> list[Found]:
    """Return the model's copies on this machine, in the order of the places; weights are not read."""
    found = []
    if "torch" in wanted:
        paths = [clip_cache() / name for name in info.files]
        here = _readable(clip_cache(), lambda: (path for path in paths if path.is_file()))
        found += [Found(path, "torch", None, (path,)) for path in here]
    for names, kind in repositories(info, wanted):
        found += _in_caches(names, kind)
    return found


def _in_caches(names: str, kind: Kind) -> Iterator[Found]:
    """Yield the copies of a repository, or of the pair of repositories that hold a tower each."""
    first, _, second = names.partition("+")
    texts = next((one for one in _of_kind(second, kind)), None) if second else None
    if second and texts is None:
        return
    for folder, form in _of_kind(first, kind):
        files = [folder / name for name in form.files]
        if texts is None:
            if ONE_TOWER not in form.files:  # one tower of two
                yield Found(folder, kind, None, tuple(files))
        else:
            yield Found(folder, kind, texts[0], (*files, *(texts[0] / name for name in texts[1].files)))


def _of_kind(repository: str, kind: Kind) -> Iterator[tuple[Path, Form]]:
    for cache in caches():
        for folder in _readable(cache, partial(_snapshots, cache, repository)):
            names = _readable(folder, partial(_names, folder))
            yield from ((folder, form) for form in forms_of(names) if form.kind == kind)


def _readable(place: Path, search: Callable[[], Iterable[_T]]) -> list[_T]:
    """Return what a search of a place gives; nothing, with a warning, where it may not be read."""
    try:
        return list(search())
    except OSError as err:
        logger.warning("%s is not searched for models: %s", place, err)
        return []


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _snapshots(cache: Path, repository: str) -> Iterator[Path]:
    """Yield the folders of a repository in a cache, the latest first."""
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    if (flat := cache / repository.replace("/", "_")).is_dir():  # as old sentence-transformers kept them
        yield flat
    snapshots = [path for path in (cache / name / "snapshots").glob("*") if path.is_dir()]
    main = cache / name / "refs/main"
    latest = main.read_bytes().strip() if main.is_file() else b""
    yield from sorted(snapshots, key=lambda path: (os.fsencode(path.name) != latest, -path.stat().st_mtime))


def clip_cache() -> Path:
    """Return where OpenAI's ``clip`` and open_clip keep the files that they download."""
    return Path("~/.cache/clip").expanduser()


def caches() -> list[Path]:
    """Return the caches of repositories, in the order in which they are searched."""
    from huggingface_hub import constants

    sentences = os.environ.get("SENTENCE_TRANSFORMERS_HOME") or "~/.cache/torch/sentence_transformers"
    fast = os.environ.get("FASTEMBED_CACHE_PATH") or Path(tempfile.gettempdir()) / "fastembed_cache"
    return [Path(one).expanduser() for one in (constants.HF_HUB_CACHE, sentences, fast)]


def fetch(info: ModelInfo, *, torch_only: bool = False, compute: Compute = AUTO) -> Found:
    """Return the files of a model: the first of :func:`copies`."""
    return next(copies(info, torch_only=torch_only, compute=compute))


def copies(info: ModelInfo, *, torch_only: bool = False, compute: Compute = AUTO) -> Iterator[Found]:
    """Yield the copies of a model that can be run: those of this machine, then one downloaded from the hub.

    :param torch_only: take torch weights although there is an ONNX form.
    :raises CheckpointError: If there is no way to the files; names what was tried, and the ways out.
    :raises MissingExtraError: If they are here, and need what is not installed.
    """
    wanted = kinds(compute, torch_only=torch_only)
    here = find_local(info, wanted)
    has_torch = find_spec("torch") is not None
    runnable = [found for found in here if found.kind == "onnx" or has_torch]
    for found in runnable:
        logger.info("%s is read from %s", info.name, found.path)
        yield found
    if here and not runnable:
        raise MissingExtraError(
            f"{info.name!r} is here, as a torch checkpoint ({here[0].path}), and torch is not installed; "
            f"run: pip install 't2i-pipelines[torch]'{_or_its_onnx_form(info)}"
        )
    yield _download(info, wanted, has_torch)


def _or_its_onnx_form(info: ModelInfo) -> str:
    return f", or download its ONNX form once: hf download {info.onnx[0]}" if info.onnx else ""


def _download(info: ModelInfo, wanted: tuple[Kind, ...], has_torch: bool) -> Found:
    from huggingface_hub import constants

    if not repositories(info, wanted):
        asked, way_out = "an ONNX export", f"`t2i export {info.name} FOLDER` writes one of its checkpoint"
        if wanted == ("torch",):
            asked, way_out = "a torch checkpoint", f"put {' or '.join(info.files)} into {clip_cache()}"
        raise CheckpointError(
            f"{info.name!r} has no repository with {asked}, which is asked for; leave out backend= and "
            f"precision= (--backend, --precision), or give one by checkpoint_path= (--checkpoint-path): "
            f"{way_out}"
        )
    looked = searched(info, wanted)
    if constants.HF_HUB_OFFLINE:
        looked.append("not the hub, because HF_HUB_OFFLINE is set")
        raise _no_weights(info, wanted, looked, "unset HF_HUB_OFFLINE once")
    for names, kind in repositories(info, wanted):
        if kind == "torch" and not has_torch:
            looked.append(f"not {names}, which needs torch: pip install 't2i-pipelines[torch]'")
            continue
        try:
            for repository in names.split("+"):
                _snapshot(repository, kind)
            return next(_in_caches(names, kind))
        except StopIteration:
            looked.append(f"{constants.ENDPOINT}/{names} (it has no form that {kind} runs)")
        except Exception as err:  # the client's own errors, its HTTP library's, and the file system's
            reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
            looked.append(f"{constants.ENDPOINT}/{names} ({reason})")
    way_out = f"reach {constants.ENDPOINT} once, or a mirror named by HF_ENDPOINT"
    raise _no_weights(info, wanted, looked, way_out)


def repositories(info: ModelInfo, wanted: tuple[Kind, ...]) -> list[tuple[str, Kind]]:
    """Return the repositories of a model on the hub and what runs their files, best first."""
    found: list[tuple[str, Kind]] = []
    if "onnx" in wanted:
        found += [(names, "onnx") for names in info.onnx]
    if "torch" in wanted:
        found += [(names, "torch") for names in info.torch]
    return found


def _snapshot(repository: str, kind: Kind) -> None:
    """Download the files of one form of a repository into the cache."""
    import huggingface_hub

    files = _published(repository, kind)
    huggingface_hub.snapshot_download(repository, allow_patterns=list(files))


def _published(repository: str, kind: Kind) -> dict[str, int]:
    """Return the files that one form of a repository on the hub needs, and their bytes.

    :raises CheckpointError: If it has none that runs so; the client's own errors if it cannot be asked.
    """
    from huggingface_hub import HfApi, constants

    found = HfApi(endpoint=constants.ENDPOINT).model_info(repository, files_metadata=True)
    sizes = {one.rfilename: one.size or 0 for one in found.siblings or ()}
    form = next((one for one in forms_of(sizes) if one.kind == kind), None)
    if form is None:
        raise CheckpointError(f"it has no form that {kind} runs")
    return {name: sizes[name] for name in form.files}


def searched(info: ModelInfo, wanted: tuple[Kind, ...]) -> list[str]:
    """Return the places on this machine where a model is looked for, in words."""
    looked = [f"{clip_cache()} (no {' or '.join(info.files)})"] if info.files and "torch" in wanted else []
    names = [names for names, _ in repositories(info, wanted)]
    cache, *others = caches()
    looked.append(f"the Hugging Face cache {cache} (no {' or '.join(dict.fromkeys(names))})")
    return [*looked, *(f"the cache {one}" for one in others if one.is_dir())]


def _no_weights(
    info: ModelInfo, wanted: tuple[Kind, ...], looked: list[str], way_out: str
) -> CheckpointError:
    default = ", the default model" if info.name == DEFAULT_MODEL else ""
    repository = repositories(info, wanted)[0][0].partition("+")[0]
    return CheckpointError(
        f"no weights for {info.name!r}{default}. Looked in: {'; '.join(dict.fromkeys(looked))}. Ways out: "
        f"{way_out}; or, on a machine with a network, run: hf download {repository} --local-dir clip, copy "
        "the folder clip here and give it by checkpoint_path= (--checkpoint-path); or take the small model "
        "that is bundled, by model_name='t2i_mini' (--model-name t2i_mini)"
    )


class Availability(NamedTuple):
    """Whether a model can be had here; see :func:`check`.

    :ivar name: what a collection remembers.
    :ivar usable: whether it runs as things are.
    :ivar place: path, or repository on the hub; empty where it is in neither.
    :ivar size: bytes, of the files or of what would be downloaded; None where that is not known.
    :ivar needs: what is missing, as a sentence; empty if nothing is.
    """

    name: str
    usable: bool
    place: str
    size: int | None
    needs: str


def check(info: ModelInfo, compute: Compute = AUTO) -> Availability:
    """Return whether a model can be had here, without loading it; asks the hub for sizes unless offline."""
    from huggingface_hub import constants

    wanted, has_torch = kinds(compute), find_spec("torch") is not None
    here = find_local(info, wanted)
    runs = next((one for one in here if one.kind == "onnx" or has_torch), None)
    if runs or here:
        found = runs or here[0]
        needs = "" if runs else f"torch: pip install 't2i-pipelines[torch]'{_or_its_onnx_form(info)}"
        return Availability(info.name, runs is not None, str(found.path), found.size, needs)
    names = [(names, kind) for names, kind in repositories(info, wanted) if kind == "onnx" or has_torch]
    if not names:
        return Availability(info.name, False, "", None, "torch: pip install 't2i-pipelines[torch]'")
    estimate = int(info.parameters * 1e6 * _BYTES_A_WEIGHT) if info.parameters else None
    if constants.HF_HUB_OFFLINE:
        needs = f"a download of {names[0][0]}, and HF_HUB_OFFLINE is set"
        return Availability(info.name, False, "", estimate, needs)
    return _on_hub(info, names, estimate)


def _on_hub(info: ModelInfo, names: list[tuple[str, Kind]], estimate: int | None) -> Availability:
    reason = ""
    for pair, kind in names:
        try:
            size = sum(sum(_published(repository, kind).values()) for repository in pair.split("+"))
        except Exception as err:  # the client's own errors, its HTTP library's, and the file system's
            reason = reason or (str(err).strip().splitlines() or [type(err).__name__])[0]
            continue
        return Availability(info.name, True, pair, size, "a download, by its first use")
    return Availability(info.name, False, "", estimate, f"a download of {names[0][0]}, which fails: {reason}")
