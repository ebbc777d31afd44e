"""Import this before ``open_clip``, ``timm`` or ``transformers``: it makes PyPI's torchvision importable.

PyPI's torchvision is built for CUDA's torch. Beside a CPU build its compiled operators (``nms`` and the
like, which CLIP never calls) do not load, and the package then refuses to import at all. Declaring those
operators without a body lets the rest, which is plain Python, come in: its transforms are the real ones.
"""

import importlib
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch


def bring_in() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as err:
        if "torchvision::nms does not exist" not in str(err):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        source = Path(find_spec("torchvision").origin).with_name("_meta_registrations.py").read_text()
        for operator in re.findall(r'(?:"torchvision::|register_meta\(")(\w+)"', source):
            LIBRARY.define(f"{operator}(Tensor boxes) -> Tensor")
        importlib.import_module("torchvision")


LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # what it defines is gone when it is collected
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    bring_in()
