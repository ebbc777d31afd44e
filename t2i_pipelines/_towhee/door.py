"""The only door to Towhee. What 1.1.3 gets wrong at import is put right before anyone can meet it.

Importing this module imports ``towhee`` safely:

* without ``pkg_resources`` (setuptools 82 removed it) a stand-in is put in its place;
* the root log handler that ``towhee.utils.log`` adds is taken away again;
* Towhee's habit of running ``pip install`` by itself is switched off;
* a name that is neither registered nor in Towhee's local cache is refused instead of looked up on
  Towhee's hub, which is gone and whose answer Towhee would execute.

``towhee.models.clip`` (extra ``torch``) is reached by :func:`clip_models`, which needs no torchvision.
What goes wrong at run time is cured in :mod:`t2i_pipelines._towhee.hardening`.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import html
import importlib
import importlib.util
import logging
import subprocess
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Coroutine
from logging.handlers import BufferingHandler
from types import ModuleType, UnionType
from typing import Any

from t2i_pipelines.errors import CheckpointError, MissingExtraError, UnknownOperatorError


def _stand_in_for_pkg_resources() -> None:
    """Provide the few names of ``pkg_resources`` that Towhee reads, where setuptools has none."""
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    from importlib.metadata import PackageNotFoundError, distributions

    module = types.ModuleType("pkg_resources", "A stand-in with what Towhee 1.1.3 reads.")
    module.declare_namespace = lambda name: None  # type: ignore[attr-defined]
    module.working_set = [  # type: ignore[attr-defined]
        types.SimpleNamespace(project_name=found.name) for found in distributions()
    ]
    module.DistributionNotFound = PackageNotFoundError  # type: ignore[attr-defined]
    module.VersionConflict = type("VersionConflict", (Exception,), {})  # type: ignore[attr-defined]
    module.require = lambda *requirements: []  # type: ignore[attr-defined]
    module.packaging = importlib.import_module("packaging")  # type: ignore[attr-defined]
    importlib.import_module("packaging.version")
    sys.modules["pkg_resources"] = module


def _import_quietly() -> None:
    """Import Towhee without its warnings about old APIs and without its root log handler."""
    handlers = list(logging.root.handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("towhee")
    for handler in set(logging.root.handlers) - set(handlers):
        logging.root.removeHandler(handler)


def _refuse_to_install(command: object, *_: object, **__: object) -> None:
    raise MissingExtraError(
        f"Towhee wanted to run {command!r}; this library never installs packages at run time: "
        "install what is missing yourself"
    )


def _switch_off_installs() -> None:
    """Close the four places where importing or using Towhee runs ``pip install``."""
    no_subprocess = types.SimpleNamespace(
        check_call=_refuse_to_install, CalledProcessError=subprocess.CalledProcessError
    )
    for name in (
        "towhee.runtime.operator_manager.operator_loader",
        "towhee.hub.repo_manager",
        "towhee.hub.downloader",
        "towhee.utils.dependency_control",
    ):
        importlib.import_module(name).subprocess = no_subprocess  # type: ignore[attr-defined]


_stand_in_for_pkg_resources()
_import_quietly()
_switch_off_installs()

from towhee import AutoConfig, AutoPipes, DataCollection, ops, pipe, register  # noqa: E402
from towhee.datacollection.mixins.display import DisplayMixin  # noqa: E402
from towhee.hub.cache_manager import CacheManager  # noqa: E402
from towhee.operator import NNOperator, SharedType  # noqa: E402
from towhee.runtime import pipeline_loader  # noqa: E402
from towhee.runtime.auto_config import set_config_name  # noqa: E402
from towhee.runtime.auto_pipes import set_pipe_name  # noqa: E402
from towhee.runtime.constants import OPName, OPType  # noqa: E402
from towhee.runtime.data_queue import ColumnType, DataQueue, Empty  # noqa: E402
from towhee.runtime.operator_manager import (  # noqa: E402
    OperatorLoader,
    OperatorPool,
    OperatorRegistry,
)
from towhee.runtime.pipeline import Pipeline  # noqa: E402
from towhee.runtime.runtime_conf import set_runtime_config  # noqa: E402
from towhee.runtime.runtime_pipeline import RuntimePipeline, _Graph  # noqa: E402
from towhee.runtime.time_profiler import TimeProfiler  # noqa: E402
from towhee.types import AudioFrame, VideoFrame  # noqa: E402
from towhee.types import Image as TowheeImage  # noqa: E402

__all__ = [
    "AutoConfig",
    "AutoPipes",
    "ColumnType",
    "DataCollection",
    "DataQueue",
    "Empty",
    "Graph",
    "NNOperator",
    "OPType",
    "OperatorPool",
    "Pipeline",
    "RuntimePipeline",
    "SharedType",
    "TimeProfiler",
    "TowheeImage",
    "build_triton_models",
    "clip_models",
    "known_operator",
    "mend_triton_client",
    "name_dc2",
    "operator_class",
    "ops",
    "pipe",
    "register",
    "register_pipeline",
    "set_runtime_config",
]

Graph = _Graph
Empty()  # the singleton is not safe to create from two threads at once: create it now


def known_operator(name: str) -> Any:
    """Return the class registered under an operator's name, for example ``t2i/clip``.

    None if there is none.
    """
    return OperatorRegistry.resolve(name)


def operator_class(name: str, tag: str = "main") -> Any:
    """Return the class registered under an operator's name.

    None for one in Towhee's local cache, or none at all.

    :raises UnknownOperatorError: If neither provides it.
    """
    found = known_operator(name)
    if found is None and name != OPName.NOP and not _is_cached("op", name, tag):
        raise UnknownOperatorError(_unknown("operator", name))
    return found


def name_dc2() -> None:
    """Let ``from towhee.dc2 import pipe, ops`` work, as Towhee was called in part before 1.1."""
    sys.modules.setdefault("towhee.dc2", sys.modules["towhee"])


def mend_triton_client() -> None:
    """Let ``towhee.triton_client.Client`` run in scripts and in notebooks. Once.

    Towhee's opens its session outside an event loop, which ``aiohttp`` refuses, and waits for answers on the
    loop of the calling thread, which in a notebook is running already.
    """
    towhee = sys.modules["towhee"]
    if not isinstance(towhee.triton_client, _TritonClient):
        towhee.triton_client = _TritonClient(towhee.triton_client)  # type: ignore[attr-defined]


class _TritonClient(ModuleType):
    """The module ``towhee.triton_client``, which needs the extra ``triton`` when it is first used."""

    def __init__(self, theirs: ModuleType) -> None:
        super().__init__(theirs.__name__)
        self._theirs = theirs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python looks for in every module
            raise AttributeError(name)
        needed = ("tritonclient", "aiohttp", "geventhttpclient")
        if any(importlib.util.find_spec(one) is None for one in needed):
            raise MissingExtraError.of("tritonclient[http]", "triton")
        found = getattr(self._theirs, name)
        if name == "Client":
            self.Client = found = _with_its_own_loop(found)
        return found


def _with_its_own_loop(base: Any) -> type:
    class Client(base):  # type: ignore[misc]
        """Towhee's client, on an event loop in a thread of its own."""

        _end = staticmethod(lambda: None)

        def __init__(self, url: str, model_name: str = "pipeline") -> None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(loop,), name="triton-client", daemon=True).start()
            wait = functools.partial(_wait, loop)
            self._loop = types.SimpleNamespace(run_until_complete=wait)
            self._model_name = model_name
            self._client = wait(_open_triton(url))
            self._end = weakref.finalize(self, _close_triton, self._client, loop)

        def close(self) -> None:
            """Close the connection; a second time does nothing."""
            self._end()

    return Client


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, loop).result()


