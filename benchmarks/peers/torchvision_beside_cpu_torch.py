"""Makes PyPI's torchvision importable beside a CPU build of torch.

PyPI's torchvision is built for CUDA's torch. Beside a CPU build its compiled operators (``nms`` and the
like, which CLIP never calls) do not load, and the package then refuses to import at all. Declaring those
operators without a body lets the rest, which is plain Python, come in: its transforms are the real ones.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_declared: list[Any] = []  # what is declared is gone when its library is collected


def bring_in() -> None:
    """Import torchvision, by declaring its operators if it does not come in otherwise.

    :raises ModuleNotFoundError: If torch or torchvision is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torchvision")
        except RuntimeError as err:
            if "torchvision::nms does not exist" not in str(err):
                raise
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            _declare()
            importlib.import_module("torchvision")


def _declare() -> None:
    import torch

    found = find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).with_name("_meta_registrations.py").read_text(encoding="utf-8")
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _declared.append(library)
    for operator in re.findall(r'(?:"torchvision::|register_meta\(")(\w+)"', source):
        library.define(f"{operator}(Tensor boxes) -> Tensor")
