"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "t2i-pipelines",
    "onnxruntime",
    "openvino",
    "torch",
    "transformers",
    "towhee",
    "clip-anytorch",
    "sentence-transformers",
    "open_clip_torch",
    "fastembed",
    "pymilvus",
    "milvus-lite",
    "opencv-python-headless",
    "pillow",
    "numpy",
)
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Instructions that decide how fast float32, bfloat16 and int8 are."""


@dataclass(frozen=True)
class Machine:
    """A computer and the software on it.

    :ivar cores: that this process may use.
    :ivar flags: of :data:`FLAGS`, those that the processor has; empty where this cannot be told.
    """

    processor: str
    cores: int
    flags: tuple[str, ...]
    system: str
    python: str
    packages: dict[str, str]


def machine() -> Machine:
    """The one that this runs on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"flags\s*:\s*(.+)", text)
    has = set(flags[1].split()) if flags else set()
    return Machine(
        processor=name[1] if name else platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        flags=tuple(flag for flag in FLAGS if flag in has),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def bare_interpreter() -> int:
    """Bytes that Python holds with nothing but ``psutil`` imported."""
    code = "import psutil; print(psutil.Process().memory_info().rss)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