async def _open_triton(url: str) -> Any:
    return importlib.import_module("tritonclient.http.aio").InferenceServerClient(url)


def _close_triton(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    _wait(loop, client.close())
    loop.call_soon_threadsafe(loop.stop)


def _unknown(kind: str, name: str) -> str:
    known = ", ".join(sorted(OperatorRegistry.op_names()))
    return (
        f"no {kind} {name!r} is registered here, and no hub is ever asked for it; "
        f"register it with @towhee.register(name={name!r}); registered are: {known}"
    )


def register_pipeline(name: str, config: type, build: Callable[..., Any]) -> None:
    """Make ``AutoPipes.pipeline(name, config=...)`` and ``AutoConfig.load_config(name)`` work."""
    with set_config_name(name):
        AutoConfig.register(config)
    with set_pipe_name(name):
        AutoPipes.register(build)


def _is_cached(kind: str, name: str, tag: str) -> bool:
    author, _, repo = name.rpartition("/")
    place = getattr(CacheManager(), f"_{kind}_cache_name")
    return bool(place(author or "towhee", repo, tag).is_dir())


def _only_local_operators(load: Callable[..., Any]) -> Callable[..., Any]:
    def load_cached(self: Any, function: str, arg: Any, kws: Any, tag: str, latest: bool) -> Any:
        if latest or not _is_cached("op", function, tag):
            raise UnknownOperatorError(_unknown("operator", function))
        return load(self, function, arg, kws, tag, latest)

    return load_cached


def _only_local_pipelines(load: Callable[..., Any]) -> Callable[..., Any]:
    def load_cached(name: str, tag: str, latest: bool) -> Any:
        if latest or not _is_cached("pipe", name, tag):
            raise UnknownOperatorError(_unknown("pipeline", name))
        return load(name, tag, latest)

    return load_cached


OperatorLoader._load_operator_from_hub = _only_local_operators(OperatorLoader._load_operator_from_hub)
pipeline_loader.get_pipeline = _only_local_pipelines(pipeline_loader.get_pipeline)


def _escaping(show: Callable[..., None]) -> Callable[..., None]:
    """``DataCollection.show``, whose table in a notebook takes every text for HTML otherwise."""

    @functools.wraps(show)
    def show_escaped(self: Any, limit: int = 5, tablefmt: str | None = None) -> None:
        if importlib.util.find_spec("IPython") is not None:  # without it there is no notebook
            table, plain = (
                importlib.import_module(f"towhee.utils.{one}_table") for one in ("html", "console")
            )
            _mend_cells(table, plain._to_plain_cell, TowheeImage | VideoFrame | AudioFrame)
        show(self, limit, tablefmt)

    return show_escaped


DisplayMixin.show = _escaping(DisplayMixin.show)


class _NoTransform:
    """Takes the place of a torchvision class that ``towhee.models.clip`` imports and we never call."""

    BICUBIC = "bicubic"

    def __init__(self, *_: object, **__: object) -> None:
        raise MissingExtraError("torchvision is not installed, and this library does without it")


def _stand_in_for_torchvision() -> dict[str, ModuleType]:
    transforms = types.ModuleType("torchvision.transforms")
    for name in ("Compose", "Resize", "CenterCrop", "ToTensor", "Normalize", "InterpolationMode"):
        setattr(transforms, name, _NoTransform)
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = transforms  # type: ignore[attr-defined]
    return {"torchvision": torchvision, "torchvision.transforms": transforms}


def clip_models() -> ModuleType:
    """``towhee.models.clip``, imported without torchvision and without touching global warning filters.

    :raises MissingExtraError: If torch, towhee.models, ftfy or regex is not installed.
    """
    if "towhee.models.clip" in sys.modules:
        return sys.modules["towhee.models.clip"]
    for package in ("torch", "towhee.models", "ftfy", "regex"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.of(package, "torch")
    # Never the real torchvision: a build of another torch breaks at import, and nothing here needs it.
    hidden = {name: sys.modules.get(name) for name in ("torchvision", "torchvision.transforms")}
    sys.modules.update(_stand_in_for_torchvision())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("towhee.models.clip")
    finally:
        for name, module in hidden.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def build_triton_models(pipeline: RuntimePipeline, root: str) -> None:
    """``towhee.build_pipeline_model`` for Triton: a model for each operator that can be saved as ONNX.

    Needs onnx and dill.

    :raises CheckpointError: If Towhee reports a failure; the message holds its own.
    """
    server: Any = importlib.import_module("towhee.serve.server_builder")
    # no progress bar
    server.TritonModelBuilder.build.__globals__["tqdm"] = lambda **_: types.SimpleNamespace(update=id)
    said, log = BufferingHandler(1000), logging.getLogger("towhee.engine")
    log.addHandler(said)
    try:
        done = server.build_pipeline_model(pipeline, root, ["onnx"], parallelism=1)
    finally:
        log.removeHandler(said)
    if not done:
        raise CheckpointError(f"Towhee cannot write {root}: {said.buffer[0].getMessage().splitlines()[0]}")


def _mend_cells(table: Any, to_plain: Callable[[Any], str], media: UnionType) -> None:
    """Escape texts in the cells of Towhee's tables in notebooks, and show images in their own colours. Once.

    :param table: Towhee's module that makes the tables.
    :param to_plain: a value as text.
    :param media: types that Towhee shows as images and sounds.
    """
    if hasattr(table, "_cell_of_media"):
        return
    table._cell_of_media = table._to_html_td
    draw = table._image_to_html_cell
    table._image_to_html_cell = lambda one, *size: (
        _thumbnail(one) if one.dtype == "uint8" else draw(one, *size)
    )

    def cell(data: Any) -> str:
        first = data[0] if isinstance(data, list | tuple) and data else data
        if isinstance(first, media):
            return str(table._cell_of_media(data))
        as_html = getattr(data, "_repr_html_", None)
        content = as_html() if as_html else html.escape(to_plain(data))
        return f'<td style="text-align: left; vertical-align: top">{content}</td>'

    table._to_html_td = cell


def _thumbnail(image: Any) -> str:
    """In its own colours and proportions, which Towhee's are not, and without its need of matplotlib."""
    cv2 = importlib.import_module("cv2")
    scale = min(1, 128 / image.width, 128 / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = cv2.resize(image.__array__(), size, interpolation=cv2.INTER_AREA)
    is_rgb = image.channel == 3 and image.mode != "BGR"
    _, png = cv2.imencode(".png", small[..., ::-1] if is_rgb else small)
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
