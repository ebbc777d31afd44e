"""The only door to Towhee. What 1.1.3 gets wrong is put right here, before anyone can meet it.

Importing this module imports ``towhee`` safely:

* without ``pkg_resources`` (setuptools 82 removed it) a stand-in is put in its place;
* the root log handler that ``towhee.utils.log`` adds is taken away again;
* Towhee's habit of running ``pip install`` by itself is switched off.

``towhee.models.clip`` (extra ``torch``) is reached by :func:`clip_models`, which needs no torchvision.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
import warnings
from types import ModuleType

from t2i_pipelines.errors import MissingExtraError


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


def _refuse_to_install(package: str, *_: object) -> None:
    raise MissingExtraError(
        f"Towhee asked to install {package!r} at run time, which this library never does; "
        f"run: pip install {package}"
    )


_stand_in_for_pkg_resources()
_import_quietly()


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
            raise MissingExtraError(
                f"{package} is not installed; run: pip install 't2i-pipelines[torch]'"
            )
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
