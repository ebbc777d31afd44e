"""List the files that one image and one query pass through: ``python -m tools.walk``.

Both pipelines run once before, so that what happens once a process (imports, the model, the collection) is
not counted. A file is counted if one of its functions is called.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import t2i_pipelines
from t2i_pipelines import build_insert_pipeline, build_search_pipeline

PACKAGE = str(Path(t2i_pipelines.__file__).parent)
IMAGES = Path(__file__).parents[1] / "data" / "photographs"


class Tracer:
    """Collects the files of the package whose functions are called, in the order of the first call.

    It must be installed before the first call of what it traces: threads take it over as they start.
    """

    def __init__(self) -> None:
        self._files: dict[str, None] | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call, while something is traced."""
        file = frame.f_code.co_filename
        if self._files is not None and event == "call" and file.startswith(PACKAGE):
            self._files[file.removeprefix(PACKAGE + "/")] = None

    def walk(self, work: Callable[[], object]) -> list[str]:
        """Return the files that a call passes through."""
        self._files = {}
        work()
        files, self._files = list(self._files), None
        return files


def walks(model_name: str = "t2i_mini") -> dict[str, list[str]]:
    """Return the files of one image in and of one query out."""
    images = sorted(IMAGES.iterdir())
    tracer = Tracer()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings: dict[str, Any] = {"uri": f"{folder}/milvus.db", "model_name": model_name}
            insert, search = build_insert_pipeline(**settings), build_search_pipeline(**settings)
            insert([images[0]]).to_list()
            search("a dog").get()
            found = {
                "one image in": tracer.walk(lambda: insert([images[1]]).to_list()),
                "one query out": tracer.walk(lambda: search("a cat").get()),
            }
            t2i_pipelines.close()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def main() -> None:
    """Print the walks."""
    for name, files in walks().items():
        sys.stdout.write(f"{name}: {len(files)} files\n  {', '.join(files)}\n")


if __name__ == "__main__":
    main()
